"""What did people think of 10,605 sentences from film reviews? The data set that comes with the project.

Hutto and Gilbert (2014, "VADER", ICWSM) had each sentence rated from -4 (extremely negative) to 4 by 15 to 20 people.
Their files lie in the source archive of vaderSentiment 3.3.2 (MIT). An opening of a review is a prompt here, the ways
in which reviews with that opening go on are its completions, and the people's mean ratings rank them.
"""

import io
import json
import random
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from data.forms.ranks import ranked
from data.refining.split import split_by
from data.schema import Completion, DataError, Demonstration, Problem, Prompt, Ranking

INNER_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
TEXTS = "movieReviewSnippets_GroundTruth.txt"
RATINGS = "movieReviewSnippets_anonDataRatings.txt"
FIX = "fetch vaderSentiment-3.3.2.tar.gz again"


class Review(NamedTuple):
    """One sentence and what people gave it, each from -4 to 4. `source` is file:line."""

    id: str
    text: str
    ratings: tuple[int, ...]
    source: str = ""

    @property
    def mean(self) -> Fraction:
        return Fraction(sum(self.ratings), len(self.ratings))


@dataclass(frozen=True)
class ReviewData:
    demonstrations_train: list[Demonstration]
    demonstrations_eval: list[Demonstration]
    rankings_train: list[Ranking]
    rankings_eval: list[Ranking]
    prompts_train: list[Prompt]
    prompts_eval: list[Prompt]
    counts: dict[str, int]


# Reading


def load(archive: Path) -> list[Review]:
    """The film reviews in the source archive of vaderSentiment 3.3.2, in the order of the file.

    The archive is read in memory and nothing is unpacked. Texts are mended: mojibake, '' for ", runs of spaces. Raises
    DataError where a file is missing or broken, or ratings do not have the mean that both files state (to 1e-6).
    """
    try:
        with tarfile.open(archive, "r:gz") as outer:
            inner = _member(outer, INNER_ARCHIVE, str(archive))
        with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as files:
            texts, ratings = (_member(files, name, str(archive)) for name in (TEXTS, RATINGS))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError([Problem(str(archive), None, "archive", f"it cannot be read ({error})", FIX)]) from error
    problems: list[Problem] = []
    rated = dict(_ratings(ratings, problems))
    reviews = list(_reviews(texts, rated, problems))
    said = {review.id for review in reviews}
    if not problems:
        problems += [
            Problem(RATINGS, None, "id", f'no text has the id "{one}"', FIX) for one in rated if one not in said
        ]
    if problems:
        raise DataError(problems)
    return reviews


def _member(archive: tarfile.TarFile, name: str, file: str) -> bytes:
    for member in archive:
        if member.isfile() and Path(member.name).name == name and (content := archive.extractfile(member)):
            return content.read()
    raise DataError([Problem(file, None, "archive", f"there is no {name} in it", FIX)])


