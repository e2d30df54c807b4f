"""In which encoding is a file written that is not UTF-8, and how is it read when the user says which?"""

import codecs
import io
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO

from data.reading.flaws import stop
from data.schema import Problem

UTF8 = ("utf-8", "utf8", "utf-8-sig")
LOOKED_AT = 1 << 16
"""Bytes of a file by which its encoding is guessed."""
LEGACY = {
    "gb18030": "GBK",
    "big5": "Big5",
    "shift_jis": "Shift JIS",
    "euc_jp": "EUC-JP",
    "euc_kr": "EUC-KR",
    "cp1252": "Windows-1252",
    "cp1251": "Windows-1251",
    "cp1250": "Windows-1250",
    "koi8_r": "KOI8-R",
    "cp1253": "Windows-1253",
    "cp1256": "Windows-1256",
}
"""Encodings that are looked for, by Python's names of them; of those that fit equally well the first is named."""


def guessed(file: str, sample: bytes) -> str | None:
    """The encoding that the file seems to have; `sample` stands for it where it cannot be read once more."""
    path = Path(file)
    return _guessed(path, path.stat().st_mtime_ns) if path.is_file() else _of(sample)


@lru_cache(maxsize=16)
def _guessed(path: Path, changed: int) -> str | None:
    with path.open("rb") as stream:
        return _of(stream.read(LOOKED_AT))


def _of(raw: bytes) -> str | None:
    from charset_normalizer import from_bytes  # only for whoever has such a file

    found = list(from_bytes(raw, cp_isolation=[*LEGACY]))
    if not found:
        return None
    best = [one.encoding for one in found if (one.chaos, one.coherence) == (found[0].chaos, found[0].coherence)]
    return next((name for name in LEGACY if name in best), None)


def remedy(file: str, sample: bytes) -> str:
    """What to do about bytes that are not UTF-8."""
    name = guessed(file, sample)
    if name is None:
        return "save the file as UTF-8, or set data.encoding to what it is"
    return f"it may be {LEGACY[name]}: then set data.encoding={name}, or save the file as UTF-8"


def not_utf8(file: str, line: int, error: UnicodeDecodeError) -> Problem:
    byte = error.object[error.start]
    return Problem(file, line, "line", f"byte 0x{byte:02x} is not UTF-8", remedy(file, error.object))


def recoded(stream: IO[bytes], encoding: str, file: str) -> IO[bytes]:
    """The stream as UTF-8, in a temporary file. Raises DataError where there is no such encoding, or it is another."""
    try:
        codec = codecs.lookup(encoding)
        decoder = codec.incrementaldecoder("strict") if codec._is_text_encoding else None
    except (LookupError, ValueError):
        decoder = None
    if decoder is None:
        stop(
            file, None, "encoding", f'there is no encoding "{encoding}"', "write one that Python knows, such as gb18030"
        )
    made = tempfile.TemporaryFile()
    line = 1
    while True:
        raw = stream.read(1 << 20)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            what = f"byte 0x{error.object[error.start]:02x} is not {encoding}"
            stop(file, line, "line", what, "set data.encoding to what it is, or save the file as UTF-8")
        line += text.count("\n")
        made.write(text.removeprefix("\ufeff").encode("utf-8", "surrogatepass"))
        if not raw:
            made.seek(0)
            return io.BufferedReader(made)  # type: ignore[arg-type, type-var]
