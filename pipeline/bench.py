"""How long does one PPO iteration take, phase by phase? On the embedded model, with a fixed workload.

    python -m pipeline.bench [iterations]

32 episodes of a 16-token prompt and up to 24 new tokens without EOS, LoRA in all layers, one epoch; the score is free, so what is timed
is ours. The first iteration warms up and is not counted. Writes runs/bench/report.json and prints a table of medians.
"""

import json
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from pipeline.artifacts import now, write_json
from pipeline.config import PPO, Lora
from pipeline.context import accelerator, quiet
from pipeline.embedded import embedded_model
from policies.backbone import load_causal, load_tokenizer, lora_config, pick_dtype
from policies.roles import POLICY, lora_roles
from policies.trainer import train

EPISODES, PROMPT, NEW = 32, 16, 24


def measure(value: str, iterations: int, folder: Path) -> dict[str, float]:
    """Median seconds of each phase over `iterations` after one to warm up, and episodes a second."""
    place = accelerator()
    tokenizer = load_tokenizer(embedded_model())
    base = load_causal(embedded_model(), tokenizer, pick_dtype("auto", place.device)).to(place.device)
    base.generation_config.eos_token_id = None
    torch.manual_seed(0)
    policy = get_peft_model(base, lora_config(base, Lora(), "CAUSAL_LM"), adapter_name=POLICY)
    roles = lora_roles(policy, value, None)
    tokenizer.eos_token_id = len(tokenizer) - 1  # hardly ever sampled, so that completions run to the limit
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40_000, (EPISODES * (iterations + 1), PROMPT), generator=generator).tolist()
    prompts = [{"id": str(i), "prompt": tokenizer.decode(row)} for i, row in enumerate(ids)]
    settings = PPO(
        total_episodes=EPISODES * (iterations + 1),
        batch_size=EPISODES,
        per_device_train_batch_size=8,
        num_ppo_epochs=1,
        response_length=NEW,
        value="shared" if value == "shared" else "adapter",
        missing_eos_score=None,
        save_steps=10**6,
    )
    logged: list[dict[str, float]] = []
    train(
        place,
        roles,
        tokenizer,
        prompts,
        [],
        lambda asked, said: torch.tensor([float(len(text)) / 100 for text in said]),
        settings,
        state=folder / "state",
        seed=0,
        log=logged.append,
    )
    counted = logged[1:]
    phases = {
        k.removeprefix("time/"): statistics.median(f[k] for f in counted) for k in counted[0] if k.startswith("time/")
    }
    seconds = statistics.median(sum(v for k, v in f.items() if k.startswith("time/")) for f in counted)
    return {**phases, "s_per_iteration": seconds, "episodes_per_s": EPISODES / seconds}


def main() -> None:
    quiet()
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path("runs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {value: measure(value, iterations, folder / value) for value in ("shared", "adapter")}
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    report = {"made": now(), "threads": torch.get_num_threads(), "peak_gb": peak, "rows": rows}
    write_json(folder / "report.json", report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
