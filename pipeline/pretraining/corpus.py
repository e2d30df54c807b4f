"""What does a model learn from that is made from nothing? Documents: read, mended, each once, some of them held out.

They pass through files in the stage's partial folder, line by line, so that a corpus may be larger than memory: what is kept in memory is a
hash and a place for each document. Only clean.near_duplicates holds all texts at once.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.reading.sources import read
from data.refining.clean import MENDING, Steps, mend
from data.refining.near import near_duplicates
from data.refining.split import place
from data.schema import DataError, Problem
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256
from pipeline.rows.gather import chinese_texts, film_texts
from pipeline.settings.config import Config
from pipeline.settings.data import CHINESE_REVIEWS, EMBEDDED_REVIEWS
from pipeline.settings.pretrain import Pretrain

USUAL = "text"  # the column of a document, by which data sets of texts are published
TRAIN, HELD_OUT = "documents.train.jsonl", "documents.eval.jsonl"
EMBEDDED = {EMBEDDED_REVIEWS: film_texts, CHINESE_REVIEWS: chinese_texts}
"""What gives the (training, held-out) texts of a corpus that comes with the project: its training texts are what other stages may see."""
MOST = 100  # problems, after which reading stops


@dataclass(frozen=True)
class Corpus:
    """Documents on both sides, each a JSON string a line of a file, and counts of all that became of what was read."""

    train: Path
    held_out: Path
    counts: dict[str, int]

    def texts(self) -> Iterator[str]:
        """The training documents, in the order in which they were read."""
        return _texts(self.train)

    def held_out_texts(self, most: int) -> list[str]:
        """The first `most` held-out documents; which are held out is by a hash, so these are a random lot."""
        return [text for text, _ in zip(_texts(self.held_out), range(most), strict=False)]


def gathered(config: Config, section: Pretrain, folder: Path) -> Corpus:
    """Read the corpus of `section` into files in `folder`. Raises DataError with all that is wrong with what is read, ArtifactError where nothing
    is left to learn from, or to hold out."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(folder / TRAIN, folder / HELD_OUT, {})
    if section.embedded():
        counts = _embedded(config, section, corpus)
    else:
        counts = _split(section, config.seed, corpus, folder / "documents.jsonl")
    _check(counts, section)
    return replace(corpus, counts=counts)


def described(corpus: Corpus, section: Pretrain) -> dict[str, Any]:
    """What the manifest says of the corpus: its source, counts, and each side's documents by hash."""
    sides = {
        side: {"documents": corpus.counts[f"documents_{side}"], "sha256": sha256(path)}
        for side, path in (("train", corpus.train), ("eval", corpus.held_out))
    }
    return {"source": section.source, "counts": corpus.counts, **sides}


# The two sides


def _embedded(config: Config, section: Pretrain, corpus: Corpus) -> dict[str, int]:
    """An embedded corpus comes split; what is on both sides after mending is held out."""
    counts = Counter[str]()
    seen: set[bytes] = set()
    sides = EMBEDDED[str(section.source)](config)
    for name, path, texts in (("eval", corpus.held_out, sides[1]), ("train", corpus.train, sides[0])):
        with path.open("w", encoding="utf-8") as file:
            for text in _sound(texts, section, counts, seen):
                _write(file, text, name, counts)
    return dict(counts)


def _split(section: Pretrain, seed: int, corpus: Corpus, whole: Path) -> dict[str, int]:
    """Every document once in `whole`, and from there to its side: held out are those, of eval_fraction of all, whose hash with the seed comes
    first, so that documents that are added later move few others."""
    counts, places = Counter[str](), list[float]()
    with whole.open("w", encoding="utf-8") as file:
        for text in _sound(_read(section), section, counts, set()):
            places.append(place(seed, hashlib.sha256(text.encode()).hexdigest()))
            file.write(json.dumps(text, ensure_ascii=False) + "\n")
    gone = set[int]()
    if section.clean.near_duplicates is not None:
        gone = {later for _, later in near_duplicates(list(_texts(whole)), section.clean.near_duplicates)}
        counts["near_duplicates"] = len(gone)
    order = [number for number in np.argsort(places, kind="stable").tolist() if number not in gone]
    count = max(1, min(round(section.eval_fraction * len(order)), len(order) - 1))
    edge = places[order[count - 1]] if order else 0.0
    held_out = {
        number for number in order if places[number] <= edge
    }  # the same text, where it may stand twice, on one side
    with corpus.train.open("w", encoding="utf-8") as train, corpus.held_out.open("w", encoding="utf-8") as aside:
        for number, text in enumerate(_texts(whole)):
            if number in held_out:
                _write(aside, text, "eval", counts)
            elif number not in gone:
                _write(train, text, "train", counts)
    whole.unlink()
    return dict(counts)


