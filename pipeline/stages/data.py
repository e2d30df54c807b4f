"""Stage data: raw files to validated, cleaned, split and fingerprinted demonstrations, judgements, rankings and prompts.

    python -m pipeline data recipes/film_reviews.yaml

Reads as: gather the rows of all sources, clean them, look at their lengths, split them by prompt, take out of the
training rows what the evaluation asks, derive what is not given, mix, and publish with a gate.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.refining import mixing, split
from data.refining.clean import Steps
from data.schema import DataError, prompt_key
from pipeline.artifacts.files import write_rows, write_text
from pipeline.artifacts.freshness import local_files, parents, sources
from pipeline.artifacts.gate import NONE, Gate, at_least, at_most, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.rows import gather, portions
from pipeline.rows.fitness import CONTRARY, CONTROL, REFUSED, TOO_LONG, SetAside, refuse
from pipeline.rows.gather import EVAL, JUDGE, JUDGEMENTS, KINDS, TRAIN, Gathered, Portion
from pipeline.settings.config import Clean, Config
from pipeline.training import preflight
from pipeline.training.checked import check_rows
from pipeline.training.context import base_model, closing

Files = Mapping[str, list[Any]]
"""Rows by file: demonstrations.train, demonstrations.eval, rankings.train, …"""

SHOWN = 3
REASONS = (CONTROL, CONTRARY, REFUSED, TOO_LONG)
REMOVED = (
    "blank",
    "too_few_ranks",
    "duplicates",
    "near_duplicates",
    "decontaminated",
    "thinned",
    "like_evaluation",
    "with_gold_prompts",
    "all_bad",
)
"""Endings of the counts that the closing line tells where they are not zero. `rankings_all_bad` counts rankings that are learned from,
but whose best answer is none to imitate."""

SOME = at_least(1)
PROMPTS, HELD_OUT_PROMPTS = at_least(100), at_least(50)
HELD_OUT_RANKINGS, SET_ASIDE = at_least(30), at_least(100)
JUDGED = at_least(20)
DECONTAMINATED = at_most(0.1)


def run(config: Config, run: Run) -> Manifest:
    from policies.template import fingerprint
    from policies.tokenizers import load_tokenizer

    for parent in parents("data", config):
        run.require(parent, force=config.force)
    folder = working_folder(run, "data", config)
    tokenizer = load_tokenizer(
        base_model(config, run), config.revision, chat_template_kwargs=config.chat_template_kwargs
    )
    preflight.of_rows(
        config, run, sum(path.stat().st_size for one in sources("data", config) for path in local_files(one))
    )
    gathered = gather.embedded(config) if config.data.embedded() else _own(config, run)
    made, counts, rejects = refined(gathered, tokenizer, config)
    files = ordered(made, bool(config.data.mixture), config.seed)
    check_rows(config, [*files["prompts.train"], *files["prompts.eval"]], "data")
    figures = figures_of(files, made, counts, config)
    if config.data.gold_fraction:
        files, removed = for_gold(files, config)
        counts |= removed
        figures["set_aside"] = len(files["rankings.gold"])
    metrics = {name.replace(".", "_"): float(len(rows)) for name, rows in files.items()}
    metrics |= {name: float(count) for name, count in counts.items()}
    made_in = folder / "made"
    made_in.mkdir(exist_ok=True)
    for name, rows in files.items():
        write_rows(made_in / f"{name}.jsonl", [row.to_json() for row in rows])
    if rejects:
        write_rows(made_in / "rejects.jsonl", rejects)
    write_text(made_in / "samples.md", samples(files, tokenizer, gathered.sources))
    write_rows(made_in / "metrics.jsonl", [metrics])
    return publish(
        run,
        "data",
        config,
        made_in,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model, "revision": config.revision},
        dtype="none",
        metrics=metrics,
        gate=gate(figures),
        data=described(files, counts, gathered, bool(config.data.mixture)),
    )


def _own(config: Config, run: Run) -> gather.Gathered:
    """The user's rows. Raises DataError with all that is wrong with them, and the command that goes on without the bad rows."""
    try:
        return gather.own(config.data)
    except DataError as error:
        error.command = None if run.call is None or not run.call.asked else run.call.again("data.skip_bad=true")
        raise