def _lines(content: bytes, file: str, columns: int, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    for line, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            text = _decoded(raw.rstrip(b"\r"))
        except UnicodeDecodeError:
            problems.append(Problem(file, line, "line", "it is neither UTF-8 nor cp1252", FIX))
            continue
        cells = text.split("\t")
        if len(cells) == columns:
            yield line, cells
        else:
            problems.append(Problem(file, line, "line", f"{len(cells)} columns, not {columns}", FIX))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def _ratings(content: bytes, problems: list[Problem]) -> Iterator[tuple[str, tuple[int, ...]]]:
    seen: set[str] = set()
    for line, (name, mean, _, listed) in _lines(content, RATINGS, 4, problems):
        try:
            ratings = json.loads(listed)
            stated = float(mean)
        except (ValueError, RecursionError):
            problems.append(Problem(RATINGS, line, "ratings", "it is no list of numbers", FIX))
            continue
        if not isinstance(ratings, list) or not ratings or any(one not in range(-4, 5) for one in ratings):
            problems.append(Problem(RATINGS, line, "ratings", "it is no list of numbers from -4 to 4", FIX))
        elif not abs(sum(ratings) / len(ratings) - stated) <= 1e-6:
            problems.append(Problem(RATINGS, line, "mean", f"the ratings do not have the mean {mean}", FIX))
        elif name in seen:
            problems.append(Problem(RATINGS, line, "id", f'the id "{name}" stands twice', FIX))
        else:
            seen.add(name)
            yield name, tuple(int(one) for one in ratings)


def _reviews(content: bytes, rated: dict[str, tuple[int, ...]], problems: list[Problem]) -> Iterator[Review]:
    # Only the pipeline's data stage reads the archive; whoever brings data of their own needs no ftfy.
    import ftfy

    seen: set[str] = set()
    for line, (name, mean, said) in _lines(content, TEXTS, 3, problems):
        if name not in rated or name in seen:
            what = "stands twice" if name in seen else "has no ratings"
            problems.append(Problem(TEXTS, line, "id", f'the id "{name}" {what}', FIX))
            continue
        seen.add(name)
        try:
            agrees = abs(sum(rated[name]) / len(rated[name]) - float(mean)) <= 1e-6
        except ValueError:
            agrees = False
        if not agrees:
            problems.append(Problem(TEXTS, line, "mean", f"the ratings do not have the mean {mean}", FIX))
            continue
        text = " ".join(ftfy.fix_text(said).replace("''", '"').split())
        if text:
            yield Review(name, text, rated[name], f"{TEXTS}:{line}")
        else:
            problems.append(Problem(TEXTS, line, "text", "it is blank", FIX))


# Building


def build(
    reviews: Iterable[Review],
    *,
    k: int = 4,
    tie_gap: float = 0.5,
    opening_words: int = 1,
    prompt_words: int = 3,
    max_words: int | None,
    eval_fraction: float,
    seed: int,
) -> ReviewData:
    """Demonstrations, rankings and prompts from reviews, split by review before any ranking is made.

    Demonstrations and prompts open with `prompt_words` words, rankings with `opening_words`; a completion is the rest
    of the review with its leading space. Reviews that share an opening are shuffled and cut into rankings of `k`, a
    smaller one last; a review stands in at most one ranking. In a ranking a new rank begins where the mean rating lies
    `tie_gap` or more below that of the rank's best. `counts` tells what was left out: reviews longer than `max_words`,
    too short, repeated, alone with their opening, or in a group that is all tied.
    """
    if k < 2 or tie_gap <= 0 or opening_words < 1 or prompt_words < 1:
        raise ValueError("k must be at least 2, tie_gap above 0, opening_words and prompt_words at least 1")
    counts: Counter[str] = Counter()
    usable: dict[str, Review] = {}
    for review in reviews:
        counts["reviews"] += 1
        if max_words is not None and len(review.text.split()) > max_words:
            counts["too_many_words"] += 1
        elif review.text in usable:
            counts["duplicates"] += 1
        else:
            usable[review.text] = review
    sides = split_by(usable.values(), lambda review: review.text, eval_fraction, seed)
    train, held_out = (_demonstrations(side, prompt_words, counts) for side in sides)
    rankings = [_rankings(side, k, tie_gap, opening_words, seed, counts) for side in sides]
    prompts = _prompts(train, set())
    new_prompts = _prompts(held_out, {prompt.prompt for prompt in prompts if isinstance(prompt.prompt, str)})
    counts["openings_also_in_train"] = len(_prompts(held_out, set())) - len(new_prompts)
    made = ReviewData(train, held_out, rankings[0], rankings[1], prompts, new_prompts, {})
    names = ("reviews", "too_many_words", "duplicates", "too_short", "too_short_to_rank", "alone", "all_tied_rankings")
    made.counts.update({name: counts[name] for name in (*names, "all_tied_reviews", "openings_also_in_train")})
    made.counts.update(reviews_train=len(sides[0]), reviews_eval=len(sides[1]))
    return made


def _demonstrations(reviews: Iterable[Review], words: int, counts: Counter[str]) -> list[Demonstration]:
    made: list[Demonstration] = []
    for review in reviews:
        opening, rest = _cut(review.text, words)
        if rest:
            made.append(Demonstration(f"demonstration-{review.id}", opening, rest, review.source))
        else:
            counts["too_short"] += 1
    return made


def _cut(text: str, words: int) -> tuple[str, str]:
    """(the first words, the rest with its leading space), which together are the text."""
    opening = " ".join(text.split(" ")[:words])
    return opening, text[len(opening) :]


def _prompts(demonstrations: Iterable[Demonstration], without: set[str]) -> list[Prompt]:
    made: dict[str, Prompt] = {}
    for one in demonstrations:
        if isinstance(one.prompt, str) and one.prompt not in without:
            name = one.id.replace("demonstration", "prompt", 1)
            made.setdefault(one.prompt, Prompt(name, one.prompt, one.source))
    return list(made.values())


def _rankings(
    reviews: Iterable[Review], k: int, tie_gap: float, words: int, seed: int, counts: Counter[str]
) -> list[Ranking]:
    openings: dict[str, list[Review]] = {}
    for review in reviews:
        opening, rest = _cut(review.text, words)
        if rest:
            openings.setdefault(opening, []).append(review)
        else:
            counts["too_short_to_rank"] += 1
    made: list[Ranking] = []
    for opening, group in openings.items():
        random.Random(f"{seed}:{opening}").shuffle(group)
        for start in range(0, len(group), k):
            chosen = group[start : start + k]
            order = tiers(chosen, tie_gap)
            if len(chosen) < 2:
                counts["alone"] += 1
            elif len(order) < 2:
                counts["all_tied_rankings"] += 1
                counts["all_tied_reviews"] += len(chosen)
            else:
                completions = tuple(
                    Completion(one.id, one.text[len(opening) :], ratings=tuple(float(given) for given in one.ratings))
                    for one in chosen
                )
                made.append(Ranking(f"ranking-{chosen[0].id}", opening, completions, order, chosen[0].source))
    return made


def tiers(reviews: Sequence[Review], gap: float) -> tuple[tuple[str, ...], ...]:
    """Review ids by falling mean; a new tier begins with the first mean at least `gap` below its tier's first."""
    made = ranked([review.mean for review in reviews], gap)
    return tuple(tuple(reviews[place].id for place in tier) for tier in made)
