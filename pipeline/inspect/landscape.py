"""Where do chosen and rejected part, layer by layer? The reward model's states of held-out completions as a map for each of its layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.inspect.maps import evenly, neighbours, principal
from policies.template import PromptText
from reward.model import Reading, padded, takes_types
from reward.rendering import Row, render

AT_ONCE = 16  # texts that a model reads together
LAYERS = 8  # with a map each, evenly chosen, the last always


@torch.no_grad()
def states_of_layers(
    model: Any, reads: Reading, texts: Sequence[tuple[PromptText, str]]
) -> tuple[NDArray[np.float32], list[int]] | None:
    """States (N, layers shown, H), and the numbers of those layers, at the token from which `model`, a classifier, scores prompt and completion: the last, an encoder's first.
    Layer 0 is what enters the first layer; the last is what the score is made of. None where a model hands out no states of its layers."""
    rows = [render(reads.tokenizer, reads.manner, prompt, said, reads.max_length) for prompt, said in texts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))  # texts of like length together
    states: dict[int, NDArray[np.float32]] = {}
    shown = list[int]()
    for start in range(0, len(order), AT_ONCE):
        picked = order[start : start + AT_ONCE]
        given = inputs(model, reads, [rows[i] for i in picked])
        layers = getattr(model(**given, output_hidden_states=True), "hidden_states", None)
        if not layers:
            return None
        shown = evenly(len(layers), LAYERS)
        last = (
            torch.zeros_like(given["attention_mask"][:, 0])
            if reads.manner == "pair"
            else given["attention_mask"].sum(1) - 1
        )
        places = torch.arange(len(picked), device=last.device)
        found = torch.stack([layer[places, last].float() for layer in (layers[i] for i in shown)], 1).cpu().numpy()
        states |= dict(zip(picked, found, strict=True))
    return np.stack([states[i] for i in range(len(rows))]), shown


def inputs(model: Any, reads: Reading, rows: Sequence[Row]) -> dict[str, Tensor]:
    """What `model`, a classifier, is given of rows: input_ids and attention_mask (B, L), and token_type_ids where it tells texts by them."""
    ids, mask, *types = (one.to(model.device) for one in padded(rows, reads.tokenizer.pad_token_id))
    return {"input_ids": ids, "attention_mask": mask} | (
        {"token_type_ids": types[0]} if types and takes_types(model) else {}
    )


def maps(
    states: NDArray[np.float32], numbers: Sequence[int], kinds: Sequence[str], names: Sequence[str], seed: int
) -> dict[str, Any]:
    """What the page's script needs, ready for JSON, of states (N, layers, H) of the layers of these `numbers`: "kinds" and "names" of the N points; for each layer shown its "number", and "pca" and
    "tsne", N points each with coordinates from 0 to 100; "held" of the variance by the two directions of PCA; and "apart": how many points have a
    nearest neighbour (in all dimensions) of their own kind, beside how many would by chance."""
    layers = states.astype(np.float64).swapaxes(0, 1)
    found = [{"number": i, **_layer(own, kinds, seed)} for i, own in zip(numbers, layers, strict=True)]
    return {"kinds": list(kinds), "names": list(names), "layers": found}


def _layer(points: NDArray[np.float64], kinds: Sequence[str], seed: int) -> dict[str, Any]:
    if np.ptp(points, axis=0).max() == 0.0:  # the same token, embedded: nothing has been told apart yet
        middle = [[50.0, 50.0]] * len(points)
        return {"pca": middle, "tsne": middle, "held": 0.0, "apart": None, "chance": None}
    places, shares = principal(points)
    near = neighbours(points, seed)[0] if len(points) > 4 else places
    return {"pca": _scaled(places), "tsne": _scaled(near), "held": sum(shares)} | _apart(points, kinds)


def _scaled(places: NDArray[np.float64]) -> list[list[float]]:
    low, high = places.min(0), places.max(0)
    unit = (places - low) / np.maximum(high - low, 1e-12)
    return [[round(float(x), 1), round(float(y), 1)] for x, y in 4 + 92 * unit]


def _apart(points: NDArray[np.float64], kinds: Sequence[str]) -> dict[str, float | None]:
    """The share of chosen and rejected points whose nearest such point is of their own kind, and that share where kinds say nothing."""
    judged = np.array([kind in ("chosen", "rejected") for kind in kinds])
    own, named = points[judged], np.array(kinds)[judged]
    if len(own) < 2:
        return {"apart": None, "chance": None}
    distances = ((own[:, None] - own[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    same = float((named[distances.argmin(1)] == named).mean())
    counts = np.array([(named == kind).sum() for kind in ("chosen", "rejected")])
    chance = float((counts * (counts - 1)).sum() / (len(own) * (len(own) - 1)))
    return {"apart": same, "chance": chance}
