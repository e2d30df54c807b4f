"""What rows do the sources of a recipe give? Each source's as a portion, its mistakes beside all the others'."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from data import chinese_reviews, reviews
from data.loading import Loaded, to_rows
from data.reading.limits import Limits
from data.reading.options import Options
from data.refining import split
from data.schema import SHOWN, DataError, Problem, examples
from pipeline.artifacts.embedded import chinese_archive, reviews_archive
from pipeline.settings.config import CHINESE_REVIEWS, EMBEDDED_REVIEWS, Config, Data, Part

KINDS = ("demonstrations", "rankings", "prompts")
JUDGEMENTS = "judgements"
TAG = "tag"
"""The column that names a row's task in figures, where data.keep has it."""
"""The fourth kind, which few sources give: it has files only where there are any."""
TRAIN, EVAL = "train", "eval"
JUDGE = chinese_reviews.JUDGE
"""The side that no stage learns from, whose judgements are the judge's."""
NO_JUDGEMENT = "no judgement found: these are prompts, and nobody says what a good answer is"
PROMPTS_ALONE = "give rankings or demonstrations as data.source, and prompts as data.prompts"


@dataclass(frozen=True)
class Portion:
    """Rows of one kind from one source.

    `name` tells the source from others, `task` is the tag of its rows in a mixture. `side` is TRAIN or EVAL, None where
    the rows are still to be split. `weight` is what the recipe wants of it in a mixture, None where it is taken whole.
    """

    name: str
    task: str
    kind: str
    rows: list[Any]
    side: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Gathered:
    """The portions, what is to be said of every source, rows set aside (as JSON), and counts by name."""

    portions: list[Portion]
    sources: list[dict[str, Any]]
    rejects: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class _Wanted(NamedTuple):
    """A source under the setting that names it, and the one kind of rows that setting takes, if it takes one alone."""

    setting: str
    part: Part
    kind: str | None


def embedded(config: Config) -> Gathered:
    """An embedded data set, which comes split by review."""
    return chinese(config) if config.data.chinese() else film_reviews(config)


def film_reviews(config: Config) -> Gathered:
    settings = config.data.reviews
    built = reviews.build(
        reviews.load(reviews_archive()),
        k=settings.k,
        tie_gap=settings.tie_gap,
        opening_words=settings.opening_words,
        prompt_words=settings.prompt_words,
        max_words=settings.max_words,
        eval_fraction=config.data.eval_fraction,
        seed=config.seed,
    )
    portions = [
        Portion(EMBEDDED_REVIEWS, EMBEDDED_REVIEWS, kind, in_chat(getattr(built, f"{kind}_{side}"), config.data), side)
        for kind in KINDS
        for side in (TRAIN, EVAL)
    ]
    said = {"source": EMBEDDED_REVIEWS, "format": EMBEDDED_REVIEWS, "kind": ", ".join(KINDS)}
    return Gathered(portions, [said | {"polarity": "a higher mean rating is better"}], counts=dict(built.counts))


def film_texts(config: Config) -> tuple[list[str], list[str]]:
    """(training, held-out) reviews to pretrain on, whole, by the split of `film_reviews`."""
    found = dict.fromkeys(review.text for review in reviews.load(reviews_archive()))
    return split.split_by(found, str, config.data.eval_fraction, config.seed)


def chinese(config: Config) -> Gathered:
    settings = config.data.chinese_reviews
    found, sides = chinese_sides(config)
    rows, counts = chinese_reviews.build(sides, seed=config.seed, **settings.model_dump(exclude={"judge_fraction"}))
    portions = [
        Portion(CHINESE_REVIEWS, CHINESE_REVIEWS, kind, in_chat(made, config.data), side)
        for (kind, side), made in rows.items()
    ]
    said = {"source": CHINESE_REVIEWS, "format": CHINESE_REVIEWS, "kind": ", ".join((*KINDS, JUDGEMENTS))}
    reasons = {name: count for name, count in found.counts.items() if name not in ("lines", "repeats", "reviews")}
    read = {"read": found.counts["lines"], "rejected": 0, "repeats": found.counts["repeats"]}
    left_out = {f"left_out ({reason})": count for reason, count in reasons.items()}
    rejects = [
        {"row": {"text": one.text}, "file": one.file, "line": one.line, "reason": one.reason} for one in found.left_out
    ]
    said |= {"polarity": "a positive review is better than a negative one with the same opening"}
    return Gathered(portions, [said | {"left_out": reasons}], rejects, read | left_out | counts)


