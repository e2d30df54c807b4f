"""How fast and how small is one PPO iteration, beside the last PPOTrainer of TRL and beside what the machine could do?

    python -m pipeline.bench [--quick] [--dtype auto|float32|bfloat16|both] [--iters 3] [--warm-up N] [--only REGEX]

For every group (workload, tuning, adapted layers, epochs, dtype) TRL and ours, once for each kind of critic, are
processes that stay alive side by side and take turns: whatever slows the machine for a while slows all of them. Every
one builds its models and warms up before the first turn, and never do two compute at once. One more process measures
what the machine can do before and after every turn. Writes runs/bench/report.json after every group, logs to
runs/bench/logs/.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import write_json, write_rows
from pipeline.artifacts.manifest import now
from pipeline.bench.machine import SIZES, Shape, Work, decode_bytes, iteration_flops
from pipeline.bench.rates import best, shares
from pipeline.bench.turns import BASELINE, Died, Player, Spec, take_turns

FOLDER = Path("runs/bench")
RECIPE = "recipes/film_reviews.yaml"
BATCH, PROMPT, RANK = 32, 16, 16
LIMITS = {"fixed": 24, "natural": 48}  # new tokens


class BenchError(Exception):
    """What a user can mend; the message names the remedy."""


@dataclass(frozen=True)
class Group:
    """What is measured in one game: TRL once, ours once for each of `critics`."""

    workload: str
    lora: bool
    lora_layers: int | None
    epochs: int
    dtype: str
    critics: tuple[str, ...]

    @property
    def name(self) -> str:
        tuning = "full" if not self.lora else f"last{self.lora_layers}" if self.lora_layers else "lora"
        return f"{self.workload}-{tuning}-{self.epochs}-{self.dtype}"


def groups(quick: bool, dtypes: Sequence[str], last: int) -> list[Group]:
    """`last`: how many layers are the last third."""
    kinds: list[tuple[str, bool, int | None, int]] = [("fixed", True, None, 1), ("fixed", True, last, 1)]
    if not quick:
        kinds += [("natural", True, None, 4), ("natural", True, last, 4), ("fixed", False, None, 1)]
        kinds += [("natural", False, None, 4)]
    critics = [("head",) if quick else ("adapter", "head") if lora else ("full",) for _, lora, _, _ in kinds]
    return [Group(*kind, dtype, critic) for dtype in dtypes for kind, critic in zip(kinds, critics, strict=True)]


def baseline(folder: Path = BASELINE) -> Path:
    """The folder that holds trl 1.12.0, installed beside the project's own. Raises BenchError when pip cannot."""
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    print("installing trl 1.12.0 beside the project's own", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(part), "trl==1.12.0"], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BenchError(f"trl==1.12.0 could not be installed ({reason}); check the network or pip's settings")
    part.rename(folder)
    return folder


def trained(name: str = "bench") -> Path:
    """The sft model whose completions end by themselves, made by the pipeline's own stages. Raises BenchError when one
    fails."""
    for stage in ("data", "sft"):
        command = [sys.executable, "-m", "pipeline", stage, RECIPE, "--run", name]
        if subprocess.run(command).returncode:
            raise BenchError(f"the natural workload needs stage {stage}; see above, or leave it out: --only fixed")
    return Path("runs") / name / "sft"


