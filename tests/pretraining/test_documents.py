"""Is a corpus read whole, cleaned, counted and split, and is all that is wrong with it told?"""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.schema import DataError
from pipeline.artifacts.errors import ArtifactError
from pipeline.pretraining.corpus import Corpus, gathered
from pipeline.settings.config import Config
from pipeline.settings.pretrain import Pretrain


def corpus(folder: Path, source: str | Path, **settings: Any) -> Corpus:
    section = Pretrain(source=str(source), **({"eval_fraction": 0.2} | settings))
    return gathered(Config(pretrain=section), section, folder / "made")


def both(found: Corpus) -> list[str]:
    return [*found.texts(), *found.held_out_texts(10**6)]


ONE = "A first line.\nIts second.\n\n\nAnother paragraph.\n \t\nA third — 第三段。\n"


@pytest.mark.parametrize(
    ("sample_by", "texts"),
    [
        ("paragraph", {"A first line.\nIts second.", "Another paragraph.", "A third — 第三段。"}),
        ("line", {"A first line.", "Its second.", "Another paragraph.", "A third — 第三段。"}),
    ],
)
def test_a_text_file_is_documents(tmp_path: Path, sample_by: str, texts: set[str]) -> None:
    (tmp_path / "one.txt").write_text(ONE, encoding="utf-8")
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress(ONE.encode("utf-8-sig")))
    (tmp_path / "three.md").write_bytes(ONE.encode("gb18030"))
    assert set(both(corpus(tmp_path, tmp_path / "one.txt", sample_by=sample_by))) == texts
    assert set(both(corpus(tmp_path, tmp_path / "two.txt.gz", sample_by=sample_by))) == texts
    assert set(both(corpus(tmp_path, tmp_path / "three.md", sample_by=sample_by, encoding="gb18030"))) == texts


def test_every_file_of_a_folder_can_be_one_document(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"\nTitle {number}\n\nText.\n\n")
    (folder / "README.md").write_text("about the corpus")
    found = corpus(tmp_path, folder, sample_by="document")
    assert sorted(both(found)) == [f"Title {number}\n\nText." for number in range(5)]
    assert both(corpus(tmp_path, folder / "*.txt", sample_by="document")) == both(found)


def test_rows_of_every_kind_are_documents(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"Text {n}.", "title": f"T{n}"} for n in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for ending in ("jsonl", "json", "csv", "parquet"):
        assert sorted(both(corpus(tmp_path, tmp_path / f"a.{ending}"))) == [f"Text {n}." for n in range(10)]
    assert sorted(both(corpus(tmp_path, tmp_path / "a.jsonl", column="title"))) == [f"T{n}" for n in range(10)]
    assert len(both(corpus(tmp_path, tmp_path / "a.parquet", max_rows=4))) == 4


def test_the_only_column_of_texts_is_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": n, "body": f"b{n}"}) + "\n" for n in range(4)))
    assert sorted(both(corpus(tmp_path, tmp_path / "a.jsonl"))) == ["b0", "b1", "b2", "b3"]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"title": "t", "body": f"b{n}"}) + "\n" for n in range(4)))
    with pytest.raises(DataError, match=r"pretrain\.column.*title, body"):
        corpus(tmp_path, tmp_path / "b.jsonl")


