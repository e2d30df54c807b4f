"""What does the policy say? Batched sampling of completions from token prompts, in the quickest way that is right for the model."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from policies.drawing import Choice, Completion, Record, Wanted, choose, noise
from policies.plain_sampling import Way, by_forwards, by_generate
from policies.quick.cached import cached
from policies.quick.windows import short_windows
from policies.seq2seq import of_rows, pad_of, prompt_of
from policies.told import tell
from policies.trials import rounded_in
from policies.untyped import Model, Noise

WAYS: dict[str, tuple[Way, str]] = {
    "cached": (cached, "with a cache of our own"),
    "generate": (by_generate, "with transformers' generate, some times slower"),
    "forwards": (by_forwards, "with a whole forward for every token, many times slower"),
}
"""From the quickest on; the last one is right by definition."""

CLOSE, MOST = 1e-4, 0.3  # nats a token: in float32, and at most, however far apart batches of one forward are
COARSE = 0.1  # in a coarser dtype, where single tokens say little and their mean is looked at


def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    temperature: float,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    record: Record | None = None,
    choice: Choice = choose,
) -> list[Completion]:
    """Sample one completion for each prompt, in the order given.

    `prompts` are token lists of any lengths, `noises` one array of uniform numbers each (`noise`); its length is the limit of new
    tokens. A completion ends at any of `eos_ids`. Prompts of like length are decoded together, left-padded; a prompt asked for several
    times, and a long prefix that all of a batch share, are read once; rows that have ended leave the batch. `progress` is told how many
    more are done. With `record` completions stay on the device, and also carry final states, and those of the trunk, where the model
    is sampled `cached`. `choice` takes a token from its logits.
    """
    device = next(model.parameters()).device
    way, _ = WAYS[way_of(model)]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i])))
    out: dict[int, Completion] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        uniforms = torch.tensor(np.stack([noises[i] for i in rows])).to(device)
        asked = [prompts[i] for i in rows]
        said = way(model, Wanted(asked, uniforms, list(eos_ids), pad_id, temperature, choice, record))
        out |= dict(zip(rows, said, strict=True))
        if progress is not None:
            progress(len(rows))
    return [out[i] for i in range(len(prompts))]


def way_of(model: Model) -> str:
    """The quickest of WAYS in which `model` says what it would in whole forwards: tried once, on a few tokens, with a window that they
    pass. The model remembers it. One line says so where it is not the quickest."""
    if "way_of_sampling" not in vars(model):
        *quick, last = WAYS
        found = next((name for name in quick if _right(model, WAYS[name][0])), last)
        if found != next(iter(WAYS)):
            tell(f"{type(model).__name__}: sampled {WAYS[found][1]}, as its cache is not one of keys and values alone")
        model.way_of_sampling = found
    return str(vars(model)["way_of_sampling"])


@torch.no_grad()
def _right(model: Model, way: Way) -> bool:
    """Whether the log-probabilities that `way` gives are those of a whole forward of each row alone, within what batches of a forward
    differ by: for prompts that share a beginning, are padded, end early and pass the window."""
    device = next(model.parameters()).device
    size = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(size, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    # the last two are of a length that is there already: some models keep a state that is right for one row alone
    prompts = [drawn[:18], drawn[:17] + drawn[20:25], drawn[:17] + drawn[25:28], drawn[:17] + drawn[27:], drawn[:18]]
    prompts = [prompt_of(model, prompt) for prompt in prompts]
    uniforms = torch.tensor(np.stack([noise(0, 0, str(i), 0, 8) for i in range(len(prompts))])).to(device)
    ends = list(range(0, size, 7))
    with short_windows(model):
        try:
            choice, pads = (_with_pad(model), {pad_of(model)}) if of_rows(model) else (choose, set[int]())
            stops = [one for one in ends if one not in pads]  # the pad that is put in is no end
            said = way(model, Wanted(prompts, uniforms, stops, ends[0], 1.0, choice, None))
        except Exception:  # what a model of somebody's own raises cannot be foreseen, and whole forwards are left
            return False
        whole = [[*p, *c.tokens] for p, c in zip(prompts, said, strict=True)]
        alone = [model(input_ids=_row(ids, device)).logits[0] for ids in whole]
        width = max(map(len, whole))
        padded = torch.cat([_row(ids + [ends[0]] * (width - len(ids)), device) for ids in whole])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in whole]).to(device)
        together = model(input_ids=padded, attention_mask=mask).logits
    fine = rounded_in(model) == torch.float32
    apart, off = [], []
    for prompt, completion, one, other in zip(prompts, said, alone, together, strict=True):
        at = slice(len(prompt) - 1, len(prompt) + len(completion.tokens) - 1)
        tokens = torch.tensor(completion.tokens).to(device)[:, None]
        mine, batched = (z[at].float().log_softmax(-1).gather(1, tokens)[:, 0].cpu() for z in (one, other))
        apart.append((mine - batched).abs())
        off.append((mine - completion.logprobs).abs())
    batched, sampled = torch.cat(apart), torch.cat(off)
    batches, found = (batched.max(), _worst(sampled)) if fine else (batched.mean(), sampled.mean())
    return found.item() <= min((CLOSE if fine else COARSE) + 5 * batches.item(), MOST)


def _with_pad(model: Model) -> Choice:
    """`choose`, but for the third token, which is the pad: some count a decoder's positions by it, and those of a cache otherwise."""
    steps = count()

    def choice(z: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        tokens, logprobs, entropies = choose(z, uniform, temperature)
        if next(steps) == 2:
            tokens = torch.full_like(tokens, pad_of(model))
            logprobs = z.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        return tokens, logprobs, entropies

    return choice


def _worst(gaps: Tensor) -> Tensor:
    """The second largest: what one token is off by may be rounding (`trials.alike`)."""
    return gaps.topk(min(2, len(gaps))).values[-1]


def _row(ids: list[int], device: torch.device) -> Tensor:
    return torch.tensor([ids]).to(device)
