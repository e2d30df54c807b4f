"""Does everything hold on this machine's GPU, and how fast and how small is it? One table in at most eight minutes.

    python -m pipeline.bench.gpu_check          # make gpu-check; writes runs/gpu-check.json

Every row is a process with a limit of its own; one that fails is a row that says so, and the next one begins. Ends with 0 where all
rows held, 1 where one did not, 2 where there is no GPU.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import cleaning
from pipeline.artifacts.files import read_rows, write_json
from pipeline.artifacts.manifest import now

WHOLE = 480.0  # seconds
REPORT, RUN = Path("runs/gpu-check.json"), "gpu-check"
SMOKE = "recipes/smoke.yaml"
STAGES = ("sft", "reward", "ppo", "compare")
ROW = "pipeline.bench.gpu_rows"


@dataclass(frozen=True)
class Row:
    """One process: what it is called, how it is started, how many seconds it may take."""

    name: str
    command: Sequence[str]
    limit: float
    reports: str | None = None  # a file that holds its figures; None: the last line that it prints is JSON


@dataclass
class Found:
    """What became of a row: "held", "failed: …", "stopped: …" or "not run: …"."""

    name: str
    result: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def rows(engines: Iterable[str]) -> list[Row]:
    """What is checked, in order; the most telling first."""
    own = [sys.executable, "-m", ROW]
    walk = [sys.executable, "-m", "pipeline", "all", SMOKE, "dtype=bfloat16", "--run", RUN]
    bench = [sys.executable, "-m", "pipeline.bench", "--quick", "--dtype", "bfloat16", "--iters", "1"]
    return [
        Row("machine", [*own, "machine"], 40),
        Row("walk in bfloat16", walk, 150, "walk"),
        *(Row(f"ppo, engine {name}", [*own, "ppo", name], 90) for name in engines),
        Row("architectures", [*own, "architectures"], 120),
        Row("beside TRL 1.12.0", bench, 200, "runs/bench/report.json"),
    ]


def installed() -> list[str]:
    """The engines that can be run here."""
    return ["transformers", "continuous", *(["vllm"] if importlib.util.find_spec("vllm") else [])]


def run_row(row: Row, left: float) -> Found:
    """Run one row within its limit and the `left` seconds of the whole."""
    limit, started = min(row.limit, left), time.monotonic()
    if limit < 1:
        return Found(row.name, f"not run: the {WHOLE / 60:.0f} minutes of all rows were over")
    path = os.pathsep.join(filter(None, ["tests", os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        row.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with what it started itself
        process.communicate()
        return Found(row.name, f"stopped: {limit:.0f} seconds were over", time.monotonic() - started)
    seconds, lines = time.monotonic() - started, [line for line in said.splitlines() if line.strip()]
    if process.returncode:
        last = lines[-1] if lines else f"nothing was said, exit code {process.returncode}"
        kind = "not run" if process.returncode == 2 else "failed"
        return Found(row.name, f"{kind}: {last.removeprefix('error: ')}", seconds)
    try:
        return Found(row.name, "held", seconds, figures_of(row, lines))
    except (OSError, ValueError, KeyError, IndexError) as error:
        return Found(row.name, f"failed: it ended well and left no figures ({error})", seconds)


def figures_of(row: Row, lines: Sequence[str]) -> dict[str, Any]:
    """The figures that a row left behind. Raises where there are none."""
    if row.reports is None:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    if row.reports == "walk":
        return walk_figures(Path("runs") / RUN)
    report = json.loads(Path(row.reports).read_text(encoding="utf-8"))
    return {
        f"adapters in {r['lora_layers'] or 'all'} layers": (
            f"{r['ours']['s_per_iteration']:.3g} s, TRL {r['trl']['s_per_iteration']:.3g} ({r['speedup']:.2f}x); "
            f"{r['ours']['peak_gb']:.3g} GB, TRL {r['trl']['peak_gb']:.3g}"
        )
        for r in report["rows"]
    }


def walk_figures(folder: Path) -> dict[str, Any]:
    """Gates of the walk's stages, and PPO's ratio and KL of the first iteration."""
    gates = {
        s: json.loads((folder / s / "manifest.json").read_text(encoding="utf-8"))["gate"]["result"] for s in STAGES
    }
    first = read_rows(folder / "ppo" / "metrics.jsonl")[0]
    return {"gates": gates, "ratio": first["val/ratio"], "kl at first": first["objective/kl"]}


def table(found: Sequence[Found]) -> str:
    """Rows for people: what held, how long it took, its figures."""
    width = max(len(row.name) for row in found)
    out = []
    for row in found:
        out.append(f"{row.name.ljust(width)}  {row.seconds:5.0f} s  {row.result}")
        out += [f"{' ' * width}           {name}: {_shown(value)}" for name, value in row.figures.items()]
    return "\n".join(out)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def check(every: Sequence[Row], whole: float = WHOLE) -> list[Found]:
    """Run the rows one after another; the report is written after each."""
    started, found = time.monotonic(), list[Found]()
    if (Path("runs") / RUN).is_dir():
        cleaning.remove(cleaning.one(RUN))  # of an earlier check
    for row in every:
        print(f"gpu-check: {row.name}", file=sys.stderr, flush=True)
        found.append(run_row(row, whole - (time.monotonic() - started)))
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        write_json(REPORT, {"at": now(), "rows": [vars(one) for one in found]})
    return found


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        print("gpu-check: it needs a CUDA GPU, and torch sees none here; nothing was run", file=sys.stderr)
        sys.exit(2)
    found = check(rows(installed()))
    print(table(found))
    print(f"written to {REPORT}")
    sys.exit(int(any(not row.result.startswith(("held", "not run")) for row in found)))


if __name__ == "__main__":
    main()
