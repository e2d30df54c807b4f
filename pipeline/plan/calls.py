"""What does work cost on this machine, however little is computed? Of our own sampling, learning and loop, on models of a few numbers."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

ROWS, PROMPT, TOKENS, TIMES = 2, 8, 12, 9
FEW, MORE = 4, 16  # episodes: of both there is one micro-batch
Timer = Callable[[], float]


@dataclass(frozen=True)
class Calls:
    """Seconds that are paid by the call, the episode and the iteration."""

    step: float  # while sampling: of one token's pass through everything but the layers
    layer: float  # while sampling: of one layer, for one token of all rows
    batch: float  # while learning: of a micro-batch's forward and backward, layers left out
    learned: float  # while learning: of one adapted layer, forward and backward
    episode: float = 0.0  # of what else is done for an episode: its texts, its noise, its figures
    iteration: float = 0.0  # of what else is done for an iteration: the optimizer's step, figures

    def sampling(self, layers: int, tokens: float) -> float:
        """Of a rollout of completions of so many tokens, all rows decoded together."""
        return tokens * (self.step + layers * self.layer)

    def learning(self, layers: int, passes: float) -> float:
        """Of so many forwards with their backwards; a forward alone is a third of one."""
        return passes * (self.batch + layers * self.learned)


def measured(device: Any, timer: Timer = time.perf_counter) -> Calls:
    """Those of this machine; about four seconds. In several processes all of them call it, and share the episodes."""
    import torch

    one, three = (_of(layers, device, timer) for layers in (1, 3))
    layer, learned = (max(0.0, b - a) / 2 for a, b in zip(one, three, strict=True))
    bare = Calls(max(0.0, one[0] - layer), layer, max(0.0, one[1] - learned), learned)
    shared = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    # the loop scores and measures with a forward each, and learns with one pass
    known = bare.sampling(1, TOKENS) + bare.learning(1, 1 + 2 / 3)
    few, more = (_loop(episodes * shared, device, timer) - known for episodes in (FEW, MORE))
    episode = max(0.0, more - few) / (MORE - FEW)
    return replace(bare, episode=episode, iteration=max(0.0, few - FEW * episode))


def _model(layers: int, vocabulary: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_hidden_layers=layers, **shape)).eval()
    model.generation_config.eos_token_id = None
    return model


def _spec(episodes: int, iterations: int) -> Any:
    from pipeline.bench.turns import Spec

    return Spec("", "", "float32", True, None, "head", 1, iterations, TOKENS, False, episodes)


def _of(layers: int, device: Any, timer: Timer) -> tuple[float, float]:
    """Seconds of a token's pass while sampling and of a micro-batch's forward and backward, with so many layers of 32 numbers."""
    import torch

    from pipeline.bench.ours import with_lora
    from policies.drawing import noise
    from policies.logprobs import pack
    from policies.rollout import sample

    roles, _ = with_lora(_model(layers, 128), _spec(ROWS, 1), device)
    prompts = [[3 + row] * PROMPT for row in range(ROWS)]
    noises = [noise(0, 0, str(row), 0, TOKENS) for row in range(ROWS)]
    batch = pack(prompts, [[7] * TOKENS] * ROWS, 0, device)

    def sampled() -> None:
        with roles.sampling() as model, torch.no_grad():
            sample(model, prompts, noises, eos_ids=[], pad_id=0, temperature=1.0, batch_size=ROWS)

    together = torch.distributed.is_initialized()
    wrapped: Any = torch.nn.parallel.DistributedDataParallel(roles, broadcast_buffers=False) if together else roles

    def learned() -> None:
        with wrapped.no_sync() if together else nullcontext():  # gradients go to the others once in a step
            logprobs, _, values = wrapped(batch, 1.0)
            (logprobs.sum() + values.sum()).backward()

    return _seconds(sampled, device, timer) / TOKENS, _seconds(learned, device, timer)


def _seconds(work: Callable[[], None], device: Any, timer: Timer) -> float:
    found = []
    for _ in range(TIMES + 2):
        _ready(device)
        started = timer()
        work()
        _ready(device)
        found.append(timer() - started)
    return median(found[2:])


def _ready(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


class _Timed:
    """Takes the place of the bench's turns, and waits for nobody."""

    def __init__(self, device: Any, timer: Timer) -> None:
        self.device, self.timer, self.seconds, self.started = device, timer, list[float](), 0.0

    def ready(self, **_: Any) -> bool:
        self.started = self.timer()
        return True

    def done(self, **_: Any) -> bool:
        _ready(self.device)
        self.seconds.append(self.timer() - self.started)
        return self.ready()

    def close(self) -> None:
        pass


def _loop(episodes: int, device: Any, timer: Timer) -> float:
    """Seconds of an iteration of the whole loop with one layer."""
    from pipeline.bench.ours import fixed_prompts, play
    from pipeline.settings.config import TINY_MODEL, Config
    from pipeline.training.context import base_model
    from policies.tokenizers import load_tokenizer

    iterations = TIMES - 2
    tokenizer = load_tokenizer(base_model(Config(model=TINY_MODEL)))
    timed: Any = _Timed(device, timer)
    rows = fixed_prompts(tokenizer, episodes * iterations, PROMPT)
    play(_model(1, len(tokenizer)), tokenizer, _spec(episodes, iterations), rows, timed)
    return median(timed.seconds[2:])
