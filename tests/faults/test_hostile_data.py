"""What does a stranger's data do? It is read within limits of time and memory, or refused in one sentence that names the file and the setting."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import resource
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet as pq
import pytest

from data.loading import to_rows
from data.reading import sources, written
from data.reading.limits import USUAL, Limits
from data.reading.options import Options
from data.schema import DataError

MB = 2**20
SMALL = Limits(row_mb=1)
PATIENCE, MEMORY = 20.0, 400  # seconds and MB of a case
ROW = b'{"prompt": "Say hi", "completion": "hi"}\n'


def said_of(source: Path | str, limits: Limits = SMALL) -> str:
    """What reading says: the sentence, or "N rows"."""
    try:
        return f"{len(to_rows(str(source), Options(limits=limits)).rows)} rows"
    except DataError as error:
        return str(error)


def told(source: Path | str, limits: Limits = SMALL, memory: int = MEMORY) -> str:
    """The same, in a process of its own that gets `memory` MB; fails where it hangs or is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory * MB, resource.RLIM_INFINITY))
            try:
                said = said_of(source, limits)
            except BaseException as error:
                said = f"TRACEBACK {type(error).__name__}: {error}"
            os.write(writing, said.encode("utf-8", "backslashreplace")[:60_000])
        finally:
            os._exit(0)
    os.close(writing)
    ended = threading.Timer(PATIENCE, os.kill, (child, 9))
    ended.start()
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    killed = os.waitpid(child, 0)[1]
    ended.cancel()
    assert not killed and said, "it hung, or was killed"
    assert "TRACEBACK" not in said, said[:300]
    return said


def packed(piece: bytes, times: int, first: bytes = b"") -> bytes:
    """Gzip of a piece many times over, without holding it."""
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=9) as file:
        file.write(first)
        for _ in range(times):
            file.write(piece)
    return made.getvalue()


def parquet(rows: dict[str, Any], **more: Any) -> bytes:
    made = io.BytesIO()
    pq.write_table(pyarrow.table(rows), made, **more)
    return made.getvalue()