def measured() -> dict[str, Any]:
    """The machine, by a process of its own, so that none of its memory or threads stays here."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.bench.machine"], stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "started": now()}


def _median(turns: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(float(turn[name]) for turn in turns)


def figures(player: Player, skip: int) -> dict[str, Any]:
    """Medians over all iterations but the first `skip`: what both sides have in a row of the report."""
    seconds = _median(player.turns[skip:], "seconds")
    return {
        "s_per_iteration": seconds,
        "episodes_per_s": BATCH / seconds,
        "peak_gb": player.closing["peak_gb"],
        "s_each": [turn["seconds"] for turn in player.turns],
    }


def row(
    group: Group, critic: str, players: Mapping[str, Player], skip: int, prompt: float, shape: Shape
) -> dict[str, Any]:
    """One row of the report: ours with one kind of critic beside TRL. `prompt`: mean tokens of a prompt."""
    player, trl = players[f"{group.name}-{critic}"], figures(players[f"{group.name}-trl"], skip)
    turns, ours = player.turns[skip:], figures(player, skip)
    length = statistics.mean(turn["mean_length"] for turn in turns)
    phases = {name: statistics.median(turn["phases"][name] for turn in turns) for name in turns[0]["phases"]}
    adapted = group.lora_layers or shape.layers
    work = Work(BATCH, prompt, length, group.epochs, critic, RANK if group.lora else None, adapted)
    flops = iteration_flops(shape, work)
    rates = best(players[f"{group.name}-rates"].turns, player.facts["dtype"])
    speed = {name: flops[name] / phases[name] / 1e9 for name in ("rollout", "score", "reference") if phases.get(name)}
    # activations of the values' pass may be kept for the first epoch's backward: only the two together do known work
    learning = phases.get("values", 0.0) + phases["update"]
    speed |= {
        "values+update": (flops["values"] + flops["update"]) / learning / 1e9,
        "iteration": sum(flops.values()) / ours["s_per_iteration"] / 1e9,
    }
    read = decode_bytes(shape, work, statistics.mean(turn["longest"] for turn in turns), SIZES[player.facts["dtype"]])
    decoding = {"decoding": read / phases["rollout"] / 1e9}
    ours |= {
        "policy_dtype": player.facts["dtype"],
        "phases": phases,
        "tokens_per_s": BATCH * length / ours["s_per_iteration"],
        "flops": flops,
        "rates": rates,
        "share_of_peak": shares(speed, rates["gflops"], "product", "GFLOP/s"),
        "decode_bytes": read,
        "decode_share_of_bandwidth": shares(decoding, rates["read_gb_per_s"], "read", "GB/s")["decoding"],
        "mean_length": length,
        "mean_prompt": prompt,
    }
    named = {k: v for k, v in asdict(group).items() if k != "critics"}
    return {
        **named,
        "critic": critic,
        "ours": ours,
        "trl": trl,
        "speedup": trl["s_per_iteration"] / ours["s_per_iteration"],
        "memory_ratio": ours["peak_gb"] / trl["peak_gb"],
    }


def prepare(workload: str, model: Path, count: int) -> tuple[Path, float]:
    """Write the prompts that both sides take; the file and the mean tokens of a prompt."""
    from pipeline.bench.ours import fixed_prompts, natural_prompts
    from policies.tokenizers import load_tokenizer

    tokenizer, file = load_tokenizer(model), FOLDER / f"prompts-{workload}.jsonl"
    if workload == "fixed":
        rows = fixed_prompts(tokenizer, count, PROMPT)
    else:
        rows = natural_prompts(tokenizer, model.parent / "data" / "prompts.train.jsonl", count)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_rows(file, rows)
    return file, statistics.mean(len(r["ids"]) for r in rows)


def commands(
    group: Group, model: Path, prompts: Path, iterations: int, micro_tokens: int | None
) -> dict[str, list[str]]:
    """How the processes of a group are started: what measures the machine, TRL, ours."""

    def spec(critic: str) -> str:
        tuning = (group.dtype, group.lora, group.lora_layers, critic, group.epochs)
        limit, stops = LIMITS[group.workload], group.workload == "natural"
        made = Spec(str(model), str(prompts), *tuning, iterations, limit, stops, BATCH, micro_tokens)
        return json.dumps(asdict(made))

    call = [sys.executable, "-m"]
    ours = {f"{group.name}-{c}": [*call, "pipeline.bench.ours", spec(c)] for c in group.critics}
    rated = group.dtype if group.lora else "float32"  # the dtype of our policy: in full fine-tuning always float32
    return {
        f"{group.name}-rates": [*call, "pipeline.bench.rates", rated],
        f"{group.name}-trl": [*call, "pipeline.bench.trl", "ppo", spec("full")],
        **ours,
    }


def rollouts(dtype: str, model: Path, prompts: Path, iterations: int) -> dict[str, float]:
    """Tokens a second of our rollout phase and of `model.generate` with peft's adapter attached: same prompts, EOS
    stops, sampling."""
    # the smallest of updates, so that every rollout is by the model that both start from
    spec = Spec(
        str(model), str(prompts), dtype, True, None, "head", 1, iterations, LIMITS["natural"], True, learning_rate=1e-12
    )
    call, text = [sys.executable, "-m"], json.dumps(asdict(spec))
    processes = {
        "rollout-generate": [*call, "pipeline.bench.trl", "generate", text],
        "rollout-ours": [*call, "pipeline.bench.ours", text],
    }
    players = take_turns(processes, iterations, FOLDER / "logs")
    theirs = statistics.median(t["tokens"] / t["seconds"] for t in players["rollout-generate"].turns[1:])
    ours = statistics.median(
        BATCH * t["mean_length"] / t["phases"]["rollout"] for t in players["rollout-ours"].turns[1:]
    )
    return {"tokens_per_s": ours, "generate_tokens_per_s": theirs, "ratio": ours / theirs}


def _phases(row: Mapping[str, Any]) -> str:
    """Seconds and shares of our phases in a row; what was wrong with the shares on lines of its own."""
    ours = row["ours"]
    told = {**ours["share_of_peak"], "decoding": ours["decode_share_of_bandwidth"]}
    share = {name: f"{value:.0%}" for name, value in told.items() if not isinstance(value, str)}
    shown = [f"{k} {s:.2f} s" + (f" ({share[k]})" if k in share else "") for k, s in ours["phases"].items()]
    if ours["policy_dtype"] != row["dtype"]:
        shown.append(f"our policy in {ours['policy_dtype']}")
    if row["workload"] == "fixed" and ours["mean_length"] != LIMITS["fixed"]:
        shown.append(f"completions of {ours['mean_length']:.2f} tokens where {LIMITS['fixed']} were to be")
    if "values+update" in share:
        shown.append(f"values+update {share['values+update']}")
    if "decoding" in share:
        shown.append(f"decoding {share['decoding']} of bandwidth")
    errors = dict.fromkeys(value for value in told.values() if isinstance(value, str))
    return "\n    error: ".join([", ".join([*shown, f"{ours['tokens_per_s']:.0f} tokens/s"]), *errors])


def table(report: dict[str, Any]) -> str:
    """The report for people: seconds of an iteration, memory, ratios, and how near each phase came to the machine's
    matrix products."""
    head = ("workload", "adapted", "critic", "ep", "dtype", "ours s", "TRL s", "faster", "ours GB", "TRL GB", "memory")
    lines, phases = [head], list[tuple[str, ...]]()
    for r in report["rows"]:
        ours, trl = r["ours"], r["trl"]
        adapted = "all weights" if not r["lora"] else f"last {r['lora_layers']}" if r["lora_layers"] else "all layers"
        named = (r["workload"], adapted, r["critic"], str(r["epochs"]), r["dtype"])
        times = f"{ours['s_per_iteration']:.2f}", f"{trl['s_per_iteration']:.2f}", f"{r['speedup']:.2f}x"
        lines.append((*named, *times, f"{ours['peak_gb']:.2f}", f"{trl['peak_gb']:.2f}", f"{r['memory_ratio']:.2f}"))
        phases.append((*named, _phases(r)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    out += [
        "",
        "seconds of our phases (counted operations over the best matrix-product rate of all between the turns):",
    ]
    out += ["  " + " ".join(named) + ": " + text for *named, text in phases]
    if (rollout := report.get("rollout")) is not None:
        ours, theirs = rollout["tokens_per_s"], rollout["generate_tokens_per_s"]
        out += ["", f"rollouts: {ours:.0f} tokens/s, model.generate {theirs:.0f}, ratio {rollout['ratio']:.2f}"]
    return "\n".join(out)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.bench", description="One PPO iteration beside TRL's.")
    parser.add_argument("--quick", action="store_true", help="the two LoRA rows of one epoch; no iteration left out")
    parser.add_argument("--dtype", default="auto", choices=["auto", *SIZES, "both"], help="auto: the faster of the two")
    parser.add_argument("--iters", type=int, default=3, help="counted iterations")
    parser.add_argument("--warm-up", type=int, help="iterations before those that count; default: 1, with --quick 0")
    parser.add_argument("--only", type=re.compile, help="groups whose name, such as fixed-last10-1-float32, matches")
    parser.add_argument("--micro-tokens", type=int, help="ppo.micro_batch_tokens of ours; default: the setting's")
    args = parser.parse_args(given)
    if args.iters < 1:
        parser.error(f"--iters {args.iters}: at least 1 iteration has to be counted")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for; report.json is written after every group. Raises BenchError and Died."""
    from pipeline.artifacts.embedded import embedded_model

    baseline()
    models = {"fixed": embedded_model()}
    shape = Shape.of(json.loads((models["fixed"] / "config.json").read_text(encoding="utf-8")))
    machine = measured()
    skip = args.warm_up if args.warm_up is not None else int(not args.quick)
    dtypes = list(SIZES) if args.dtype == "both" else [args.dtype]
    if args.dtype == "auto":
        dtypes = [max(SIZES, key=lambda dtype: machine["gflops"][dtype])]
    every = groups(args.quick, dtypes, max(1, shape.layers // 3))
    chosen = [g for g in every if args.only is None or args.only.search(g.name)]
    rolled = not args.quick and (args.only is None or args.only.search("rollout") is not None)
    if not chosen and not rolled:
        raise BenchError(f"--only {args.only.pattern} matches no group; there are: {', '.join(g.name for g in every)}")
    iterations, prepared = args.iters + skip, {}
    if rolled or any(g.workload == "natural" for g in chosen):
        models["natural"] = trained()
    for workload, model in models.items():
        prepared[workload] = prepare(workload, model, BATCH * iterations)
    report: dict[str, Any] = {"machine": machine, "rows": []}
    for group in chosen:
        print(f"{group.name}: TRL and ours ({', '.join(group.critics)}) in turns", file=sys.stderr, flush=True)
        prompts, length = prepared[group.workload]
        processes = commands(group, models[group.workload], prompts, iterations, args.micro_tokens)
        players = take_turns(processes, iterations, FOLDER / "logs", between=f"{group.name}-rates")
        report["rows"] += [row(group, critic, players, skip, length, shape) for critic in group.critics]
        write_json(FOLDER / "report.json", report)
    if rolled:
        print("rollouts: model.generate and ours in turns", file=sys.stderr, flush=True)
        report["rollout"] = rollouts(dtypes[0], models["natural"], prepared["natural"][0], iterations)
        write_json(FOLDER / "report.json", report)
    return report


def main() -> None:
    from pipeline.artifacts.embedded import FetchError

    try:
        print(table(run(arguments(None))))
    except (BenchError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Died as error:
        print(error, file=sys.stderr)
        sys.exit(1)
