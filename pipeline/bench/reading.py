"""How fast are rows read, recognised, parsed and checked, and does memory stay the same however large the file?

    python -m pipeline.bench.reading [--quick] [--only REGEX]

For every kind of row a file of 10 MB, of 100 MB and of 1 GB is written to a temporary folder, read by `reading.scan` in a
fresh process on one core, and removed; --quick leaves the largest out. Beside it stands what the json module and orjson
need for the same lines alone. Writes runs/bench/data.json.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import write_json
from pipeline.artifacts.manifest import now

FOLDER = Path("runs/bench")
SIZES = {"10 MB": 10**7, "100 MB": 10**8, "1 GB": 10**9}
DIFFERENT = 2_000
"""Rows made by chance; every one comes again with another number in it."""
NUMBER = b"@@@@@@@@"
WORDS = (
    "the of and to a in that it is was for on with as be at by this had not are but from or have an they which one you "
    "were all her she there would their we him been has when who will no more if out so said what up its about into than "
    "them can only other new some could time these two may then do first any my now such like our over man me even most "
    "after also did many before must through back years where much your way well down should because each just those "
    "people how too little state good very make world still own see men work long get here between both life being under "
    "never day same another know while last might us great old year off come since against go came right used take three"
).split()
ODD = ["It's", "“quoted”", "naïve", "café —", "1,000", "(see below)", "e.g.", "`code`", "x = 3;", '"so":', "你好", "…"]


def text(chance: random.Random, characters: int) -> str:
    """Words, punctuation, line breaks and now and then something outside ASCII, about so many characters."""
    said: list[str] = []
    size = 0
    while size < characters:
        word = chance.choice(ODD) if chance.random() < 0.005 else chance.choice(WORDS)
        word += chance.choice((".", ",", ".", "?", ":", ".\n\n")) if chance.random() < 0.1 else ""
        said.append(word)
        size += len(word) + 1
    return " ".join(said).replace("\n\n ", "\n\n").strip()


def preference(chance: random.Random, number: str) -> dict[str, Any]:
    """About 1.5 kB."""
    prompt = f"{text(chance, chance.randint(100, 500))} {number}?"
    return {"prompt": prompt, **{key: text(chance, chance.randint(300, 900)) for key in ("chosen", "rejected")}}


def transcript(chance: random.Random, number: str) -> dict[str, Any]:
    """As in hh-rlhf: two dialogues of one to four questions that part at the last answer."""
    begin = f"\n\nHuman: {text(chance, 120)} {number}?"
    for _ in range(chance.randint(0, 3)):
        begin += f"\n\nAssistant: {text(chance, 200)}\n\nHuman: {text(chance, 80)}"
    return {key: f"{begin}\n\nAssistant: {text(chance, 300)}" for key in ("chosen", "rejected")}


def k_wise(chance: random.Random, number: str) -> dict[str, Any]:
    """Our own rankings of four to nine answers."""
    many = chance.randint(4, 9)
    order = chance.sample(range(many), many)
    ranking = [order[:1], order[1:3], *([place] for place in order[3:])]
    completions = [text(chance, chance.randint(200, 600)) for _ in range(many)]
    return {"prompt": f"{text(chance, 200)} {number}", "completions": completions, "ranking": ranking}


KINDS = {"preference": preference, "transcript": transcript, "k_wise": k_wise}


def write(kind: str, size: int, path: Path) -> None:
    """JSON lines of so many bytes or a few more; no two prompts are the same."""
    chance = random.Random(0)
    rows = [KINDS[kind](chance, f"{place}-{NUMBER.decode()}") for place in range(DIFFERENT)]
    block = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with path.open("wb") as file:
        number = 0
        while (left := size - file.tell()) > 0:
            again = block.replace(NUMBER, b"%08d" % number)
            file.write(again if len(again) <= left else again[: again.find(b"\n", left) + 1])
            number += 1


def measure(path: Path) -> dict[str, Any]:
    """What this process needs to read the file; peak memory is that of the process, its libraries included."""
    from data.loading import scan
    from data.reading.options import Options

    before = peak_mb()
    wall, busy = time.perf_counter(), time.process_time()
    account = scan(str(path), Options(), lambda number, row: None)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    size = path.stat().st_size / 1e6
    return {
        "format": account.format,
        "read": account.read,
        "kept": account.kept,
        "mb": size,
        "seconds": wall,
        "mb_per_s": size / wall,
        "mb_per_cpu_s": size / busy,
        "rows_per_s": account.read / wall,
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
    }


def peak_mb() -> float:
    """Peak resident memory of this process, in MB. A child's `ru_maxrss` may be its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def alone(path: Path) -> dict[str, float]:
    """MB/s of the two JSON parsers by themselves, on lines in memory."""
    import orjson

    raw = path.read_bytes().splitlines()
    found = {}
    for name, loads in (("json", json.loads), ("orjson", orjson.loads)):
        start = time.perf_counter()
        for line in raw:
            loads(line)
        found[f"{name}_mb_per_s"] = path.stat().st_size / 1e6 / (time.perf_counter() - start)
    return found


def in_a_process(flag: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline.bench.reading", flag, str(path)]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def runs(kinds: list[str], sizes: dict[str, int]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for kind in kinds:
            for name, size in sizes.items():
                write(kind, size, path)
                # The smallest one takes so short that another process may disturb it: the best of three counts.
                tries = [in_a_process("--measure", path) for _ in range(3 if size == min(sizes.values()) else 1)]
                row = {"kind": kind, "size": name, **min(tries, key=lambda one: one["seconds"])}
                yield row | (in_a_process("--alone", path) if size == min(sizes.values()) else {})
                path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.bench.reading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="10 and 100 MB only")
    parser.add_argument("--only", metavar="REGEX", default="", help="kinds of rows: " + ", ".join(KINDS))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure or options.alone:
        print(json.dumps(measure(options.measure) if options.measure else alone(options.alone)))
        return
    kinds = [kind for kind in KINDS if re.search(options.only, kind)]
    if not kinds:
        parser.error(f"--only {options.only}: no such kind of rows; there are {', '.join(KINDS)}")
    sizes = {name: size for name, size in SIZES.items() if size < 10**9 or not options.quick}
    print(f"{'rows':12}{'size':>8}{'rows read':>12}{'MB/s':>8}{'rows/s':>10}{'peak MB':>9}")
    rows = []
    for row in runs(kinds, sizes):
        rows.append(row)
        line = f"{row['kind']:12}{row['size']:>8}{row['read']:>12,}{row['mb_per_s']:>8.1f}{row['rows_per_s']:>10,.0f}"
        print(f"{line}{row['peak_mb']:>9.0f}", flush=True)
        if "json_mb_per_s" in row:
            print(
                f"  of which parsing alone: json {row['json_mb_per_s']:.0f} MB/s, orjson {row['orjson_mb_per_s']:.0f} MB/s"
            )
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / "data.json", {"made": now(), "rows": rows})
    print(f"written to {FOLDER / 'data.json'}")


if __name__ == "__main__":
    main()