def chinese_sides(config: Config) -> tuple[chinese_reviews.Found, dict[str, list[chinese_reviews.Review]]]:
    """The Chinese reviews, and which of them stand on which side: the one split of all stages that read them."""
    found = chinese_reviews.load(chinese_archive())
    fractions = {
        "eval_fraction": config.data.eval_fraction,
        "judge_fraction": config.data.chinese_reviews.judge_fraction,
    }
    return found, chinese_reviews.sides(found.reviews, **fractions, seed=config.seed)


def chinese_texts(config: Config) -> tuple[list[str], list[str]]:
    """(training, held-out) texts to pretrain on: whole reviews, those of the judge in neither."""
    _, sides = chinese_sides(config)
    train, held_out = ([review.text for review in sides[side]] for side in (TRAIN, EVAL))
    return train, held_out


def own(settings: Data) -> Gathered:
    """Everything that the recipe names. Raises DataError with the mistakes of all sources together."""
    wanted = _wanted(settings)
    loaded: list[Loaded] = []
    errors: list[DataError] = []
    for one in wanted:
        try:
            loaded.append(_loaded(one, settings))
        except DataError as error:
            errors.append(error)
    if not errors and all(found.kind == "prompts" for found in loaded):
        errors = [DataError([Problem(settings.parts()[0].source, None, "rows", NO_JUDGEMENT, PROMPTS_ALONE)])]
    if errors or (errors := _absent(settings, loaded)):
        raise together(errors)
    return Gathered(
        with_own_ids([_portion(one, found, settings) for one, found in zip(wanted, loaded, strict=True)]),
        [_account(one, found) for one, found in zip(wanted, loaded, strict=True)],
        [reject.to_json() for found in loaded for reject in found.rejects],
        _counts(loaded),
    )


def _absent(settings: Data, loaded: Sequence[Loaded]) -> list[DataError]:
    """What data.keep names and no row has."""
    there = {name for found in loaded for row in found.rows for name in row.columns or ()}
    wanted = dict.fromkeys((part.source, name) for part in settings.parts() for name in part.keep)
    fix = "write a column's name as the rows have it, or leave it out"
    return [
        DataError([Problem(source, None, "data.keep", f'no row has a column "{name}"', fix)])
        for source, name in wanted
        if name not in there
    ]


def options(part: Part, data: Data) -> Options:
    """How one source is read."""
    said = part.model_dump(exclude={"source", "tag", "weight", "ignore", "keep"})
    limits = Limits(data.max_row_mb, data.max_unpacked_gb, data.max_ratio)
    return Options(**said, ignore=tuple(part.ignore), keep=tuple(part.keep), skip_bad=data.skip_bad, limits=limits)


