"""Where do chosen and rejected part, layer by layer? The reward model's states of held-out completions as a map for each of its layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.inspect.maps import principal
from policies.template import PromptText
from reward.model import Reading, padded, takes_types
from reward.rendering import render

LAYERS = 8  # with a map each, evenly chosen, the last always


@torch.no_grad()
def states_of_layers(model: Any, reads: Reading, texts: Sequence[tuple[PromptText, str]]) -> NDArray[np.float32] | None:
    """States (N, layers + 1, H) at the token from which `model`, a classifier, scores prompt and completion: the last, an encoder's first.
    Layer 0 is what enters the first layer; the last is what the score is made of. None where a model hands out no states of its layers."""
    states = []
    for prompt, completion in texts:
        row = render(reads.tokenizer, reads.manner, prompt, completion, reads.max_length)
        ids, mask, *types = (one.to(model.device) for one in padded([row], reads.tokenizer.pad_token_id))
        more = {"token_type_ids": types[0]} if types and takes_types(model) else {}
        layers = getattr(
            model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **more), "hidden_states", None
        )
        if not layers:
            return None
        at = 0 if reads.manner == "pair" else -1
        states.append(torch.stack([layer[0, at].float() for layer in layers]).cpu().numpy())
    return np.stack(states)


def maps(states: NDArray[np.float32], kinds: Sequence[str], names: Sequence[str], seed: int) -> dict[str, Any]:
    """What the page's script needs, ready for JSON: "kinds" and "names" of the N points; for each layer shown its "number", and "pca" and
    "tsne", N points each with coordinates from 0 to 100; "held" of the variance by the two directions of PCA; and "apart": how many points have a
    nearest neighbour (in all dimensions) of their own kind, beside how many would by chance."""
    layers = states.shape[1]
    picked = np.unique(np.linspace(0, layers - 1, min(LAYERS, layers)).round().astype(int)).tolist()
    found = [{"number": i, **_layer(states[:, i].astype(np.float64), kinds, seed)} for i in picked]
    return {"kinds": list(kinds), "names": list(names), "layers": found}


def _layer(points: NDArray[np.float64], kinds: Sequence[str], seed: int) -> dict[str, Any]:
    if np.ptp(points, axis=0).max() == 0.0:  # the same token, embedded: nothing has been told apart yet
        middle = [[50.0, 50.0]] * len(points)
        return {"pca": middle, "tsne": middle, "held": 0.0, "apart": None, "chance": None}
    places, shares = principal(points)
    near = _neighbours(points, seed) if len(points) > 4 else places
    return {"pca": _scaled(places), "tsne": _scaled(near), "held": sum(shares)} | _apart(points, kinds)


def _neighbours(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    return np.asarray(TSNE(n_components=2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(points))


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
