"""How do time and memory of one PPO iteration grow: with the batch, the length of responses, the model, the epochs?

    python -m pipeline.bench.scale [--quick] [--dtype auto|float32|bfloat16] [--only REGEX]

Ours alone, LoRA in all layers, the critic a head on the policy, prompts of 16 tokens, no EOS. Each point is a process
of its own, since what it tells is its peak memory; its first iteration warms up, its second counts. Writes
runs/bench/scale.json after every point and runs/bench/scale.svg at the end.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.files import write_json, write_rows
from pipeline.bench.against_trl import FOLDER, PROMPT, measured
from pipeline.bench.machine import SIZES, ram_gb
from pipeline.bench.turns import Died, Spec, Turns, take_turns

VOCAB = 49_152
# hidden, intermediate, layers, heads, key-value heads; small ones, SmolLM2's three, those of Llama 3.2 3B and 3 8B
SHAPES = {
    "3M": (64, 192, 4, 2, 1),
    "13M": (192, 512, 8, 3, 1),
    "47M": (384, 1024, 18, 6, 2),
    "135M": (576, 1536, 30, 9, 3),
    "360M": (960, 2560, 32, 15, 5),
    "1.7B": (2048, 8192, 24, 32, 32),
    "3B": (3072, 8192, 28, 24, 8),
    "7B": (4096, 14336, 32, 32, 8),
}
USUAL = "135M"
AXES = {"batch": "tokens", "response": "tokens", "model": "parameters", "epochs": "epochs"}
ITERATIONS = 2
SHARE = 0.75  # of the memory that a point may need by estimate


@dataclass(frozen=True)
class Point:
    """One measurement: the sweep it belongs to and what it runs."""

    sweep: str
    batch: int = 8
    response: int = 24
    epochs: int = 1
    model: str = USUAL

    @property
    def name(self) -> str:
        return f"{self.sweep}-{getattr(self, self.sweep)}"

    @property
    def tokens(self) -> int:
        """Tokens of all episodes of an iteration."""
        return self.batch * (PROMPT + self.response)


def points(quick: bool) -> list[Point]:
    batches, responses, epochs, models = [8, 16, 32, 64, 128], [16, 32, 64, 128, 256], [1, 2, 4], list(SHAPES)
    if quick:
        batches, responses, epochs, models = [8, 16, 32], [16, 32, 64], [1, 2], models[:4]
    return [
        *(Point("batch", batch=n) for n in batches),
        *(Point("response", response=n) for n in responses),
        *(Point("epochs", epochs=n) for n in epochs),
        *(Point("model", model=name) for name in models),
    ]


def model_config(model: str, pad_id: int | None = None) -> Any:
    """The transformers config of a Llama of this shape, without BOS and EOS."""
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads, kv_heads = SHAPES[model]
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=None,
    )


def spec_of(point: Point, model: Path, prompts: Path, dtype: str) -> Spec:
    how = (dtype, True, None, "head", point.epochs, ITERATIONS, point.response, False, point.batch)
    return Spec(str(model), str(prompts), *how)


def needed_gb(point: Point, spec: Spec) -> float:
    """About the memory that a point's process takes, GB: what stage ppo counts before it starts, on a process of 0.7 GB."""
    import torch

    from pipeline.bench.ours import settings
    from pipeline.settings.config import Config
    from pipeline.training.preflight import needs
    from policies.footprint import footprint
    from policies.precision import Held, pick_dtype

    section = settings(spec)
    held = Held(pick_dtype(spec.dtype, torch.device("cpu")))
    model = footprint(model_config(point.model), held, section.lora)
    return sum(needs(Config(ppo=section), model, 0.0, PROMPT, 0.7e9).values())


def exponent(x: Sequence[float], y: Sequence[float]) -> float | None:
    """b of the power law y = a·x^b that fits best in logarithms; None for fewer than two different x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(set(x)) > 1 else None


def exponents(measurements: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each sweep the exponent of seconds and of GB against its axis: tokens, parameters or epochs."""
    out = {}
    for sweep, axis in AXES.items():
        mine = [m for m in measurements if m["sweep"] == sweep]
        if mine:
            x = [m[axis] for m in mine]
            fits = {name: exponent(x, [m[name] for m in mine]) for name in ("s_per_iteration", "peak_gb")}
            out[sweep] = {"against": axis, **fits}
    return out


def run_point(point: Point, spec: Spec) -> None:
    """The process of one point: a model of the point's shape, weights of the embedded one where it has that shape, else
    random."""
    turns = Turns()
    import torch

    from pipeline.artifacts.files import read_rows
    from pipeline.bench.ours import play
    from pipeline.training.context import quiet
    from policies.backbone import load_causal
    from policies.tokenizers import load_tokenizer

    quiet()
    tokenizer, kind = load_tokenizer(spec.model), getattr(torch, spec.dtype)
    usual = point.model == USUAL
    base = load_causal(spec.model, tokenizer, kind) if usual else random_model(point.model, tokenizer, kind)
    play(base, tokenizer, spec, read_rows(Path(spec.prompts)), turns)


