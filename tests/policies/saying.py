"""What do the tests of the engines share? Prompts, noise, and the ends that every engine must keep."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tiny import EOS, PAD, STOP

from policies.backbone import adapter
from policies.drawing import Completion, noise
from policies.engines import Engine
from policies.roles import POLICY, Roles

LIMIT = 12
PROMPTS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8] * 11, [40, 41], [9, 7], [22] * 6, [5, 6, 7, 8, 9, 10, 11]] * 3
SETTINGS = SimpleNamespace(temperature=0.7, vllm_gpu_memory_utilization=0.3)
ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


def noises(step: int, limit: int = LIMIT, count: int = len(PROMPTS)) -> list[np.ndarray]:
    return [noise(0, step, f"p{i}", 0, limit) for i in range(count)]


def say(engine: Engine, step: int = 4, **changes: Any) -> list[Completion]:
    arguments: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 0.7, "batch_size": 3}
    engine.follow()
    return engine(PROMPTS, noises(step), **{**arguments, **changes})


def figures_of(completions: list[Completion]) -> list[tuple[list[int], list[float], list[float], bool]]:
    """All that can be compared, bit for bit."""
    return [(c.tokens, c.logprobs.tolist(), c.entropies.tolist(), c.finished) for c in completions]


@torch.no_grad()
def trained_logprobs(roles: Roles, prompt: list[int], tokens: list[int], temperature: float) -> list[float]:
    """Of each token, from one pass over prompt and completion through the adapter, unmerged; log-softmax in float64."""
    ids = torch.tensor([prompt + tokens])
    if roles.lora:
        with adapter(roles.policy, POLICY):
            z = roles.policy(input_ids=ids).logits[0]
    else:
        z = roles.policy(input_ids=ids).logits[0]
    logprobs = torch.log_softmax(z.double() / temperature, -1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()


def check_ends(completions: list[Completion], limit: int = LIMIT) -> None:
    """Every completion ends with its first end token, or at the limit; both kinds of end and the limit are met."""
    for c in completions:
        ends = [i for i, token in enumerate(c.tokens) if token in (EOS, STOP)]
        assert ends == ([len(c.tokens) - 1] if c.finished else [])
        assert c.finished or len(c.tokens) == limit
        assert len(c.logprobs) == len(c.tokens)
    assert {c.tokens[-1] for c in completions if c.finished} == {EOS, STOP}
    assert any(not c.finished for c in completions)