def summary(manifest: Manifest, run: Run) -> str:
    figures = ["demonstrations_train", "rankings_train", "rankings_gold", "rankings_eval"]
    figures += ["judgements_train", "judgements_eval", "judgements_judge", "prompts_train", "prompts_eval", "rejected"]
    for name, figure in manifest.metrics.items():
        told = name.startswith("left_out") or name.endswith(tuple(f"_{ending}" for ending in REMOVED))
        if figure and (told or name in (*REASONS, "rankings_equal_after_truncation")):
            figures.append(name)
    unread = [f"{name} ({said})" for one in manifest.data["sources"] for name, said in one.get("unread", {}).items()]
    not_read = f"data: not read: {', '.join(unread)}\n" if unread else ""
    return not_read + closing(manifest, run, figures, run.following("sft"))


def refined(
    gathered: Gathered, tokenizer: Any, config: Config
) -> tuple[list[Portion], dict[str, int], list[dict[str, Any]]]:
    """What was gathered, ready for training; counts of all that was changed or removed; rows set aside."""
    settings, counts = config.data, dict(gathered.counts)
    made, aside = gathered.portions, list[SetAside]()
    if not settings.embedded():
        made, aside = portions.without_control_tokens(made, tokenizer, settings)
    made, changed = portions.cleaned(made, steps(settings.clean))
    counts |= changed
    made, contrary = (made, list[SetAside]()) if settings.embedded() else portions.consistent(made)
    made, removed, unfit = portions.fitting(made, tokenizer, settings)
    aside = [*aside, *contrary, *unfit]
    refuse(aside, settings, counts.get("read", 0))
    reasons = Counter(one.reason for one in aside)
    counts |= removed | {
        reason: reasons[reason] for reason in REASONS if reasons[reason] or reason in (REFUSED, TOO_LONG)
    }
    if bad := sum(row.all_bad for portion in made if portion.kind == "rankings" for row in portion.rows):
        counts["rankings_all_bad"] = bad
    if not settings.embedded():  # the embedded reviews come split and complete, and share their openings by design
        made, changed = portions.halved(made, settings, config.seed)
        counts |= changed
        made, changed = portions.decontaminated(portions.completed(made, EVAL), settings.clean.decontaminate)
        counts |= changed
        made, changed = portions.weighed(portions.completed(made, TRAIN), config.seed)
        counts |= changed
    return made, counts, gathered.rejects + [one.to_json() for one in aside]


def steps(settings: Clean) -> Steps:
    """The recipe's switches for single rows."""
    return Steps(**settings.model_dump(exclude={"decontaminate", "too_long"}))


def ordered(made: Sequence[Portion], mixed: bool, seed: int) -> dict[str, list[Any]]:
    """Rows by file, judgements only where there are any; those of a mixture are shuffled, others stand in the order in
    which they were read."""
    files: dict[str, list[Any]] = {}
    judged = any(portion.rows for portion in made if portion.kind == JUDGEMENTS)
    for kind in (*KINDS, JUDGEMENTS) if judged else KINDS:
        for side in (TRAIN, EVAL):
            here = [(p.name, p.rows) for p in made if (p.kind, p.side) == (kind, side)]
            rows = mixing.shuffled(here, seed) if mixed else portions.rows_of(made, kind, side)
            files[f"{kind}.{side}"] = rows
    if any(portion.side == JUDGE for portion in made):
        files[f"{JUDGEMENTS}.{JUDGE}"] = portions.rows_of(made, JUDGEMENTS, JUDGE)
    return files


def for_gold(files: Files, config: Config) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """The files with data.gold_fraction of the training rankings in a file of their own, for stage gold; counts of what left.

    Whole prompts move, so the gold model and what is trained on the rest share none: training judgements of these prompts are
    left out, and counted as `judgements_with_gold_prompts`. Demonstrations and prompts stay.
    """
    # the embedded reviews share their openings by design, and openings of a word or two have no degree of likeness
    similarity = None if config.data.embedded() else config.data.split_similarity
    kept, aside = split.set_aside(files["rankings.train"], similarity, config.data.gold_fraction, config.seed)
    made = {**files, "rankings.train": kept, "rankings.gold": aside}
    name = f"{JUDGEMENTS}.{TRAIN}"
    if name not in files:
        return made, {}
    gold = _prompts(aside)
    made[name] = [row for row in files[name] if prompt_key(row.prompt) not in gold]
    return made, {"judgements_with_gold_prompts": len(files[name]) - len(made[name])}


