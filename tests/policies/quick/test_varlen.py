"""What would flash attention be given? A stand-in for it, which transformers calls in its place, records that and computes row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from policies.backbone import decoder, load_causal
from policies.precision import Held
from policies.quick.packing import packs

NAME = "stand_in"
calls: list[dict[str, Any]] = []


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> Any:
    """As flash attention is called: (B, heads, L, D), with bounds of rows in one lane, or a (B, L) mask of right-padded rows."""
    calls.append({"shape": tuple(query.shape), "mask": mask, **more})
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    out = torch.zeros_like(query)
    bounds = more.get("cu_seq_lens_q")
    if bounds is not None:
        assert len(query) == 1 and mask is None
        spans = [(0, int(a), int(b)) for a, b in zip(bounds, bounds[1:], strict=False)]
    else:
        ends = [query.shape[2]] * len(query) if mask is None else mask.sum(1).tolist()
        spans = [(row, 0, end) for row, end in enumerate(ends)]
    for row, a, b in spans:
        part = (t[row : row + 1, :, a:b] for t in (query, key, value))
        out[row : row + 1, :, a:b] = nn.functional.scaled_dot_product_attention(
            *part, is_causal=True, scale=more["scaling"]
        )
    return out.transpose(1, 2).contiguous(), None


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[None]:
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    yield
    calls.clear()


LENGTHS = [9, 2, 5, 1]


def padded() -> tuple[Tensor, Tensor]:
    mask = (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(3, 98, (4, 9), generator=torch.Generator().manual_seed(0)) * mask, mask


@torch.no_grad()
def test_rows_go_in_one_lane_with_their_bounds_and_no_mask(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    model: Any = load_causal(tiny_folder, tiny_tokenizer, Held(torch.float32, attention=NAME))
    assert packs(model)  # by the trial at load
    ids, mask = padded()
    calls.clear()
    found = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert len(calls) == 2  # one a layer
    for call in calls:
        assert call["shape"][0] == 1 and call["shape"][2] == sum(LENGTHS)
        assert call["mask"] is None
        bounds = call["cu_seq_lens_q"]
        assert bounds.dtype == torch.int32 and torch.equal(bounds, call["cu_seq_lens_k"])
        assert bounds.tolist() == [0, 9, 11, 16, 17]  # rows in their order, all tokens, no place left over
        assert call["max_length_q"] == call["max_length_k"] == 9
    plain: Any = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    expected = decoder(plain)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=0)
    assert not found[~mask.bool()].any()


@torch.no_grad()
def test_rows_without_padding_stay_as_they_are(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    model: Any = load_causal(tiny_folder, tiny_tokenizer, Held(torch.float32, attention=NAME))
    ids = torch.randint(3, 98, (4, 9))
    calls.clear()
    decoder(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert {call["shape"][0] for call in calls} == {4} and "cu_seq_lens_q" not in calls[0]


def test_an_attention_that_mixes_rows_of_a_lane_is_not_used_so(
    tiny_folder: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def mixing(*given: Any, **more: Any) -> Any:
        if (bounds := more.get("cu_seq_lens_q")) is not None:
            more["cu_seq_lens_q"] = bounds[[0, -1]]
        return attention(*given, **more)

    AttentionInterface.register(NAME, mixing)
    assert not packs(load_causal(tiny_folder, tiny_tokenizer, Held(torch.float32, attention=NAME)))
