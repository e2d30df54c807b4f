"""Are the pictures of attention and hidden states those of their definitions?"""

import base64
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForCausalLM

from pipeline.inspect import maps as inspect_maps


def test_pictures_keep_the_strongest() -> None:
    """Weights 0, 1/4, 1 are 0, ½ and all of the way in 15 steps of the root: alpha 0, 8/15 and 15/15 of 255."""

    def alphas(uri: str) -> Any:
        head, _, data = uri.partition(",")
        assert head == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[:, :, 3]

    weights = np.array([[1.0, 0.0], [0.25, 0.0]])
    assert alphas(inspect_maps.picture(weights)).tolist() == [[255, 0], [255 * 8 // 15, 0]]
    large = np.zeros((100, 100))
    large[99, 3] = 1.0
    pooled = alphas(inspect_maps.picture(large, side=10))
    assert pooled.shape == (10, 10) and pooled[9, 0] == 255 and pooled.sum() == 255


def test_shares_of_attention_by_hand() -> None:
    """Tokens 0 1 2 | 3 4: the completion's are chosen at 2 and 3.

    Row 2: .5 on token 0, .2 + .3 on itself and the one before. Row 3: .1 first, .4 + .2 near, .3 on token 1, which is prompt.
    """
    weights = np.array(
        [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.5, 0.2, 0.3, 0, 0], [0.1, 0.3, 0.2, 0.4, 0], [0.9, 0, 0, 0, 0.1]]
    )
    head = inspect_maps._head(weights, 3)
    assert (head.first, head.before, head.prompt) == pytest.approx((0.3, 0.55, 0.15))


def test_attention_is_of_every_layer_and_head_up_to_a_limit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    found = inspect_maps.attention(model, [5, 6, 7, 8], 2)
    assert list(found) == [1, 2] and [len(heads) for heads in found.values()] == [4, 4]
    for heads in found.values():
        for head in heads:
            assert head.first + head.before + head.prompt == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(inspect_maps, "MAPS", 4)
    assert list(inspect_maps.attention(model, [5, 6, 7, 8], 2)) == [1]


def test_principal_components_against_the_covariance() -> None:
    """Eigenvectors of the covariance matrix, another way to the same thing; and points on a line, which have one direction."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 6)) @ np.diag([5.0, 3.0, 1.0, 1.0, 0.5, 0.1]) + 7
    places, shares = inspect_maps.principal(points)
    sizes, directions = np.linalg.eigh(np.cov(points.T))
    assert shares == pytest.approx((sizes[::-1][:2] / sizes.sum()).tolist())
    expected = (points - points.mean(0)) @ directions[:, ::-1][:, :2]
    assert np.abs(places) == pytest.approx(np.abs(expected))
    line = np.outer(np.array([-1.0, 0.0, 4.0]), [3.0, 4.0])
    places, shares = inspect_maps.principal(line)
    assert shares == pytest.approx([1, 0]) and places[:, 0] == pytest.approx([-10, -5, 15])


def test_tsne_is_scikit_learns_and_begins_from_pca(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with its interface says how it was asked; of four points there is no map of neighbours."""
    states = np.random.default_rng(0).normal(size=(9, 4))
    names, kinds = [str(i) for i in range(9)], ["chosen", "rejected"] * 4 + ["this one"]
    asked: dict[str, Any] = {}

    class TSNE:
        def __init__(self, **how: Any) -> None:
            asked.update(how)

        def fit_transform(self, points: Any) -> Any:
            return points[:, :2]

    module = ModuleType("sklearn.manifold")
    module.TSNE = TSNE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.manifold", module)
    both = inspect_maps.states_figures(states, names, kinds, seed=4)
    assert [figure.title for figure in both] == ["Hidden states, PCA", "Hidden states, t-SNE"]
    assert asked == {"n_components": 2, "perplexity": pytest.approx(8 / 3), "random_state": 4, "init": "pca"}
    assert both[1].rows[0] == ["0", "chosen", states[0, 0], states[0, 1]]
    alone = inspect_maps.states_figures(states[:4], names[:4], kinds[:4], seed=4)
    assert [figure.title for figure in alone] == ["Hidden states, PCA"]