def archive() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("../../evil.jsonl", ROW)
    return made.getvalue()


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as file:
        link = tarfile.TarInfo("rows.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return made.getvalue()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("CANARY_RAN", "1")


# file -> (what is in it, words of the sentence)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "line.jsonl": (lambda: ROW + b'{"prompt": "' + b"a" * 2 * MB + b'"}\n', "line.jsonl:2: line: it has more than 1 MB.* data.max_row_mb"),
    "first.jsonl": (lambda: b'{"prompt": "' + b"a" * 2 * MB, "first.jsonl:1: .* data.max_row_mb"),
    "line.csv": (lambda: b"prompt,completion\na," + b"b" * 2 * MB + b"\n", "line.csv:2: .* data.max_row_mb"),
    "quote.csv": (lambda: b'prompt,completion\na,"b\n' + b"c,d\n" * MB, "quote.csv:2: row: a quote that opens here is never closed"),
    "columns.csv": (lambda: b",".join(b"c%d" % n for n in range(100_000)) + b"\n", "columns.csv:1: header: 100000 columns, and at most 10000"),
    "cells.csv": (lambda: b"prompt,completion\n" + b"," * 500_000 + b"\n", "cells.csv:2: row: 500001 cells under 2 columns"),
    "array.json": (lambda: b'[{"prompt": "' + b"a" * 3 * MB + b'"}]', "array.json:1: .* data.max_row_mb"),
    "elements.json": (lambda: b'[{"prompt": [' + b"1," * 2 * MB, "elements.json:1: .* (data.max_row_mb|cut off)"),
    "blank.json": (lambda: b"[" + b" " * 4 * MB + b"]", "there are no rows"),
    "blank.jsonl": (lambda: b"\n" * 3 * MB, "it is empty"),
    "line.jsonl.gz": (lambda: packed(b"a" * MB, 12, ROW + b'{"prompt": "'), "line.jsonl.gz:2: .* data.max_row_mb"),
    "bomb.jsonl.gz": (lambda: packed(b" " * 1000 + b"\n", 20_000, ROW), "unpacks to more than 250 times its size; .* data.max_ratio"),
    "rows.jsonl.gz": (lambda: packed(b" " * 10**6 + b"\n" + ROW, 20), "unpacks to more than 250 times its size; .* data.max_ratio"),
    "twice.jsonl.gz": (lambda: gzip.compress(gzip.compress(ROW)), "compressed twice"),
    "members.jsonl.gz": (lambda: packed(b" " * 1000 + b"\n", 2000, ROW) * 12, "unpacks to more than 250 times its size"),
    "cut.jsonl.gz": (lambda: packed(ROW, 1000)[:-20], "broken or cut off"),
    "zip.jsonl": (archive, "a zip archive"),
    "tar.jsonl": (tar, "a tar archive"),
    "xz.jsonl": (lambda: lzma.compress(b"\n" * MB), "compressed with xz"),
    "bz2.jsonl": (lambda: bz2.compress(b"\n" * 5 * MB), "compressed with bzip2"),
    "zst.jsonl": (lambda: b"\x28\xb5\x2f\xfd" + b"\0" * 100, "compressed with zstd"),
    "deep.jsonl": (lambda: ROW + b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "deep.jsonl:2: .* nested more than 200 deep"),
    "deep.json": (lambda: b'[{"a": ' + b'{"a": ' * 100_000, "deep.json:1: .* (nested more than 200 deep|cut off)"),
    "digits.jsonl": (lambda: ROW + b'{"n": ' + b"9" * 100_000 + b"}\n", "digits.jsonl:2: .* more than 4300 digits"),
    "exponent.jsonl": (lambda: ROW + b'{"n": 1e999}\n', "exponent.jsonl:2: n: the number is not finite"),
    "NaN.jsonl": (lambda: ROW + b'{"prompt": NaN}\n', "NaN.jsonl:2: prompt: the number is not finite"),
    "surrogate.jsonl": (lambda: ROW + rb'{"prompt": "a\ud800", "completion": "b"}' + b"\n", "surrogate.jsonl:2: prompt: half a surrogate pair"),
    "NUL.csv": (lambda: b"prompt,completion\n" + b"a,b\n" * 2000 + b"a\0,b\n", "NUL.csv:2002: prompt: the cell holds a NUL byte"),
    "NUL.jsonl": (lambda: b"\0" * 5000, "NUL bytes"),
    "keys.jsonl": (lambda: ROW + b'{"prompt": "a", "prompt": "b", "completion": "c"}\n', "keys.jsonl:2: prompt: the key stands twice"),
    "entities.jsonl": (lambda: b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>', "HTML or XML"),
    "rows.pkl": (lambda: pickle.dumps([Evil()]), ""),
    "rows.jsonl": (lambda: pickle.dumps([Evil()]), ""),
    "pages.parquet": (lambda: parquet({"prompt": ["a" * 17 * MB], "completion": ["b"]}, compression="zstd", use_dictionary=False), "unpacks to more than 250 times its size; .* data.max_ratio"),
    "nothing.parquet": (lambda: parquet({}), "columns"),
    "cut.parquet": (lambda: parquet({"prompt": ["a"] * 1000})[:-100], "Parquet file is broken"),
    "footer.parquet": (lambda: b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1", "Parquet file is broken"),
    "groups.parquet": (lambda: parquet({"prompt": ["a"] * 2000, "completion": ["b"] * 2000}, row_group_size=1), "2000 rows"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert "CANARY_RAN" not in os.environ
    assert not (tmp_path.parent.parent / "evil.jsonl").exists()


def test_files(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        for name, (content, words) in FILES.items():
            with cases(name):
                (tmp_path / name).write_bytes(content())
                alone = name.endswith((".gz", "s.json", "e.csv", "pages.parquet"))  # where time or memory may be taken
                said = told(tmp_path / name, memory=MEMORY if name.endswith("gz") else 1200) if alone else said_of(name)
                assert re.search(words, said, re.DOTALL), said[:300]
                assert name in said or words.endswith("rows"), said[:300]
                (tmp_path / name).unlink()


def test_the_setting_that_a_sentence_names_lets_the_file_in(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        with cases("data.max_row_mb"):
            (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "' + b"a " * MB + b'", "completion": "b"}\n')
            assert "1 rows" in told(tmp_path / "a.jsonl", Limits(row_mb=3))
        with cases("data.max_ratio"):
            (tmp_path / "b.jsonl.gz").write_bytes(packed(b" " * 1000 + b"\n", 20_000, ROW))
            assert "1 rows" in told(tmp_path / "b.jsonl.gz", Limits(ratio=2000))
        with cases("data.max_unpacked_gb"):
            assert "data.max_unpacked_gb" in told(tmp_path / "b.jsonl.gz", Limits(ratio=2000, unpacked_gb=0))


def test_what_is_no_file(tally: Callable[[str], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to("pipe.jsonl")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "random.gz").symlink_to("/dev/urandom")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_split": null}')
    os.mkfifo(tmp_path / "saved" / "data.arrow")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket.jsonl")
    with tally("hostile") as cases:
        for source, words in {
            "pipe.jsonl": "it is a pipe",
            "link.jsonl": "it is a pipe",
            "zero.jsonl": "it is a device",
            "random.gz": "it is a device",
            "socket.jsonl": "it is a socket",
            "self.jsonl": "there is no such file",
            "gone.jsonl": "there is no such file",
            "/dev/zero": "it is a device",
            "/dev/stdin": "",
            "saved": "it is a pipe",
            "a\0b.jsonl": "there is no such file",
        }.items():
            with cases(ascii(source)):
                assert words in told(source)
    listening.close()


def test_links_that_lead_round_in_a_circle(tally: Callable[[str], Any], tmp_path: Path) -> None:
    """Followed, two of them in a folder are 2^40 paths."""
    inner = tmp_path / "set" / "inner"
    inner.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (inner / name).symlink_to(inner)
        (tmp_path / "set" / name).symlink_to(tmp_path)
    (inner / "rows.jsonl").write_bytes(ROW)
    with tally("hostile") as cases:
        for source in ("set", "set/**/*.jsonl", f"{tmp_path}/set/**/*.jsonl", "**/*.jsonl", "set/inner/*.jsonl"):
            with cases(source):
                assert told(source) == "1 rows"
        with cases("a pattern without an end"):
            assert "there is no data file" in told("set/" + "**/" * 30 + "*.csv")


def test_a_file_that_changes_while_it_is_read(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        for name, change in {
            "grows": lambda file: file.seek(0, 2) and file.write(ROW * 1000),
            "shrinks": lambda file: file.truncate(len(ROW) * 10),
            "is written over": lambda file: file.write(ROW.replace(b"hi", b"ho") * 3),
        }.items():
            path = tmp_path / f"{name}.jsonl"
            path.write_bytes(ROW * 30_000)
            with (
                cases(name),
                path.open("r+b") as file,
                pytest.raises(DataError, match="changed while it was read|cut off"),
            ):
                for number, _ in enumerate(sources.read(str(path), [])):
                    if number == 10:
                        time.sleep(0.01)
                        change(file)
                        file.flush()


def test_saved_sets_and_listings_of_strangers(tally: Callable[[str], Any], tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]).save_to_disk(str(saved))
    info = json.loads((saved / "dataset_info.json").read_text())
    with tally("hostile") as cases:
        for name, features in {
            "features of an unknown type": {"prompt": {"_type": "os.system"}},
            "features that are none": [1],
            "features deep": json.loads('{"a": ' * 150 + "1" + "}" * 150),
        }.items():
            with cases(name):
                (saved / "dataset_info.json").write_text(json.dumps(info | {"features": features}))
                assert "no whole saved data set" in told("saved", memory=2000)
        for name, text in {
            "itself": '{"x": {"file_name": "dataset_info.json"}}',
            "its folder, under no name": '{"": {"file_name": "."}, "x": {"file_name": "."}}',
            "deep": '{"x": ' + "[" * 100_000,
            "a script": '{"x": {"script_url": "evil"}}',
            "a pipe": '{"x": {"file_name": "pipe"}}',
            "large": '{"x": "' + "a" * (17 * MB) + '"}',
        }.items():
            folder = tmp_path / name.replace(" ", "").replace(",", "")
            folder.mkdir()
            os.mkfifo(folder / "pipe")
            (folder / "dataset_info.json").write_text(text)
            with cases(f"a listing that names {name}"):
                assert "rows" not in told(f"{folder}#x")[:7]
                told(str(folder))


@pytest.mark.parametrize("source", ["evil/set", "evil/set:config@main#train"])
def test_nothing_of_the_hub_is_run(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a loading script nor a pickle: datasets has no way to any more, and is not asked to."""
    asked: list[dict[str, Any]] = []

    def load(*names: Any, **settings: Any) -> Any:
        asked.append(settings)
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="no longer supported"):
        list(sources.read(source, []))
    assert not asked[0].get("trust_remote_code")
    assert "exec(" not in Path(datasets.load.__file__).read_text(encoding="utf-8")


TEXTS = {
    "line ends behind a speaker": "User:" + "\n" * 100_000 + "x",
    "blanks behind a speaker": "User: a\n" + " " * 100_000 + "x",
    "speakers": "\n\nHuman:" * 12_000,
    "roles": '[{"role":' * 3_000 + "]",
    "brackets": "[" * 10_000 + "]" * 10_000,
    "signs": "[" + "-" * 20_000 + "1]",
    "sums": "[1" + "+1" * 10_000 + "]",
    "arrays": "[array(" + ", " * 10_000 + "]",
    "marks": "[INST]" * 3_000,
    "blanks": "a\n" + " " * 100_000,
    "combining characters": "a" + "\u0301" * 100_000,
    "NUL": "\\u0000" * 10_000,
}


def test_texts_that_an_expression_could_take_for_ever(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        for name, text in TEXTS.items():
            with cases(name):
                row = json.dumps({"prompt": "Say hi", "completion": text}).replace("\\\\u0000", "\\u0000")
                (tmp_path / "t.jsonl").write_text(row + "\n")
                began = time.monotonic()
                told(tmp_path / "t.jsonl", USUAL)
                written.broken(text)
                list(written.ANSWERS.finditer(text))
                assert time.monotonic() - began < PATIENCE


@pytest.mark.slow
def test_gigabytes(tally: Callable[[str], Any], tmp_path: Path) -> None:
    """A line of 1 GB and bombs as they come, by the usual limits."""
    with tally("hostile") as cases:
        for name, content in {
            "line of 1 GB.jsonl.gz": packed(b"a" * MB, 1024, ROW + b'{"prompt": "'),
            "array of 1 GB.json.gz": packed(b"1," * (MB // 2), 1024, b'[{"a": ['),
            "cell of 1 GB.csv.gz": packed(b"a" * MB, 1024, b"prompt,completion\na,"),
            "blanks of 4 GB.jsonl.gz": packed(b" \n" * MB, 1024, ROW),
        }.items():
            with cases(name):
                (tmp_path / name).write_bytes(content)
                assert "data.max_r" in told(tmp_path / name, USUAL, memory=900)
        with cases("sparse line of 100 GB"):
            with (tmp_path / "sparse.jsonl").open("wb") as file:
                file.write(ROW + b'{"a": "' + b"a" * 5000)
                file.truncate(100 << 30)
            assert "sparse.jsonl:2: line: it has more than 16 MB" in told(tmp_path / "sparse.jsonl", USUAL, memory=900)
        with cases("a text of 20 MB in 100,000 rows"):
            rows = {"prompt": ["a" * 17 * MB] * 5000, "completion": ["b"] * 5000}
            table = {key: pyarrow.array(value[:1]).dictionary_encode().take(pyarrow.array([0] * 5000)) for key, value in rows.items()}  # fmt: skip
            (tmp_path / "d.parquet").write_bytes(parquet(table, compression="zstd", dictionary_pagesize_limit=1 << 30))
            assert "data.max_r" in told(tmp_path / "d.parquet", USUAL, memory=3000)
        with cases("20 million rows in 50 KB"):
            (tmp_path / "r.parquet").write_bytes(
                parquet({"prompt": pyarrow.array([""] * 20_000_000)}, compression="zstd")
            )
            assert "data.max_ratio" in told(tmp_path / "r.parquet", USUAL, memory=1500)
