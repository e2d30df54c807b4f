"""Which files cannot be read at all or not to their end, and which only look so?"""

import bz2
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Iterator

from .outcome import Case, Wrong, accepted, refused
from .rows import (
    ALPACA,
    ASKED,
    BOM,
    CHAT,
    DEMO,
    GOOD,
    HH,
    PAIR,
    PKU,
    SHP,
    TALK,
    Row,
    array,
    dumped,
    gzipped,
    lines,
    nested,
    parquet,
    table,
    without,
)


def whole_files() -> Iterator[Case]:
    for name, content in {
        "nothing": b"", "newline": b"\n", "spaces": b"  \t \r\n \n", "bom": BOM, "bom-newlines": BOM + b"\r\n\r\n",
        "8000-newlines": b"\n" * 8000, "form-feed": b"\x0c\n\x0b",
    }.items():  # fmt: skip
        yield refused(f"empty-{name}.jsonl", content, None, "file", "it is empty", 5)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        says = "UTF-32" if encoding == "utf-32" else "UTF-16"
        yield refused(f"encoded-{encoding}.jsonl", lines([PAIR]).decode().encode(encoding), None, "file", says, 4)
    yield refused("encoded-utf-16.csv", table([PAIR]).decode().encode("utf-16"), None, "file", "UTF-16", 4)
    pretty = json.dumps(PAIR, indent=2).encode()
    yield refused("pretty.jsonl", pretty, 1, "line", "spread over several lines", 2)
    yield refused("pretty-many.jsonl", pretty + b"\n" + pretty + b"\n", 1, "line", "spread over several lines", 2)
    yield refused("pretty-comma.jsonl", pretty + b",\n" + pretty, 1, "line", "spread over several lines", 2)
    yield refused("pretty-late.jsonl", b"\n\n" + pretty, 3, "line", "spread over several lines", 2)
    yield refused(
        "pretty-tabs.jsonl", json.dumps(CHAT, indent="\t").encode(), 1, "line", "spread over several lines", 2
    )
    yield refused("pretty-bom.jsonl", BOM + pretty, 1, "line", "spread over several lines", 2)
    for name in ("data", "rows", "train", "examples"):
        yield refused(f"wrapped-{name}.json", dumped({name: [PAIR]}), 1, name, "wrapped in an object", 3)
    yield refused("wrapped-pretty.json", json.dumps({"data": [PAIR]}, indent=1).encode(), 1, "data", "wrapped", 3)
    yield refused("wrapped-version.json", dumped({"version": 2, "data": [PAIR, PAIR]}), 1, "data", "wrapped", 3)
    yield refused("wrapped-splits.json", dumped({"train": [PAIR], "test": [PAIR]}), 1, "train", "wrapped", 3)
    yield Case(
        "wrapped-unknown.json",
        dumped({"stuff": [PAIR]}),
        None,
        0,
        "",
        (Wrong(1, "keys", "no format is known with the keys stuff"),),
        kind=3,
    )
    by_number = dumped({"0": PAIR, "1": PAIR})
    yield refused("by-number.json", by_number, 1, "keys", "no format is known with the keys 0, 1", 3)
    columns = {key: [value, value] for key, value in PAIR.items()}
    yield Case(
        "by-column.json",
        dumped(columns),
        1,
        0,
        "preference",
        (Wrong(1, "prompt[0]", "not an object"), Wrong(1, "prompt[1]", "not an object")),
        kind=9,
    )
    unknown: list[tuple[str, list[Row], str]] = [
        ("unknown-keys", [{"question": "a", "reply": "b"}], "no format is known with the keys question, reply"),
        ("no-keys", [{}], "no format is known with the keys none"),
        ("misspelt-all", [without(DEMO, "completion") | {"completon": "b"}] * 3, 'did you mean "completion"'),
        ("misspelt-all-prompt", [without(PAIR, "prompt") | {"promt": "b"}] * 2, 'did you mean "prompt"'),
        ("misspelt-space", [without(PAIR, "prompt") | {" prompt": "b"}] * 2, 'did you mean "prompt"'),
        ("two-formats", [{**DEMO, "messages": TALK["messages"]}], "fits two formats, prompt_completion and messages"),
    ]
    for name, rows, says in unknown:
        yield refused(f"keys-{name}.jsonl", lines(rows), 1, "keys", says, 6)
    many = dumped({f"key{n}": n for n in range(100_000)})
    yield refused("keys-100000.jsonl", many, 1, "keys", "no format is known with the keys key0, key1", 6)
    yield Case(
        "mixed-formats.jsonl",
        lines([ASKED, ASKED, DEMO]),
        3,
        2,
        "prompt",
        (Wrong(3, "keys", "looks like prompt_completion among rows of the format prompt"),),
        kind=6,
    )
    yield Case(
        "mixed-two.jsonl",
        lines([DEMO, DEMO, {**DEMO, "messages": TALK["messages"]}]),
        3,
        2,
        "prompt_completion",
        (Wrong(3, "keys", "fits two formats"),),
        kind=6,
    )
    yield refused("no-axis.jsonl", lines([PKU]), None, "axis", "axis: better or axis: safer", 0)
    yield refused("json-after-comment.jsonl", b"# our rows\n" + GOOD + b"\n", 1, "line", "JSON follows", 1)
    yield refused("json-after-slashes.json", b"// our rows\n" + array([PAIR]), 1, "line", "JSON follows", 1)
    yield refused("javascript.js", b"var rows =\n" + array([PAIR]), 1, "line", "JSON follows", 1)
    yield refused("first-null.jsonl", b"null\n" + GOOD + b"\n", 1, "line", "JSON follows", 9)
    yield Case(
        "first-cut.jsonl", b'{"prompt": "a\n' + GOOD + b"\n", 2, 1, "preference", (Wrong(1, "line", "cut off"),), kind=1
    )
    yield Case(
        "first-python.jsonl",
        b"{'prompt': 'a'}\n" + GOOD + b"\n",
        2,
        1,
        "preference",
        (Wrong(1, "line", "double quotes"),),
        kind=1,
    )
    yield Case(
        "all-cut.jsonl",
        b'{"prompt": "a\n' * 30,
        None,
        0,
        "",
        tuple(Wrong(n, "line", "cut off") for n in range(1, 31)),
        kind=1,
    )
    yield Case(
        "old-mac.jsonl", GOOD + b"\r" + GOOD + b"\r", None, 0, "", (Wrong(1, "line", "write one row a line"),), kind=1
    )
    yield Case(
        "same-ids.jsonl",
        lines([{**PAIR, "id": n} for n in (1, 2, "1", 2, 3)]),
        5,
        3,
        "preference",
        (Wrong(3, "id", "also that of line 1"), Wrong(4, "id", "also that of line 2")),
        kind=18,
    )
    yield Case(
        "several-on-a-line.jsonl",
        lines([PAIR, {"prompt": "", "chosen": None, "rejected": 1}, PAIR]),
        3,
        2,
        "preference",
        (Wrong(2, "prompt", "blank"), Wrong(2, "chosen", "null"), Wrong(2, "rejected", "number")),
        kind=8,
    )
    for name, content, says in [
        ("page.html", b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        ("rows.xml", b"<?xml version='1.0'?><rows/>", "HTML or XML"),
        ("pointer.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n", "Git LFS"),
        ("document.pdf", b"%PDF-1.7\n%\xe2\xe3\n", "PDF"),
        ("base.db", b"SQLite format 3\0" + b"\0" * 80, "SQLite"),
        ("zeros.bin", b"\0" * 4096, "NUL bytes"),
        ("program", b"\x7fELF\x02\x01\x01\0\0\0", "NUL bytes"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "NUL bytes"),
        ("early-nul.jsonl", b'{"prompt": "a\0b"}\n' + GOOD, "NUL bytes"),
        ("table.arrow", b"ARROW1\0\0" + b"\0" * 64, "Arrow"),
    ]:
        yield refused(f"other-{name}", content, None, "file", says, 4)


def arrays() -> Iterator[Case]:
    two = dumped(PAIR) + b",\n" + dumped(PAIR)
    yield accepted("array-bom.json", BOM + b" [\r\n" + two + b"]\r\n", 2)
    yield accepted("array-pretty.json", json.dumps([PAIR, CHAT, PAIR], indent=4).encode(), 3)
    yield accepted("array-one-line.json", dumped([PAIR] * 4), 4)
    yield accepted("array-blank-lines.json", b"\n\n[\n\n" + two + b"\n\n]\n\n\n", 2)
    many = [{**PAIR, "prompt": "A river? " * 200}] * 1500
    long = array(many)
    yield accepted("array-long.json", long, 1500)
    yield accepted("array-long-one-line.json", dumped(many), 1500)
    yield accepted("array-chinese-long.json", array([{**PAIR, "prompt": "河" * n} for n in range(1, 1500)]), 1499)
    yield accepted("array-large-row.json", array([PAIR, {**PAIR, "prompt": "a river " * 400_000}, PAIR]), 3)
    yield accepted("array.json.gz", gzipped(array([PAIR] * 3)), 3)
    for name, content, line, says, kind in [
        ("empty", b"[]", None, "no rows", 5),
        ("empty-spaced", b" [ \n ] \n", None, "no rows", 5),
        ("cut-open", b"[", 1, "cut off", 1),
        ("cut-after-row", b"[\n" + GOOD, 2, "the array is cut off", 1),
        ("cut-after-comma", b"[\n" + GOOD + b",\n", 3, "cut off", 1),
        ("cut-in-row", b"[\n" + GOOD + b",\n" + GOOD[:20], 3, "cut off", 1),
        ("cut-long", long[:-20], 1501, "cut off", 1),
        ("no-comma", b"[\n" + GOOD + b"\n" + GOOD + b"\n]", 3, "a comma or ] is missing", 1),
        ("no-comma-one-line", b"[" + GOOD + GOOD + b"]", 1, "a comma or ] is missing", 1),
        ("trailing-comma", b"[\n" + GOOD + b",\n]", 3, "take out the comma", 1),
        ("two-commas", b"[\n" + GOOD + b",,\n" + GOOD + b"]", 2, "not JSON", 1),
        ("leading-comma", b"[\n," + GOOD + b"]", 2, "not JSON", 1),
        ("comment", b"[\n// first\n" + GOOD + b"]", 2, "take the comment out", 1),
        ("python", b"[\n{'prompt': 'a'}]", 2, "double quotes", 1),
        ("python-none", b'[\n{"prompt": "a", "b": None}]', 2, "true, false and null", 1),
        ("something-follows", array([PAIR]) + b"{}", 4, "something follows the end", 1),
        ("two-arrays", array([PAIR]) + array([PAIR]), 4, "something follows the end", 1),
        ("closed-wrongly", b"[\n" + GOOD + b"\n}", 3, "a comma or ] is missing", 1),
        ("not-utf8", b"[\n" + GOOD + b',\n{"prompt": "a\xff"}\n]', 3, "byte 0xff is not UTF-8", 4),
        ("not-utf8-after", array([PAIR]) + b"\xff", 4, "byte 0xff is not UTF-8", 4),
        ("raw-newline", b'[\n{"prompt": "a\nb"}]', 2, "line breaks", 1),
        ("nested-too-deep", b"[" * 100_000, 1, "", 9),
    ]:
        yield refused(f"array-{name}.json", content, line, "file" if line is None else "line", says, kind)
    yield refused("array-wrong-late.json", long[:-2] + b"oops", 1502, "line", "a comma or ]", 1)
    for name, row, field, says, kind in [
        ("number", b"3", "line", "the row is a number", 9),
        ("null", b"null", "line", "the row is null", 9),
        ("text", b'"a"', "line", "the row is a text", 9),
        ("list", dumped([PAIR]), "line", "the row is a list", 9),
        ("nan", GOOD[:-1] + b', "n": NaN}', "n", "not finite", 17),
        ("twice", b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "prompt", "stands twice", 20),
        ("half-pair", b'{"prompt": "\\ud800", "chosen": "c", "rejected": "d"}', "prompt", "half a surrogate", 4),
        ("deep", nested(201), "line", "nested more than 200", 9),
    ]:
        content = b"[\n" + GOOD + b",\n" + row + b",\n" + GOOD + b"\n]"
        yield Case(f"array-element-{name}.json", content, 3, 2, "preference", (Wrong(3, field, says),), kind=kind)
        content = b"[" + GOOD + b"," + row + b"," + GOOD + b"]"
        yield Case(f"array-place-{name}.json", content, 3, 2, "preference", (Wrong(2, field, says),), kind=kind)


def packed() -> Iterator[Case]:
    whole = gzipped(lines([PAIR] * 50))
    yield accepted("packed-named.jsonl", whole, 50)
    yield accepted("packed-members.jsonl.gz", gzipped(GOOD + b"\n") + gzipped(GOOD + b"\n"), 2)
    yield accepted("packed-split-line.jsonl.gz", gzipped(GOOD[:20]) + gzipped(GOOD[20:]), 1)
    yield accepted("packed-padded.jsonl.gz", gzipped(GOOD) + b"\0" * 512, 1)
    yield accepted("packed-csv.gz", gzipped(table([PAIR, PAIR])), 2)
    broken = "gzip stream is broken or cut off"
    noise = gzipped(b"".join(lines([{**PAIR, "prompt": f"{n * 7919 % 10007}"}]) for n in range(3000)))
    yield refused("packed-cut.jsonl.gz", whole[:-12], None, "file", broken, 1)
    yield refused("packed-cut-trailer.jsonl.gz", whole[:-4], None, "file", broken, 1)
    yield refused("packed-header-only.gz", whole[:10], None, "file", broken, 1)
    yield refused("packed-magic-only.gz", whole[:2], None, "file", broken, 1)
    yield refused("packed-checksum.gz", whole[:-8] + b"\0\0\0\0" + whole[-4:], None, "file", broken, 1)
    yield refused(
        "packed-flipped.gz", noise[:3000] + bytes([noise[3000] ^ 255]) + noise[3001:], None, "file", broken, 1
    )
    yield refused("packed-garbage-after.gz", whole + b"garbage", None, "file", broken, 1)
    yield refused("packed-method.gz", b"\x1f\x8b\x07" + whole[3:], None, "file", broken, 1)
    yield refused("packed-empty.gz", gzipped(b""), None, "file", "it is empty", 5)
    yield refused("packed-blank.gz", gzipped(b"\n \n"), None, "file", "it is empty", 5)
    yield refused("packed-twice.gz", gzipped(whole), None, "file", "compressed twice", 4)
    yield refused("packed-parquet.gz", gzipped(parquet([PAIR])), None, "file", "Parquet inside gzip", 4)
    yield refused("packed-utf-16.gz", gzipped(GOOD.decode().encode("utf-16")), None, "file", "UTF-16", 4)
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(zipfile.ZipInfo("rows.jsonl"), lines([PAIR]))
    yield refused("packed-zip.jsonl", raw.getvalue(), None, "file", "zip archive", 4)
    yield refused("packed-zip.xlsx", raw.getvalue(), None, "file", "Excel", 4)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(GOOD)
        tar.addfile(entry, io.BytesIO(GOOD))
    yield refused("packed-tar.gz", gzipped(raw.getvalue()), None, "file", "tar archive", 4)
    yield refused("packed.bz2", bz2.compress(GOOD), None, "file", "bzip2", 4)
    yield refused("packed.xz", lzma.compress(GOOD), None, "file", "xz", 4)
    yield refused("packed.zst", b"\x28\xb5\x2f\xfd\x04\x00", None, "file", "zstd", 4)


def record(name: str, raw: bytes, line: int, field: str, says: str, kind: int = 19) -> Case:
    """A broken record on line 3 between two sound ones."""
    content = b"prompt,completion\nA river?,Rhine\n" + raw + b"\nA town?,Berlin\n"
    wrong = (Wrong(line, field, says),)
    return Case(f"csv-{name}.csv", content, 3, 2, "prompt_completion", wrong, kind=kind)


def tables() -> Iterator[Case]:
    plain = "prompt,completion\r\nA river?,Rhine\r\n"
    yield accepted("csv-crlf.csv", plain.encode(), 1, "prompt_completion")
    yield accepted("csv-bom.csv", BOM + plain.encode(), 1, "prompt_completion")
    yield accepted("csv-no-final-newline.csv", plain.strip().encode(), 1, "prompt_completion")
    yield accepted("csv-blank-lines.csv", b"\nprompt,completion\n\nA river?,Rhine\n\n\n", 1, "prompt_completion")
    yield accepted(
        "csv-quoted.csv", b'"prompt","completion"\n"A ""river"", say","Rhine\nand\n\nElbe"\n', 1, "prompt_completion"
    )
    yield accepted("csv-prompts.csv", "prompt\nA river?\n河？\n".encode(), 2, "prompt")
    yield accepted("csv-extra.csv", table([{**PAIR, "length": "1.5", "note": ""}] * 2), 2)
    yield accepted("csv-long-cell.csv", b"prompt\n" + b"x" * 300_000 + b"\n", 1, "prompt")
    yield accepted("csv-citation.csv", b"prompt\n[1]\n{not json}\n[]\n", 3, "prompt")
    yield accepted("csv-text-none.csv", b"prompt,completion\nNone,NA\nnull,NaN\n", 2, "prompt_completion")
    yield accepted("csv-hh.csv", table([HH, HH]), 2, "hh_rlhf")
    yield accepted("csv-shp.csv", table([SHP, {**SHP, "labels": 0, "history": "A town?"}]), 2, "shp")
    yield accepted("csv-alpaca.csv", table([ALPACA, {**ALPACA, "input": "In France."}]), 2, "alpaca")
    yield accepted("csv-named.jsonl", table([PAIR, PAIR]), 2)
    yield accepted("csv-line-separators.csv", "prompt\na\u2028b\u0085c\n".encode(), 1, "prompt")
    yield record("short", b"only one", 3, "row", "1 cells under 2 columns")
    yield record("long", b"a,b,c", 3, "row", "3 cells under 2 columns")
    yield record("long-trailing-comma", b"a,b,", 3, "row", "3 cells under 2 columns")
    yield record("quote-inside", b'"a"b,c', 3, "row", "closes on line 3 in the middle")
    yield record("quote-inside-later", b'x,"a\nb"c', 3, "row", "closes on line 4 in the middle")
    yield record("json-list", b'a,"[{""role"": ""user""}]"', 3, "completion", "the cell holds JSON")
    yield record("json-object", b'"{""a"": 1}",b', 3, "prompt", "the cell holds JSON")
    yield record("json-texts", b'a,"[""b"", ""c""]"', 3, "completion", "the cell holds JSON")
    yield record("empty-cell", b"a,", 3, "completion", "it is blank", 8)
    yield record("no-cells", b",", 3, "prompt", "it is blank", 8)._replace(
        wrong=(Wrong(3, "prompt", "it is blank"), Wrong(3, "completion", "it is blank"))
    )
    yield record("latin-1", b"a,b\xe9", 3, "line", "byte 0xe9 is not UTF-8", 4)
    yield record("return", b"a\rb,c", 3, "row", "not CSV")
    yield record("nul", b"x" * 5000 + b"\0,b", 3, "prompt", "NUL")
    yield record("json-line", GOOD, 3, "row", "3 cells under 2 columns")
    head = b"prompt,completion\nA river?,Rhine\n"
    for name, raw, line in [("quote", b'a,"b\nc,d\n', 3), ("late", b'a,b\n"c', 4), ("alone", b'"', 3)]:
        yield refused(f"csv-unclosed-{name}.csv", head + raw, line, "row", "is never closed", 19)
    yield refused("csv-unclosed-header.csv", b'"prompt,completion\na,b\n', 1, "row", "is never closed", 19)
    for name, content in {
        "header": b"prompt,completion\n",
        "header-blank": BOM + b"prompt,completion\r\n\r\n\r\n",
    }.items():
        yield refused(f"csv-only-{name}.csv", content, None, "file", "no rows", 5)
    for name, mark, called in [("semicolons", ";", "semicolons"), ("tabs", "\t", "tabs"), ("bars", "|", "bars")]:
        content = f"prompt{mark}completion\na{mark}b\n".encode()
        yield refused(f"csv-{name}.csv", content, 1, "header", called, 19)
    yield refused("csv-same-columns.csv", b"prompt,prompt\na,b\n", 1, "prompt", "same name", 20)
    yield refused("csv-no-name.csv", b",prompt,completion\n0,a,b\n", 1, "header", "no name", 19)
    yield refused("csv-bad-header.csv", b"pr\xffompt\na\n", 1, "line", "is not UTF-8", 4)
    yield refused("csv-old-mac.csv", b"prompt,completion\ra,b\rc,d", 1, "row", "not CSV", 19)
    for name, header, says in [
        ("space", " prompt,completion", 'did you mean "prompt"'),
        ("misspelt", "prompt,completoin", 'did you mean "completion"'),
        ("unknown", "question,reply", "no format is known with the keys question, reply"),
    ]:
        yield refused(f"csv-keys-{name}.csv", f"{header}\na,b\n".encode(), 2, "keys", says, 6)
    yield refused("csv-text.txt", b"Just some prose\nover two lines.\n", 2, "keys", "no format is known", 6)
    yield refused("csv-yaml.yaml", b"- prompt: a\n  completion: b\n", 2, "keys", "no format is known", 6)


def parquet_files() -> Iterator[Case]:
    whole = parquet([PAIR] * 20)
    yield accepted("parquet-named.jsonl", whole, 20)
    yield accepted("parquet-large.parquet", parquet([PAIR] * 1500), 1500)
    yield accepted("parquet-extra.parquet", parquet([{**PAIR, "length": 1.5, "raw": b"\0\xff", "tags": ["a"]}] * 2), 2)
    broken = "the Parquet file is broken"
    yield refused("parquet-cut.parquet", whole[:-20], None, "file", broken, 1)
    yield refused("parquet-cut-middle.parquet", whole[: len(whole) // 2], None, "file", broken, 1)
    yield refused("parquet-magic.parquet", b"PAR1", None, "file", broken, 1)
    yield refused("parquet-magics.parquet", b"PAR1PAR1", None, "file", broken, 1)
    yield refused("parquet-footer.parquet", whole[:-8] + b"\xff\xff\xff\x7fPAR1", None, "file", broken, 1)
    yield refused("parquet-no-head.parquet", b"RAP1" + whole[4:], None, "file", "NUL bytes", 1)
    yield refused("parquet-page.parquet", b"PAR1" + b"\xff" * 120 + whole[124:], None, "file", broken, 1)
    yield refused("parquet-no-rows.parquet", no_rows(), None, "file", "no rows", 5)
    yield refused("parquet-same-columns.parquet", same_columns(), None, "prompt", "same name", 20)
    yield Case(
        "parquet-bytes.parquet",
        parquet([{**PAIR, "prompt": b"a"}]),
        1,
        0,
        "preference",
        (Wrong(1, "prompt", "not a text"),),
        kind=9,
    )
    yield Case(
        "parquet-nan.parquet",
        parquet([{**PAIR, "n": 1.0}, {**PAIR, "n": float("nan")}]),
        2,
        1,
        "preference",
        (Wrong(2, "n", "not finite"),),
        kind=17,
    )
    numbers = parquet([{"prompt": 1, "completion": 2}])
    yield Case(
        "parquet-numbers.parquet",
        numbers,
        1,
        0,
        "prompt_completion",
        (Wrong(1, "prompt", "a number"), Wrong(1, "completion", "a number")),
        kind=9,
    )


def no_rows() -> bytes:
    import pyarrow
    import pyarrow.parquet

    raw = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), raw)
    return raw.getvalue()


def same_columns() -> bytes:
    import pyarrow
    import pyarrow.parquet

    raw = io.BytesIO()
    column = pyarrow.array(["a"])
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([column, column], names=["prompt", "prompt"]), raw)
    return raw.getvalue()