def described(files: Files, counts: Mapping[str, int], gathered: Gathered, mixed: bool) -> dict[str, Any]:
    """What the manifest says of the data: every source, all counts, the rows of each file, the mixture they make."""
    data: dict[str, Any] = {"sources": gathered.sources, "counts": dict(counts)}
    for name, rows in files.items():
        data[name] = {"rows": len(rows), "sha256": split.fingerprint(rows)}
    if mixed:
        data["mixture"] = {name: mixing.shares(row.tag for row in rows) for name, rows in files.items()}
    return data


# Gate


def figures_of(files: Files, made: Sequence[Portion], counts: Mapping[str, int], config: Config) -> dict[str, Any]:
    """What `gate` looks at, of the rows before some are set aside for stage gold."""
    asked = {side: _prompts(files[f"prompts.{side}"]) for side in (TRAIN, EVAL)}
    leaked = len(asked[TRAIN] & asked[EVAL])
    leaked += _reviews_on_both_sides(files) if config.data.embedded() else _prompts_on_both_sides(files, asked)
    return {
        "prompts": len(asked[TRAIN]),
        "held_out_prompts": len(asked[EVAL]),
        "rankings": len(files["rankings.train"]),
        "held_out_rankings": len(files["rankings.eval"]),
        "rarest_label": _rarest_label(files),
        "on_both_sides": leaked,
        "decontaminated": _decontaminated(files, counts),
        "sources_without_rows": _without_rows(made),
    }


def gate(figures: Mapping[str, Any]) -> Gate:
    """figures: what `figures_of` gives, and "set_aside", the rankings for stage gold, where there are to be any. Where nothing is ranked, held-out rankings
    are not asked for: ppo's score may need none, and stage reward says what it lacks."""
    prompts_why = "raise data.eval_fraction, add rows, or set data.split_similarity=null if most prompts are alike"
    checks = [
        check("training prompts", figures["prompts"], must=SOME, should=PROMPTS, why="add rows"),
        check("held-out prompts", figures["held_out_prompts"], must=SOME, should=HELD_OUT_PROMPTS, why=prompts_why),
        check(
            "prompts seen on both sides",
            figures["on_both_sides"],
            must=NONE,
            why="take the prompts of data.eval_prompts out of the training rows",
        ),
    ]
    if figures["rankings"]:
        held_out = figures["held_out_rankings"]
        ranked = check("held-out rankings", held_out, must=SOME, should=HELD_OUT_RANKINGS, why=prompts_why)
        checks.insert(2, ranked)
    if (rarest := figures.get("rarest_label")) is not None:
        why = "what learns from judgements needs liked and disliked ones, on both sides; give more of the rarer"
        checks.append(check("liked or disliked completions, the fewer of a side", rarest, should=JUDGED, why=why))
    if share := figures["decontaminated"]:
        why = "look whether training repeats the evaluation, or only its wording: then raise data.clean.decontaminate"
        name = "share of training rows that repeated held-out prompts"
        checks.append(check(name, share, should=DECONTAMINATED, why=why))
    if (absent := figures["sources_without_rows"]) is not None:
        name = "sources of the mixture without training rows"
        checks.append(check(name, len(absent), should=NONE, why="; ".join(absent)))
    if (aside := figures.get("set_aside")) is not None:
        why = "give more rankings, or rankings with more different prompts, or set data.gold_fraction=0"
        checks.append(check("rankings set aside for stage gold", aside, must=SOME, should=SET_ASIDE, why=why))
    return Gate(checks)


def _rarest_label(files: Files) -> int | None:
    """The fewest liked, or disliked, completions of a side; None where there are no judgements."""
    if f"{JUDGEMENTS}.{TRAIN}" not in files:
        return None
    sides = [[row.liked for row in files[f"{JUDGEMENTS}.{side}"]] for side in (TRAIN, EVAL)]
    return min(count for side in sides for count in (side.count(True), side.count(False)))


def _prompts(rows: Sequence[Any]) -> set[str]:
    return {prompt_key(row.prompt) for row in rows if row.prompt != ""}