def _sound(texts: Iterable[str], section: Pretrain, counts: Counter[str], seen: set[bytes]) -> Iterator[str]:
    """Texts as they are learned: mended, without blank ones and repetitions, all of it counted."""
    steps = Steps(**section.clean.model_dump())
    for text in texts:
        counts["read"] += 1
        better, changed = mend(text, steps)
        counts.update(name for name in MENDING if name in changed)
        key = hashlib.blake2b(better.encode(), digest_size=16).digest()
        if not better.strip():
            counts["blank"] += 1
        elif steps.duplicates and key in seen:
            counts["duplicates"] += 1
        else:
            seen.add(key)
            yield better


def _write(file: Any, text: str, side: str, counts: Counter[str]) -> None:
    file.write(json.dumps(text, ensure_ascii=False) + "\n")
    counts[f"documents_{side}"] += 1
    counts[f"bytes_{side}"] += len(text.encode())


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _check(counts: dict[str, int], section: Pretrain) -> None:
    if not counts.get("documents_train") or not counts.get("documents_eval"):
        found = counts.get("documents_train", 0) + counts.get("documents_eval", 0)
        what = "no document that is not blank"
        if found:
            what = "one document" if found == 1 else f"{found} documents that are all the same"
        remedy = (
            f"{section.stage}.sample_by is {section.sample_by}: set it to line where a file has a document on each line"
        )
        raise ArtifactError(
            f"{section.stage}.source: {section.source} has {what}, and one is held out, so nothing is learned from; give more documents; {remedy}"
        )


# Reading


def _read(section: Pretrain) -> Iterator[str]:
    """The texts of all documents. Raises DataError with all that is wrong with them; none is left out in silence."""
    assert section.source is not None
    problems: list[Problem] = []
    column = section.column
    try:
        rows = read(section.source, problems, section.max_rows, encoding=section.encoding, sample_by=section.sample_by)
        for found in rows:
            if len(problems) >= MOST:
                break
            if found.row is None:
                continue
            if column is None:
                column = _column(found.row, section)
            text = found.row.get(column)
            if isinstance(text, str):
                yield text
                continue
            there = ", ".join([name for name, value in found.row.items() if isinstance(value, str)][:12])
            problem = (
                f"the text of the document is {_called(text)}" if column in found.row else "the row has no such column"
            )
            fix = "take the row out"
            if there:
                fix = f"set {section.stage}.column to one that is a text ({there}), or take the row out"
            problems.append(Problem(found.file, found.line, column, problem, fix))
    except DataError as error:
        raise _of_section([*problems, *error.problems], section) from error
    if problems:
        raise _of_section(problems, section)


def _column(row: dict[str, Any], section: Pretrain) -> str:
    """The column of texts: "text", or the only one whose value is a text in the first row. Raises DataError that names those that there are."""
    if USUAL in row:  # where its value is no text, that is told with its line
        return USUAL
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) == 1:
        return texts[0]
    setting = f"{section.stage}.column"
    problem = f'no column is called "{USUAL}", and there are several'
    fix = f"set {setting} to one of the columns of texts: {', '.join(texts)}"
    if not texts:
        there = ", ".join(row) or "the first row is empty"
        problem = f'no column is called "{USUAL}", and none of those that there are is a text ({there})'
        fix = "give rows with a column of texts"
    raise DataError([Problem(str(section.source), None, setting, problem, fix)])


def _called(value: object) -> str:
    return "null" if value is None else f"no text but {type(value).__name__}"


def _of_section(problems: list[Problem], section: Pretrain) -> DataError:
    """The same, where a remedy names a setting of this section."""
    return DataError(
        [replace(one, fix=one.fix.replace("data.encoding", f"{section.stage}.encoding")) for one in problems]
    )
