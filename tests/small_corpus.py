"""A corpus of sentences that a small model learns in seconds, and settings that make one of it. For the tests of stage pretrain."""

import json
import random
from pathlib import Path
from typing import Any

WHO = ("the cat", "a dog", "my friend", "the old king", "那只猫", "an owl")
DOES = ("sees", "likes", "follows", "waits for", "喜欢")
WHAT = ("the moon", "a river", "warm bread", "12 apples", "好书", "the sea, and sleeps")
TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_length": 32,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "batch_size": 8,
    "per_device_train_batch_size": 4,
    "eval_fraction": 0.2,
    "sample_steps": 3,
    "samples": 3,
    "max_new_tokens": 8,
    "logging_steps": 1,
    "save_steps": 2,
    "max_steps": 6,
}


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different texts of one to three sentences."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        said = [f"{draw.choice(WHO)} {draw.choice(DOES)} {draw.choice(WHAT)}." for _ in range(draw.randint(1, 3))]
        found[" ".join(said)] = None
    return list(found)


def write(path: Path, count: int = 160) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(count)), encoding="utf-8")
    return path
