"""Can the zoo be built, the same every time, and is every model of it worth asking?"""

import pytest
import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from zoo.build import CANNOT, PAIRS_CANNOT, VOCABULARY, build, names, pair_names


def test_every_architecture_is_built_or_named_with_a_reason() -> None:
    assert len(names()) >= 80
    assert {*names(), *CANNOT} == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {*pair_names(), *PAIRS_CANNOT} == set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize("name", ["mistral", pytest.param(None, marks=pytest.mark.slow)])
def test_logits_are_spread(name: str | None) -> None:
    ids = torch.randint(4, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(3))
    for one in [name] if name else names():
        logits = build(one)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        assert 0.5 < logits.std() < 2.0 and logits.shape == (2, 20, VOCABULARY), one


def test_a_model_is_the_same_every_time() -> None:
    first, again = (build("gemma3_text").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
