"""Does every architecture that transformers has work, to the last digit, or is it refused in a sentence? Twelve of them in every run of
the tests, all of them in the slow ones; `make models` writes what came out to docs/models.md."""

from pathlib import Path

import pytest
import torch

from zoo.build import CANNOT, PAIRS_CANNOT, names, pair_names
from zoo.checks import check
from zoo.table import PAGE, listed, parts

SUBSET = [
    *(
        "llama",
        "gpt2",
        "opt",
        "falcon",
        "mistral",
        "gemma3",
        "gpt_oss",
        "mixtral",
        "qwen3_5",
        "mamba",
        "granite",
        "mpt",
    ),
]
PAIRS = ["t5", "bart"]
REST = [name for name in names() if name not in SUBSET]


@pytest.mark.parametrize("name", [*SUBSET, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_an_architecture(name: str, tmp_path: Path) -> None:
    found = check(name, tmp_path)
    assert name not in SUBSET or found.policy == "works"
    assert found.policy == "works" or found.policy.startswith("refused: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBSET)
def test_in_bfloat16(name: str, tmp_path: Path) -> None:
    assert check(name, tmp_path, torch.bfloat16).policy == "works"


OTHER_PAIRS = [name for name in pair_names() if name not in PAIRS]


@pytest.mark.parametrize("name", [*PAIRS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_PAIRS)])
def test_an_encoder_decoder(name: str, tmp_path: Path) -> None:
    found = check(name, tmp_path, pair=True)
    assert name not in PAIRS or (found.policy == "works" and found.falls_back == ["padding is computed", "no trunk"])
    assert found.policy == "works" or found.policy.startswith("refused: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart", "mt5", "umt5", "pegasus", "mbart"])
def test_an_encoder_decoder_in_bfloat16(name: str, tmp_path: Path) -> None:
    assert check(name, tmp_path, torch.bfloat16, pair=True).policy == "works"


def test_the_page_lists_what_the_zoo_has() -> None:
    causal, pairs = parts(PAGE.read_text(encoding="utf-8"))
    assert set(listed(causal)) == {*names(), *CANNOT}
    assert set(listed(pairs)) == {*pair_names(), *PAIRS_CANNOT}