def random_model(model: str, tokenizer: Any, kind: Any) -> Any:
    """A Llama of this shape with random weights of the torch dtype `kind`, which ends with no token."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model_config(model, tokenizer.pad_token_id)
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_config(config, dtype=kind, trust_remote_code=False).eval()
    base.resize_token_embeddings(max(len(tokenizer), VOCAB), mean_resizing=False)
    base.generation_config.pad_token_id = tokenizer.pad_token_id
    return base


def draw(measurements: Sequence[dict[str, Any]], fits: dict[str, Any], path: Path) -> None:
    """A row of two panels for each sweep, time and memory side by side, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    sweeps = list(fits)
    figure, panels = pyplot.subplots(len(sweeps), 2, figsize=(8, 2.6 * len(sweeps)), squeeze=False)
    for sweep, pair in zip(sweeps, panels, strict=True):
        mine = [m for m in measurements if m["sweep"] == sweep]
        labels = (("s_per_iteration", "seconds an iteration"), ("peak_gb", "peak memory, GB"))
        for axes, (name, label) in zip(pair, labels, strict=True):
            x, power = [m[AXES[sweep]] for m in mine], fits[sweep][name]
            axes.loglog(x, [m[name] for m in mine], marker="o")
            fitted = "" if power is None else f" (exponent {power:.2f})"
            axes.set(xlabel=AXES[sweep], ylabel=label, title=f"{sweep}{fitted}")
            axes.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def table(report: dict[str, Any]) -> str:
    lines = [f"{'sweep':10}{'value':>8}{'tokens':>8}{'parameters':>14}{'s':>10}{'GB':>8}"]
    for m in report["points"]:
        value, size = str(m[m["sweep"]]), f"{m['parameters']:,}"
        shown = f"{m['s_per_iteration']:>10.2f}{m['peak_gb']:>8.2f}"
        lines.append(f"{m['sweep']:10}{value:>8}{m['tokens']:>8}{size:>14}{shown}")
    for sweep, fit in report["exponents"].items():
        named = (("time", fit["s_per_iteration"]), ("memory", fit["peak_gb"]))
        powers = [f"{what} {power:.2f}" for what, power in named if power is not None]
        lines.append(f"{sweep}: exponents against {fit['against']}: {', '.join(powers) or 'one point only'}")
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    return "\n".join(lines)


def sweep(chosen: Sequence[Point], model: Path, dtype: str, machine: dict[str, Any]) -> dict[str, Any]:
    """Measure the points one after another; scale.json is written after each."""
    from pipeline.bench.ours import fixed_prompts
    from policies.tokenizers import load_tokenizer

    room = SHARE * (machine["gpu_gb"] or ram_gb())
    report: dict[str, Any] = {"machine": machine, "dtype": dtype, "points": [], "exponents": {}, "left_out": {}}
    FOLDER.mkdir(parents=True, exist_ok=True)
    prompts = FOLDER / "prompts-scale.jsonl"
    most = max(point.batch for point in chosen) * ITERATIONS
    rows = fixed_prompts(load_tokenizer(model), most, PROMPT)
    for point in chosen:
        spec = spec_of(point, model, prompts, dtype)
        if (need := needed_gb(point, spec)) > room:
            report["left_out"][point.name] = (
                f"may need {need:.1f} GB, more than {SHARE:.0%} of the memory ({room:.1f} GB)"
            )
            print(f"{point.name}: left out, {report['left_out'][point.name]}", file=sys.stderr)
            continue
        print(point.name, file=sys.stderr, flush=True)
        write_rows(prompts, rows[: point.batch * ITERATIONS])
        command = [sys.executable, "-m", "pipeline.bench.scale", "--point", json.dumps([asdict(point), asdict(spec)])]
        player = take_turns({f"scale-{point.name}": command}, ITERATIONS, FOLDER / "logs")[f"scale-{point.name}"]
        last = player.turns[-1]
        measured_here = {
            **asdict(point),
            "tokens": point.tokens,
            "parameters": player.facts["parameters"],
            "s_per_iteration": last["seconds"],
            "peak_gb": player.closing["peak_gb"],
            "estimated_gb": need,
            "phases": last["phases"],
        }
        report["points"].append(measured_here)
        report["exponents"] = exponents(report["points"])
        write_json(FOLDER / "scale.json", report)
    if report["points"]:
        draw(report["points"], report["exponents"], FOLDER / "scale.svg")
    write_json(FOLDER / "scale.json", report)
    return report


def main() -> None:
    from pipeline.artifacts.embedded import FetchError, embedded_model

    parser = argparse.ArgumentParser(prog="python -m pipeline.bench.scale", description="How time and memory grow.")
    parser.add_argument("--quick", action="store_true", help="fewer points")
    parser.add_argument("--dtype", default="auto", choices=["auto", *SIZES], help="auto: the faster of the two")
    parser.add_argument("--only", type=re.compile, help="points whose name, such as batch-16, matches")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point is not None:
        point, spec = json.loads(args.point)
        run_point(Point(**point), Spec(**spec))
        return
    chosen = [p for p in points(args.quick) if args.only is None or args.only.search(p.name)]
    try:
        if not chosen:
            print(f"error: --only {args.only.pattern} matches no point, such as batch-16", file=sys.stderr)
            sys.exit(2)
        model, machine = embedded_model(), measured()
        dtype = args.dtype if args.dtype != "auto" else max(SIZES, key=lambda name: machine["gflops"][name])
        print(table(sweep(chosen, model, dtype, machine)))
        print(f"plot: {FOLDER / 'scale.svg'}")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Died as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