def test_documents_are_mended_counted_and_on_one_side(tmp_path: Path) -> None:
    texts = [f"Text number {n}" for n in range(50)] + ["Text number 7", " \n", "cafe\u0301", "café"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = corpus(tmp_path, tmp_path / "a.jsonl")
    assert found.counts == {
        "read": 54, "blank": 1, "duplicates": 2, "nfc": 1, "documents_train": 41, "documents_eval": 10,
        "bytes_train": sum(len(text.encode()) for text in found.texts()),
        "bytes_eval": sum(len(text.encode()) for text in found.held_out_texts(99)),
    }  # fmt: skip
    assert set(both(found)) == {*texts[:50], "café"} and not {*found.texts()} & {*found.held_out_texts(99)}


def test_who_is_held_out_follows_from_text_and_seed(tmp_path: Path) -> None:
    """In another order the same ones; of a corpus that grew few others."""
    texts = [f"Text number {n}" for n in range(100)]

    def held_out(some: list[str]) -> set[str]:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
        return set(corpus(tmp_path, tmp_path / "a.jsonl").held_out_texts(999))

    first = held_out(texts)
    assert len(first) == 20 and held_out(texts[::-1]) == first
    assert len(first - held_out([*texts, *(f"Another {n}" for n in range(5))])) <= 2


def test_a_text_that_may_stand_twice_stands_on_one_side(tmp_path: Path) -> None:
    texts = [f"Text number {n % 9}" for n in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = corpus(tmp_path, tmp_path / "a.jsonl", clean={"duplicates": False}, eval_fraction=0.15)
    train, held_out = [*found.texts()], found.held_out_texts(999)
    assert sorted(train + held_out) == sorted(texts) and not {*train} & {*held_out} and len(held_out) == 20


def test_nearly_the_same_documents_are_kept_once(tmp_path: Path) -> None:
    """On neither side, however many are held out."""
    long = " ".join(f"word{n}" for n in range(60))
    texts = [long, *(f"{long} end{n}" for n in range(20)), *(f"{n} " * 8 for n in range(8))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = corpus(tmp_path, tmp_path / "a.jsonl", clean={"near_duplicates": 0.8}, eval_fraction=0.5)
    assert found.counts["near_duplicates"] == 20 and sorted(both(found)) == sorted([long, *texts[21:]])


def refused(folder: Path, text: str | bytes, **settings: Any) -> str:
    path = folder / settings.pop("name", "a.jsonl")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DataError, ArtifactError)) as told:
        corpus(folder, path, **settings)
    return str(told.value)


def test_all_that_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    rows = '{"text": "a"}\n{"text": null}\n{"title": "b"}\n{"text": 7}\n[1]\n'
    told = refused(tmp_path, rows).splitlines()
    assert [line.partition(": ")[0].rpartition(":")[2] for line in told] == ["2", "3", "4", "5"]
    assert "the text of the document is null; take the row out" in told[0]
    assert (
        "the row has no such column; set pretrain.column to one that is a text (title), or take the row out" in told[1]
    )
    told = refused(tmp_path, "a\n\nb\n\n\xff\xfec\n".encode("latin-1"), name="a.txt")
    assert "a.txt:5" in told and "pretrain.encoding" in told


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    assert "it is empty" in refused(tmp_path, "") and "there are no rows" in refused(tmp_path, "\n\n", name="a.txt")
    told = refused(tmp_path, "One paragraph,\nof two lines.\n", name="a.txt")
    assert "one document" in told and "pretrain.sample_by" in told
    assert "no document that is not blank" in refused(tmp_path, '{"text": " "}\n{"text": ""}\n')
    assert "pretrain.encoding=utf-16" in refused(tmp_path, "a text\n\nb".encode("utf-16"), name="a.txt")
    with pytest.raises(DataError, match="there is no such file"):
        corpus(tmp_path, tmp_path / "none.txt")


def test_a_document_that_is_longer_than_a_row_may_be_is_told(tmp_path: Path) -> None:
    long = "".join(f"{number:01000}\n" for number in range(17_000))
    assert "pretrain.sample_by" in refused(tmp_path, long, name="a.txt", sample_by="document")
    assert (
        len(both(corpus(tmp_path, tmp_path / "a.txt", sample_by="line", clean={"duplicates": False}, max_rows=9))) == 9
    )


def test_a_first_row_without_a_text_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null, "title": "T"}\n{"text": "a document", "title": "U"}\n')
    with pytest.raises(DataError, match="the text of the document is null; .*take the row out"):
        corpus(tmp_path, tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(
        DataError, match=r"none of those that there are is a text \(n\); give rows with a column of texts"
    ):
        corpus(tmp_path, tmp_path / "b.jsonl")


def test_one_document_is_always_learned(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "document {n}"}}\n' for n in range(3)))
    found = corpus(tmp_path, tmp_path / "a.jsonl", eval_fraction=0.9)
    assert (found.counts["documents_train"], found.counts["documents_eval"]) == (1, 2)
