"""How does a model sample whose cache is of a kind of its own? With what transformers gives: `generate`, or whole forwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import LogitsProcessor, LogitsProcessorList

from policies.backbone import decoder
from policies.drawing import Completion, Drawn, Wanted
from policies.logprobs import logits
from policies.untyped import Model

Way = Callable[[Model, Wanted], list[Completion]]


@torch.no_grad()
def by_generate(model: Model, wanted: Wanted) -> list[Completion]:
    """A completion of each prompt by transformers' own loop, prompts of one length at a time, so that nothing is padded."""
    drawn = Drawn(wanted)
    for rows in of_one_length(wanted.prompts):
        ids = torch.tensor([list(wanted.prompts[i]) for i in rows]).to(wanted.uniforms.device)
        ours = _Ours(drawn, torch.tensor(rows).to(ids.device))
        settings = GenerationConfig(
            max_new_tokens=wanted.limit, do_sample=False, eos_token_id=list(wanted.ends), pad_token_id=wanted.pad_id
        )
        with own_settings(model):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                logits_processor=LogitsProcessorList([ours]),
            )
    return drawn.completions()


@torch.no_grad()
def by_forwards(model: Model, wanted: Wanted) -> list[Completion]:
    """A completion of each prompt, all of it run again for every token: slow, and what a training pass computes to the letter."""
    drawn, body, device = Drawn(wanted), decoder(model), wanted.uniforms.device
    for rows in of_one_length(wanted.prompts):
        ids = torch.tensor([list(wanted.prompts[i]) for i in rows]).to(device)
        picked, ends = torch.tensor(rows).to(device), set(wanted.ends)
        going = [True] * len(rows)
        for step in range(wanted.limit):
            final = body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state[:, -1]
            chosen = drawn.draw(logits(model, final), picked, step)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            going = [a and token not in ends for a, token in zip(going, chosen.tolist(), strict=True)]
            if not any(going):
                break
    return drawn.completions()


def of_one_length(prompts: Sequence[Sequence[int]], most: int | None = None) -> list[list[int]]:
    """Rows in groups of one prompt length, shortest first, of `most` rows at most."""
    lengths = sorted({len(p) for p in prompts})
    groups = [[i for i, p in enumerate(prompts) if len(p) == n] for n in lengths]
    return [group[i : i + (most or len(group))] for group in groups for i in range(0, len(group), most or len(group))]


class _Ours(LogitsProcessor):
    """Lets `generate` take the token that we draw: it is left alone, and the greedy choice among one."""

    def __init__(self, drawn: Drawn, rows: Tensor):
        self.drawn, self.rows, self.step = drawn, rows, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        chosen = self.drawn.draw(scores, self.rows, self.step)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


@contextmanager
def own_settings(model: Model) -> Iterator[None]:
    """Within the block the model's own generation config, from which generate fills what is left open, says nothing.

    Many published models have a repetition penalty or a top-p there, which would be in no report.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
