"""Where does a model look, and what does a reward model see? Attention by layer and head as small images, hidden states as a map."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data.schema import Ranking
from pipeline.language import fixed, phrase, phrases
from pipeline.pages.drawing import ACCENT, BAD, GOOD, SOFT, Figure, draw

MAPS = 400  # heads on a page at most; with more, layers are left out evenly
SIDE = 48  # pixels of a map at most; longer texts are drawn with several tokens a pixel, the strongest of them
SHADES = 16
RANKINGS = 100  # held-out rankings on the map of hidden states
BLUE = (74, 127, 196)  # is seen on white and on black

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Head:
    """One attention head. Shares are means over the tokens that chose the completion's tokens."""

    image: str  # data: URI of a PNG; row: the token that looks, column: the token looked at; darkness √weight
    first: float  # share on the first token of all
    before: float  # share on the token itself and the one before
    prompt: float  # share on the rest of the prompt


@torch.no_grad()
def attention(model: Any, ids: Sequence[int], prompt: int) -> dict[int, list[Head]]:
    """Layer (from 1) -> its heads, for the tokens `ids`, of which the first `prompt` are the prompt; {} for a model without attention maps.

    Switches `model`, a causal LM, to eager attention, which alone gives the weights.
    """
    model.set_attn_implementation("eager")
    given = torch.tensor([list(ids)], device=next(model.parameters()).device)
    layers = model(input_ids=given, output_attentions=True, use_cache=False).attentions or ()
    layers = [layer for layer in layers if layer is not None]
    if not layers:
        return {}
    return {
        number: [_head(weights, prompt) for weights in layers[number - 1][0].float().cpu().numpy()]
        for number in layers_shown(len(layers), layers[0].shape[1])
    }


def layers_shown(layers: int, heads: int) -> list[int]:
    """The layers, from 1, whose heads a page shows: all, or as many as make `MAPS` maps, evenly chosen."""
    return [i + 1 for i in evenly(layers, max(1, MAPS // heads))]


def evenly(count: int, most: int) -> list[int]:
    """Of the places from 0 to `count` - 1 all, or `most` that are evenly chosen, the first and the last among them."""
    found: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return found


def _head(weights: Array, prompt: int) -> Head:
    rows = weights[prompt - 1 : -1]
    at = np.arange(len(rows)) + prompt - 1
    first = rows[:, 0]
    near = sum(np.where(at - back > 0, rows[np.arange(len(rows)), np.maximum(at - back, 0)], 0.0) for back in (0, 1))
    # what is left of the prompt: neither its first token, nor the token itself or the one before
    rest = np.array([row[1 : min(prompt, place - 1)].sum() for row, place in zip(rows, at, strict=True)])
    return Head(picture(weights), float(first.mean()), float(np.mean(near)), float(rest.mean()))


def picture(weights: Array, side: int = SIDE) -> str:
    """Weights (L, L) in [0, 1] as a data: URI of a PNG of at most `side` by `side` pixels, transparent where 0."""
    edges = np.linspace(0, len(weights), min(side, len(weights)) + 1).round().astype(int)[:-1]
    pooled = np.maximum.reduceat(np.maximum.reduceat(weights, edges, axis=0), edges, axis=1)
    shades = np.round(np.sqrt(np.clip(pooled, 0, 1)) * (SHADES - 1)).astype(np.uint8)
    image = Image.frombytes("P", shades.shape[::-1], shades.tobytes())
    image.putpalette([*BLUE] * SHADES)
    out = io.BytesIO()
    image.save(
        out, format="PNG", bits=4, optimize=True, transparency=bytes(255 * n // (SHADES - 1) for n in range(SHADES))
    )
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def chosen_and_rejected(rankings: Sequence[Ranking]) -> list[tuple[Ranking, str, str]]:
    """(ranking, "chosen" or "rejected", text): the first completion of the best and of the worst tier, where there are two tiers."""
    out = []
    for ranking in [r for r in rankings if len(r.ranking) > 1][:RANKINGS]:
        texts = {c.id: c.text for c in ranking.completions}
        out += [(ranking, "chosen", texts[ranking.ranking[0][0]]), (ranking, "rejected", texts[ranking.ranking[-1][0]])]
    return out


def principal(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[float]]:
    """Coordinates (N, 2) on the two directions of most variance, and the share of the variance that each has (PCA by SVD).

    The sign of a direction, which is arbitrary, makes its largest loading positive.
    """
    centred = points - points.mean(0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    variance = sizes**2
    shares = (variance[:2] / max(variance.sum(), 1e-300)).tolist()
    return centred @ (directions * signs[:, None]).T, shares


def states_figures(states: NDArray[np.float64], names: Sequence[str], kinds: Sequence[str], seed: int) -> list[Figure]:
    """The map by PCA, and by t-SNE of more than four points; kinds are chosen, rejected or "this one"."""
    places, shares = principal(states)
    told = phrase(" and ").join(f"{share:.0%}" for share in shares)
    note = phrase(
        "The reward model's final state at the last token of held-out completions, on its two principal components "
        "(PCA, linear), which hold {shares} of the variance.",
        shares=told,
    )
    drawn = [_scatter("pca", phrase("Hidden states, PCA"), note, places, names, kinds)]
    if len(states) > 4:
        near, perplexity = neighbours(states, seed)
        note = phrase(
            "The same states by scikit-learn's t-SNE; neighbours stay neighbours, distances mean nothing (perplexity {perplexity:.0f}).",
            perplexity=perplexity,
        )
        drawn.append(_scatter("tsne", phrase("Hidden states, t-SNE"), note, near, names, kinds))
    return drawn


def neighbours(points: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], float]:
    """Coordinates (N, 2) by scikit-learn's t-SNE, begun from PCA, and its perplexity."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    made = TSNE(n_components=2, perplexity=perplexity, random_state=seed, init="pca").fit_transform(points)
    return np.asarray(made), perplexity


def _scatter(
    name: str, title: str, note: str, places: NDArray[Any], names: Sequence[str], kinds: Sequence[str]
) -> Figure:
    def paint(axes: Any) -> None:
        for kind, colour, marker, size in (
            ("chosen", GOOD, "o", 16),
            ("rejected", BAD, "x", 18),
            (fixed("this one"), ACCENT, "*", 110),
        ):
            own = places[[k == kind for k in kinds]]
            if len(own):
                axes.scatter(
                    own[:, 0], own[:, 1], s=size, color=colour, marker=marker, label=phrase(kind), linewidths=1
                )
        axes.set(xticks=[], yticks=[], xlabel=phrase("first direction"), ylabel=phrase("second direction"))
        axes.xaxis.label.set_color(SOFT)
        axes.legend()

    rows = [[label, phrase(kind), float(x), float(y)] for label, kind, (x, y) in zip(names, kinds, places, strict=True)]
    svg = draw(name, phrase("{title}: chosen and rejected completions", title=title), paint)
    return Figure(title, note, svg, phrases("completion", "kind", "first", "second"), rows)