def _reviews_on_both_sides(files: Files) -> int:
    """Whole reviews: their openings are shared by design. Those of the judge may stand on no other side."""
    sides: list[set[str]] = []
    for side in (TRAIN, EVAL, JUDGE):
        shown = [row for kind in ("demonstrations", JUDGEMENTS) for row in files.get(f"{kind}.{side}", ())]
        # those of the judge are whole where others are cut, so that the place in the archive counts as the text does
        told = {row.source for row in shown if row.source}
        sides.append({f"{row.prompt}{row.completion}" for row in shown} | told)
    return sum(map(len, sides)) - len(set().union(*sides))


def _prompts_on_both_sides(files: Files, asked: Mapping[str, set[str]]) -> int:
    """Prompts of any rows, but for those that `asked` counts."""
    kinds = [kind for kind in (*KINDS, JUDGEMENTS) if f"{kind}.{TRAIN}" in files]
    train, held_out = ({key for kind in kinds for key in _prompts(files[f"{kind}.{side}"])} for side in (TRAIN, EVAL))
    return len((train & held_out) - (asked[TRAIN] & asked[EVAL]))


def _decontaminated(files: Files, counts: Mapping[str, int]) -> float:
    """The largest share of a kind's training rows that went; where many do, a phrase of the prompts' wording may be taken for a
    copy of them."""
    shares = [0.0]
    for kind in (*KINDS, JUDGEMENTS):
        if removed := counts.get(f"{kind}_decontaminated", 0):
            shares.append(removed / (removed + len(files.get(f"{kind}.train", ())) + counts.get(f"{kind}_thinned", 0)))
    return max(shares)


def _without_rows(made: Sequence[Portion]) -> list[str] | None:
    """The sources with a weight that have no rows of their kind left to train on; None where no source has a weight."""
    wanted = [portion for portion in made if portion.weight is not None and portion.side == TRAIN]
    present = {portion.name for portion in wanted if portion.rows}
    return sorted({portion.name for portion in wanted} - present) if wanted else None


# Samples


def samples(files: Files, tokenizer: Any, sources: Sequence[Mapping[str, Any]]) -> str:
    """How every source was understood, and some rows as the model will see them, for people to look at."""
    from policies.template import encode_completion, encode_prompt

    def seen(prompt: Any, completion: str) -> str:
        ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, prompt, completion)
        return json.dumps(tokenizer.decode(ids), ensure_ascii=False)

    parts = ["# Sources\n", *map(_said, sources), "\nRank 0 is best."]
    for ranking in files["rankings.train"][:SHOWN]:
        parts.append(f"\n## Ranking {_line(ranking.id)} ({_line(ranking.source)})\n")
        ranks = sorted(zip(ranking.ranks(), ranking.completions, strict=True), key=lambda pair: pair[0])
        parts += [f"- rank {rank}: {seen(ranking.prompt, completion.text)}" for rank, completion in ranks]
    for judgement in files.get(f"{JUDGEMENTS}.{TRAIN}", [])[:SHOWN]:
        parts.append(f"\n## Judgement {_line(judgement.id)} ({_line(judgement.source)})\n")
        said = "liked" if judgement.liked else "disliked"
        parts.append(f"- {said}: {seen(judgement.prompt, judgement.completion)}")
    for demonstration in files["demonstrations.train"][:SHOWN]:
        parts.append(f"\n## Demonstration {_line(demonstration.id)} ({_line(demonstration.source)})\n")
        parts.append(f"- {seen(demonstration.prompt, demonstration.completion)}")
    return "\n".join(parts) + "\n"


def _said(source: Mapping[str, Any]) -> str:
    polarity = f"; {source['polarity']}" if source["polarity"] else ""
    tag = f", tag {_line(source['tag'])}" if "tag" in source else ""
    rows = f"; {source['read']} rows read, {source['kept']} kept" if "read" in source else ""
    unread = "".join(
        f"\n  - not read: {_line(name)} ({_line(said)})" for name, said in source.get("unread", {}).items()
    )
    return f"- {_line(source['source'])}{tag}: format {source['format']} ({source['kind']}){polarity}{rows}{unread}"


def _line(text: str) -> str:
    """On one line, whatever somebody named a file or a row."""
    return " ".join(text.split())
