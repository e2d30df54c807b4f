"""Do rows lie in lanes at the cost of their tokens, and come back as they were?"""

import math
from typing import Any

import hypothesis
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, PAD, rows
from transformers import LlamaConfig, LlamaForCausalLM

from policies.backbone import decoder
from policies.quick.packing import enable_packing, lanes, lay

LENGTHS = [30, 4, 17, 9, 1, 22, 12]
SHAPE: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": PAD,
    "eos_token_id": EOS, "bos_token_id": None,
}  # fmt: skip


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.sampled_from([20.0, 300.0, 3000.0, math.inf]))
def test_every_row_in_one_lane_and_cheaper_than_padding(lengths: list[int], reach: float) -> None:
    dealt = lay(lengths, reach)
    if dealt is None:
        return
    assert sorted(row for lane in dealt for row in lane) == list(range(len(lengths)))
    width = max(sum(lengths[row] for row in lane) for lane in dealt)
    padded = len(lengths) * max(lengths) * (1 + max(lengths) / reach)
    assert len(dealt) * width * (1 + width / reach) < padded


def test_rows_of_one_length_stay_as_they_are() -> None:
    """Nothing to be had: no lane costs less than the row in it, and longer lanes cost more attention."""
    assert lay([40] * 32, 3000.0) is None
    assert lay([7], 3000.0) is None
    assert lay([40, 40, 40, 39], math.inf) is None  # too little to be had


def test_lanes_are_as_long_as_pays() -> None:
    """By hand: one row of 100 tokens and a hundred of 1 fit two lanes of 100. Where attention is free, one lane of any length will do;
    where it costs much, lanes are no longer than the longest row."""
    for reach in (50.0, 1000.0):
        dealt = lay([100] + [1] * 100, reach)
        assert dealt is not None and [len(lane) for lane in dealt] == [1, 100]
    assert lay([100, 60, 50, 1], math.inf) is not None
    dealt = lay([12, 6, 6, 6, 6], 100.0)
    assert dealt is not None and sorted(map(len, dealt)) == [1, 2, 2] and [0] in dealt


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20), st.sampled_from([20.0, 87.0, math.inf]))
@hypothesis.example(LENGTHS, 87.0)
def test_tokens_go_and_come_back(lengths: list[int], reach: float) -> None:
    width = max(lengths)
    laid = lanes(lengths, width, reach, math.inf, torch.device("cpu"))
    if laid is None:
        return
    if (lengths, reach) == (LENGTHS, 87.0):
        assert laid.source.shape[0] > 1 and laid.source.numel() > sum(lengths)
    ids, mask = rows(lengths)
    flat, positions = ids.flatten()[laid.source], laid.positions
    back = torch.zeros_like(ids).flatten().index_copy(0, laid.target, flat.flatten()[laid.place]).view_as(ids)
    assert torch.equal(back, ids)
    assert len(laid.place) == len(set(laid.place.tolist())) == sum(lengths) == mask.sum()
    where = torch.arange(width).repeat(len(lengths))  # the position of every token of the padded rows
    assert torch.equal(positions.flatten()[laid.place], where[laid.target])


def test_no_lane_is_longer_than_a_decoder_can_count() -> None:
    """Some look positions or biases up by place."""
    assert lay(LENGTHS, math.inf, 128) == [sorted(range(7), key=lambda i: -LENGTHS[i])]
    dealt = lay(LENGTHS, math.inf, 64)
    assert dealt is not None and max(sum(LENGTHS[i] for i in lane) for lane in dealt) <= 64
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    enable_packing(model)
    assert decoder(model).limit == 128