def together(errors: Sequence[DataError]) -> DataError:
    """One error of many; of each as many mistakes are shown as leave room for the others', the rest is counted."""
    if len(errors) == 1:
        return errors[0]
    each = max(1, SHOWN // len(errors))
    if sum(len(error.problems) for error in errors) <= SHOWN:
        each = SHOWN
    rest, told = Counter[str](), list[Problem]()
    for error in errors:
        shown, others = examples(error.problems, error.uncounted.total())
        told += shown[:each]
        rest += error.uncounted + Counter(problem.kind for problem in [*shown[each:], *others])
    aside = [error.aside for error in errors if error.aside is not None]
    bad, rows = (sum(one[place] for one in aside) for place in (0, 1))
    return DataError(
        told,
        rest,
        (bad, rows) if len(aside) == len(errors) else None,
    )


def with_own_ids(portions: Sequence[Portion]) -> list[Portion]:
    """The portions; an id that stands in several sources of one kind gets its source's name before it in each. Judgements count
    as demonstrations, which the liked ones become."""
    sources: dict[tuple[str, str], set[str]] = {}
    kinds = {portion.kind: portion.kind for portion in portions} | {JUDGEMENTS: "demonstrations"}
    for portion in portions:
        for row in portion.rows:
            sources.setdefault((kinds[portion.kind], row.id), set()).add(portion.name)

    def named(portion: Portion, row: Any) -> Any:
        alone = len(sources[kinds[portion.kind], row.id]) == 1
        return row if alone else replace(row, id=f"{portion.name}: {row.id}")

    return [replace(portion, rows=[named(portion, row) for row in portion.rows]) for portion in portions]


def _wanted(settings: Data) -> list[_Wanted]:
    """The evaluation's prompts first: of equal rows the first stays, and it must not be the one for training."""
    keep = list(dict.fromkeys(name for part in settings.parts() for name in part.keep))
    wanted = [_Wanted("mixture" if settings.mixture else "source", part, None) for part in settings.parts()]
    if settings.demonstrations is not None:
        wanted.append(_Wanted("demonstrations", Part(source=settings.demonstrations), "demonstrations"))
    if settings.prompts is not None:
        wanted.append(_Wanted("prompts", Part(source=settings.prompts, keep=keep), "prompts"))
    if settings.eval_prompts is not None:
        wanted.insert(0, _Wanted("eval_prompts", Part(source=settings.eval_prompts, keep=keep), "prompts"))
    return wanted


def _loaded(one: _Wanted, settings: Data) -> Loaded:
    found = to_rows(one.part.source, options(one.part, settings))
    if one.kind is not None and found.kind not in taken_as(one.kind):
        fix = f"give {one.kind}, or leave the setting out"
        raise DataError([Problem(one.part.source, None, f"data.{one.setting}", f"it holds {found.kind}", fix)])
    return found


def taken_as(kind: str) -> tuple[str, ...]:
    """The kinds of rows that may stand where `kind` is asked for: liked completions are demonstrations."""
    return ("demonstrations", JUDGEMENTS) if kind == "demonstrations" else (kind,)


def in_chat(rows: list[Any], settings: Data) -> list[Any]:
    """With data.chat, prompts that are plain texts as a user's message, so that the chat template frames them as it does talk."""
    if not settings.chat:
        return rows
    return [
        replace(row, prompt=[{"role": "user", "content": row.prompt}]) if isinstance(row.prompt, str) else row
        for row in rows
    ]


def _portion(one: _Wanted, found: Loaded, settings: Data) -> Portion:
    rows = in_chat(found.rows, settings)
    if settings.mixture or TAG in one.part.keep:
        rows = [row if row.tag is not None else replace(row, tag=_task(row, one, settings)) for row in rows]
    name = one.part.name if one.setting in ("source", "mixture") else f"data.{one.setting}"
    side = EVAL if one.setting == "eval_prompts" else None
    return Portion(name, one.part.task, found.kind, rows, side, one.part.weight)


def _task(row: Any, one: _Wanted, settings: Data) -> str | None:
    """The row's own tag where data.keep names that column, else its source's in a mixture."""
    own = (row.columns or {}).get(TAG)
    return str(own) if own not in (None, "") else one.part.task if settings.mixture else None


def _account(one: _Wanted, found: Loaded) -> dict[str, Any]:
    """What the manifest and samples.md say of a source."""
    account = found.account
    said: dict[str, Any] = {"setting": f"data.{one.setting}", "source": one.part.source}
    if one.part.tag is not None:
        said["tag"] = one.part.tag
    said |= {"format": account.format, "kind": account.kind, "polarity": account.polarity}
    said |= {"read": account.read, "kept": account.kept, "unread": dict(account.unread)}
    return said | {"rejected": dict(account.rejected), "left_out": dict(+account.left_out)}


def _counts(loaded: Iterable[Loaded]) -> dict[str, int]:
    counts = Counter({"read": 0, "rejected": 0})
    for found in loaded:
        counts["read"] += found.account.read
        counts["rejected"] += len(found.rejects)
        for reason, count in found.account.left_out.items():
            counts[f"left_out ({reason})"] += count
    return {name: count for name, count in counts.items() if count or name in ("read", "rejected")}
