"""Which token looks at which, head by head, and what in query and key makes it? What the page needs to show any pair of tokens."""

import base64
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.inspect.maps import evenly, layers_shown

TOKENS = 48  # that the page holds: the last ones of prompt and completion
QUERIES = 400_000  # bytes of queries and keys; layers are left out evenly where there are more
EAGER = "eager_attention_forward"  # what transformers' models call for attention that has weights to show
FINE, COARSE = 1e-3, 3e-2  # how far a share may be from that of query · key, in float32 and in 16 bit


@dataclass(frozen=True)
class Looked:
    """One layer's attention: weights (H, L, L) in [0, 1], queries (H, L, D), keys (G, L, D), G a divisor of H; `explained`: whether the
    softmax of scaling · query · key gives the weights."""

    weights: Tensor
    queries: Tensor
    keys: Tensor
    scaling: float
    explained: bool


@dataclass
class _Heard:
    layers: list[Looked] = field(default_factory=list)  # of the last TOKENS tokens alone
    lengths: set[tuple[int, ...]] = field(default_factory=set)  # of the weights, before that


@contextmanager
def _overheard(model: Any) -> Iterator[_Heard]:
    """Within the block, what goes into the attention of each layer of `model`, which is eager, is noted in the order of the calls."""
    heard = _Heard()
    files = {type(module).__module__ for module in model.modules()}
    with ExitStack() as stack:
        for name in sorted(files):
            real = getattr(sys.modules[name], EAGER, None)
            if real is not None:
                stack.enter_context(patch.object(sys.modules[name], EAGER, _noting(real, heard)))
        yield heard


def _noting(real: Any, heard: _Heard) -> Any:
    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any) -> Any:
        out = real(module, query, key, value, attention_mask, **more)
        scaling = more.get("scaling") or query.shape[-1] ** -0.5
        if out[1] is not None:
            weights, q, k = (one[0].detach().float().cpu() for one in (out[1], query, key))
            coarse = query.dtype != torch.float32
            fine = explains(weights, q, k, float(scaling), coarse)
            heard.lengths.add(tuple(weights.shape[-2:]))
            seen, asked, held = (
                part.clone() for part in (weights[:, -TOKENS:, -TOKENS:], q[:, -TOKENS:], k[:, -TOKENS:])
            )
            heard.layers.append(Looked(seen, asked, held, float(scaling), fine))
        return out

    return attention


def explains(weights: Tensor, queries: Tensor, keys: Tensor, scaling: float, coarse: bool = False) -> bool:
    """Whether the softmax of scaling · query · key, over the tokens that are looked at at all, is what the weights are: it is not where a
    model adds a bias of distance, caps its scores or has a sink."""
    scores = scaling * queries @ keys.repeat_interleave(len(queries) // len(keys), 0).transpose(1, 2)
    causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    seen = causal & (weights.amax(0) > 0)  # a window hides what is far
    found = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return bool((found - weights).abs().max() <= (COARSE if coarse else FINE))


@torch.no_grad()
def looked(model: Any, ids: Sequence[int]) -> list[Looked]:
    """What each layer of `model`, a causal LM, looked at, for the last `TOKENS` of the tokens `ids`; [] where its attention cannot be overheard. Switches it to eager
    attention, which alone has weights."""
    model.set_attn_implementation("eager")
    given = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with _overheard(model) as heard:
        model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False)
    return heard.layers if heard.lengths == {(len(ids), len(ids))} else []


def view(layers: Sequence[Looked], texts: Sequence[str]) -> dict[str, Any] | None:
    """What the page's script needs, ready for JSON; None where nothing was overheard.

    "tokens" are the last `TOKENS` texts, "earlier" how many come before them. A layer (its "number" from 1) has "heads"; "weights", bytes in
    base64: 255 times the root of each weight, head by head, row by row, a row up to its own token; and, for some layers, "queries" and "keys":
    numbers of -127 to 127 in base64 with a "scale" each, head by head, token by token.
    """
    if not layers:
        return None
    first = max(0, len(texts) - TOKENS)
    shown = [(number, layers[number - 1]) for number in layers_shown(len(layers), len(layers[0].weights))]
    explained = [number for number, one in shown if one.explained]
    size = layers[0].queries.numel() + layers[0].keys.numel()
    apart = {explained[i] for i in evenly(len(explained), max(1, QUERIES // max(1, size)))}
    return {
        "tokens": list(texts[first:]),
        "earlier": first,
        "explained": bool(explained),
        "layers": [
            {"number": number, "heads": len(one.weights), "weights": _weights(one.weights)}
            | (_products(one) if number in apart else {})
            for number, one in shown
        ],
    }


def _weights(weights: Tensor) -> str:
    rows = [head[at, : at + 1] for head in weights for at in range(head.shape[0])]
    return _packed(np.round(255 * np.sqrt(torch.cat(rows).clamp(0, 1).numpy())).astype(np.uint8))


def _products(one: Looked) -> dict[str, Any]:
    found: dict[str, Any] = {"scaling": one.scaling, "width": one.queries.shape[-1]}
    for kind in ("queries", "keys"):
        part = getattr(one, kind)
        largest = part.abs().amax(-1, keepdim=True).clamp(min=1e-9)
        found[kind] = _packed((part / largest * 127).round().to(torch.int8).numpy())
        found[f"{kind}_scale"] = [float(f"{x:.5g}") for x in (largest / 127).flatten().tolist()]
    return found


def _packed(numbers: NDArray[Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()
