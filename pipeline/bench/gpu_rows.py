"""What does one row of `make gpu-check` do? A process that ends with its figures as a line of JSON.

python -m pipeline.bench.gpu_rows machine | architectures | ppo ENGINE
"""

import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.machine import measure, peak_gb
from pipeline.bench.ours import Prompts, fixed_prompts, placed, settings, unending, with_lora
from pipeline.bench.turns import Spec
from pipeline.settings.config import Config
from pipeline.training.context import make_accelerator, quiet
from pipeline.training.preflight import needs
from policies.backbone import decoder, load_causal
from policies.blueprint import config_at
from policies.drawing import noise
from policies.engines import make_engine
from policies.footprint import footprint
from policies.logprobs import completion_logprobs, logits, pack
from policies.loop import Silent
from policies.precision import Held, pick_dtype
from policies.rollout import sample
from policies.tokenizers import load_tokenizer
from policies.trainer import train
from reward.model import Scorer

PROMPT, BATCH, RESPONSE, ITERATIONS = 16, 32, 64, 2
ARCHITECTURES = "llama gpt2 opt falcon mistral gemma3 gpt_oss mixtral qwen3_5 mamba granite mpt".split()
NEAR = {
    torch.float32: 1e-3,
    torch.bfloat16: 0.25,
}  # nats a token on another device, whose products are summed otherwise


@contextmanager
def waits(device: torch.device) -> Iterator[list[str]]:
    """Within the block every wait of the CPU for the GPU is added to the list; on a CPU there is none."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [str(one.message) for one in told if "synchronizing" in str(one.message)]


def ppo(model: str | Path, engine: str, dtype: str, batch: int = BATCH, response: int = RESPONSE) -> dict[str, float]:
    """Two iterations of PPO with `engine` on random prompts, LoRA in all layers, completions of `response` tokens: its speed, waits and
    memory beside what the preflight says. Raises RuntimeError where training halts."""
    accelerator = make_accelerator()
    device, tokenizer = accelerator.device, load_tokenizer(model)
    spec = Spec(str(model), "", dtype, True, None, "head", 1, ITERATIONS, response, False, batch)
    section, held = settings(spec).model_copy(update={"engine": engine}), Held(pick_dtype(dtype, device))
    base: Any = load_causal(model, tokenizer, held.dtype)
    rows = fixed_prompts(tokenizer, batch * ITERATIONS, PROMPT)
    tokenizer = unending(tokenizer, base, rows)
    roles, forward = with_lora(base, spec, device)
    scorer = Scorer(forward, tokenizer, max_length=PROMPT + response + 1, device=device, padding=not roles.packed)
    logged: list[dict[str, float]] = []

    class Watching(Silent):
        def log(self, figures: dict[str, float]) -> None:
            logged.append(figures)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, waits(device) as waited:
        result = train(
            accelerator,
            roles,
            tokenizer,
            _shown(rows),
            [],
            scorer,
            section,
            state=Path(folder) / "state",
            seed=0,
            watch=Watching(),
            engine=make_engine(engine, roles, model, section, accelerator, Path(folder) / "sampler"),
        )
    if result.halted:
        raise RuntimeError(result.halted)
    last, seconds = logged[-1], time.perf_counter() - started
    counted = needs(
        Config(ppo=section),
        footprint(config_at(model), held, section.lora),
        0.0,
        PROMPT,
        0.0 if device.type == "cuda" else 6e8,
    )
    tokens = batch * last["completions/mean_length"]
    return {
        "ratio": last["val/ratio"],
        "kl at first": logged[0]["objective/kl"],
        "seconds an iteration": seconds / ITERATIONS,
        "tokens a second, rollout": tokens / last["time/rollout"],
        "tokens a second, iteration": tokens * ITERATIONS / seconds,
        "waits a decoded step": len(waited) / (ITERATIONS * response),
        "peak GB": peak_gb(),
        "GB by the preflight": sum(counted.values()),
    }


def _shown(rows: Prompts) -> list[Any]:
    return [{"id": row["id"], "prompt": row["prompt"]} for row in placed(rows, 0)]


def architectures(names: Sequence[str], device: torch.device, dtypes: Sequence[torch.dtype]) -> dict[str, str]:
    """Of each architecture of the tests' zoo, a tiny random model on `device`: are logits those of its own forward, and sampled
    log-probabilities those of training? "works", what is apart, or the sentence of the error."""
    build = importlib.import_module("zoo.build")  # the tests', by PYTHONPATH
    found = {}
    for name in names:
        for dtype in dtypes:
            what = f"{name}, {str(dtype).removeprefix('torch.')}"
            try:
                with tempfile.TemporaryDirectory() as folder:
                    found[what] = _architecture(build.save(name, Path(folder)), device, dtype)
            except Exception as error:  # of one, which is told; the others go on
                found[what] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:150]}"
    wrong = {what: said for what, said in found.items() if said != "works"}
    return {"work": f"{len(found) - len(wrong)} of {len(found)}", **wrong}


@torch.no_grad()
def _architecture(folder: Path, device: torch.device, dtype: torch.dtype) -> str:
    tokenizer = load_tokenizer(folder)
    model: Any = load_causal(folder, tokenizer, dtype)
    model.to(device)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(4, 98, (length,), generator=draw).tolist() for length in (26, 19, 5, 5)]
    ids = torch.tensor(prompts[:1], device=device)
    own = model(input_ids=ids, use_cache=False).logits.float()
    ours = logits(model, decoder(model)(input_ids=ids, use_cache=False).last_hidden_state).float()
    apart = (own - ours).abs().max().item()
    noises = [noise(1, 0, str(i), 0, 10) for i in range(len(prompts))]
    ends = list(range(1, len(tokenizer), 5))
    said = sample(
        model, prompts, noises, eos_ids=ends, pad_id=tokenizer.pad_token_id, temperature=0.8, batch_size=len(prompts)
    )
    batch = pack(prompts, [list(map(int, one.tokens)) for one in said], tokenizer.pad_token_id, device)
    trained = completion_logprobs(model, decoder(model), batch, 0.8)[0]
    for row, one in enumerate(said):
        sampled = torch.as_tensor(one.logprobs, device=device)
        apart = max(apart, (trained[row, : len(one.tokens)] - sampled).abs().max().item())
    return "works" if apart <= NEAR[dtype] else f"{apart:.2g} apart"


def main() -> None:
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    asked = sys.argv[1]
    if asked == "machine":
        found: dict[str, Any] = measure()
    elif asked == "architectures":
        found = architectures(ARCHITECTURES, device, (torch.float32, torch.bfloat16))
    else:
        from pipeline.artifacts.embedded import embedded_model

        found = ppo(embedded_model(), sys.argv[2], "bfloat16")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
