"""Does batched sampling say what a plain loop says: one row at a time, no cache, no padding, the same noise?"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EOS, PAD, STOP, drawn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, MistralConfig, Qwen3Config
from transformers.cache_utils import DynamicLayer

from policies.backbone import load_causal
from policies.drawing import Completion, choose, noise
from policies.quick import cache, reading
from policies.rollout import sample, way_of

LIMIT = 12
PROMPTS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8] * 11, [40, 41], [9, 7], [22] * 6, [5, 6, 7, 8, 9, 10, 11]]
NOISES = [noise(0, 8, f"p{i}", 0, LIMIT) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tiny_tokenizer: Any) -> Any:
    """The tiny model with its ends made likely, so that some completions stop soon, some late, some never."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    with torch.no_grad():
        model.lm_head.weight[[EOS, STOP]] *= 2.5
    assert way_of(model) == "cached"  # tried once, before calls are counted
    return model


def one_by_one(model: Any, prompt: list[int], uniforms: np.ndarray, temperature: float, ends: set[int]) -> Completion:
    """The definition, numpy, float64: every token drawn from all that comes before it."""
    tokens: list[int] = []
    logprobs: list[float] = []
    for u in uniforms:
        with torch.no_grad():
            z = model(torch.tensor([prompt + tokens])).logits[0, -1].double().numpy() / temperature
        p = np.exp(z - z.max())
        p /= p.sum()
        tokens.append(drawn(p, u))
        logprobs.append(float(np.log(p[tokens[-1]])))
        if tokens[-1] in ends:
            return Completion(tokens, torch.tensor(logprobs), True)
    return Completion(tokens, torch.tensor(logprobs), False)


def agree(found: list[Completion], expected: list[Completion]) -> None:
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    assert [c.finished for c in found] == [c.finished for c in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=5e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_a_plain_loop(model: Any, batch_size: int, temperature: float) -> None:
    expected = [one_by_one(model, p, u, temperature, {EOS, STOP}) for p, u in zip(PROMPTS, NOISES, strict=True)]
    found = sample(
        model, PROMPTS, NOISES, eos_ids=[EOS, STOP], pad_id=PAD, temperature=temperature, batch_size=batch_size
    )
    agree(found, expected)


def test_cache_with_room_holds_what_a_dynamic_layer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through more tokens than there is room for, rows that leave, a crop and rows in another order: the same bits each time."""
    monkeypatch.setattr(cache, "SPARE", 3)
    generator = torch.Generator().manual_seed(0)
    plain, begun = DynamicLayer(), DynamicLayer()

    def states(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = torch.randn((2, rows, 2, tokens, 4), generator=generator)
        return keys, values

    first = states(4, 5)
    plain.update(*first), begun.update(*first)
    roomy = cache.RoomyLayer(begun)
    rows, moved = 4, 0
    for step in range(16):
        if step in (4, 5, 11):
            rows -= 1
            kept = torch.arange(rows) + (step == 5)
            plain.batch_select_indices(kept), roomy.batch_select_indices(kept)
        elif step == 8:
            plain.crop(-2), roomy.crop(-2)
        elif step == 13:
            plain.reorder_cache(torch.tensor([0])), roomy.reorder_cache(torch.tensor([0]))
        before = roomy.keys
        new = states(rows, 1 + (step == 2))
        for found, expected in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert torch.equal(roomy.keys, plain.keys) and torch.equal(roomy.values, plain.values)
        assert roomy.get_seq_length() == plain.get_seq_length()
        moved += before.data_ptr() != roomy.keys.data_ptr()
    assert moved < 10  # a DynamicLayer moves every time


def test_a_layer_that_had_nothing_begins_with_room() -> None:
    roomy = cache.RoomyLayer(DynamicLayer())
    keys, values = torch.randn((2, 2, 3, 1, 4))
    assert torch.equal(roomy.update(keys, values)[1], values)
    assert torch.equal(roomy.update(values, keys)[0], torch.cat([keys, values], dim=2))


def test_tokens_are_written_into_the_room(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the sampler would copy its whole cache for every token; and where room is taken anew for each, completions are the same."""
    taken: list[int] = []
    right = cache.RoomyLayer._longer

    def spy(layer: Any, name: str, new: torch.Tensor) -> torch.Tensor:
        before = getattr(layer, name).data_ptr()
        out = right(layer, name, new)
        taken.append(out.data_ptr() != before)
        return out

    def said() -> list[Completion]:
        return sample(model, PROMPTS, NOISES, eos_ids=[999], pad_id=PAD, temperature=1.0, batch_size=8)

    monkeypatch.setattr(cache.RoomyLayer, "_longer", spy)
    found = said()
    assert sum(taken) * (LIMIT - 1) == len(taken) > 0  # once for each layer's keys and values
    monkeypatch.setattr(cache, "SPARE", 0)
    agree(said(), found)


def test_ends_at_every_eos_and_at_the_limit(model: Any) -> None:
    found = sample(model, PROMPTS, NOISES, eos_ids=[EOS, STOP], pad_id=PAD, temperature=1.0, batch_size=8)
    assert {c.tokens[-1] for c in found if c.finished} == {EOS, STOP}
    assert {len(c.tokens) for c in found if not c.finished} == {LIMIT}
    assert not any(t in (EOS, STOP) for c in found for t in c.tokens[: -1 if c.finished else None])
    assert len({len(c.tokens) for c in found}) >= 3  # rows really leave the batch at different times
    only_one = sample(model, PROMPTS, NOISES, eos_ids=[EOS], pad_id=PAD, temperature=1.0, batch_size=8)
    agree(only_one, [one_by_one(model, p, u, 1.0, {EOS}) for p, u in zip(PROMPTS, NOISES, strict=True)])
    assert any(STOP in c.tokens for c in only_one)


def test_an_end_on_the_last_token_counts_as_finished(model: Any) -> None:
    whole = sample(model, PROMPTS, NOISES, eos_ids=[EOS, STOP], pad_id=PAD, temperature=1.0, batch_size=8)
    row = next(i for i, c in enumerate(whole) if c.finished and len(c.tokens) > 1)
    n = len(whole[row].tokens)
    for limit, finished in ((n, True), (n - 1, False)):
        (cut,) = sample(
            model, [PROMPTS[row]], [NOISES[row][:limit]], eos_ids=[EOS, STOP], pad_id=PAD, temperature=1.0, batch_size=1
        )
        assert (cut.tokens, cut.finished) == (whole[row].tokens[:limit], finished)


def test_order_does_not_matter(model: Any) -> None:
    order = [3, 7, 0, 5, 2, 6, 1, 4]
    kw: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 1.0, "batch_size": 3}
    found = sample(model, PROMPTS, NOISES, **kw)
    done: list[int] = []
    shuffled = sample(model, [PROMPTS[i] for i in order], [NOISES[i] for i in order], progress=done.append, **kw)
    agree(shuffled, [found[i] for i in order])
    assert done == [3, 3, 2]


@pytest.mark.parametrize("tails", [[[5], [6, 7], [8, 9, 10]], [[5], [5], [5, 6]]])
def test_shared_prefix_equals_no_prefix(model: Any, monkeypatch: pytest.MonkeyPatch, tails: list[list[int]]) -> None:
    """Twenty tokens in common are computed once; one prompt may be no longer than the others' common part."""
    prompts = [[30 + i for i in range(20)] + tail for tail in tails]
    noises = NOISES[: len(prompts)]
    calls: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kw: calls.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    kw: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 1.0, "batch_size": 3}
    with_prefix = sample(model, prompts, noises, **kw)
    different = len({tuple(tail) for tail in tails})
    assert calls[0][0] == 1 and calls[0][1] >= 20 and calls[1][0] == different and calls[1][1] <= 3
    monkeypatch.setattr(reading, "SHARED_PREFIX", 10**6)
    calls.clear()
    without = sample(model, prompts, noises, **kw)
    assert calls[0] == (different, max(map(len, prompts)))
    hook.remove()
    agree(with_prefix, without)
    agree(with_prefix, [one_by_one(model, p, u, 1.0, {EOS, STOP}) for p, u in zip(prompts, noises, strict=True)])


# so far apart in length that they are read in groups, and one of them asked for three times
MIXED = [[5], [7] * 45, [9, 7, 30], [5], [i + 3 for i in range(44)], [60, 61], [5], [8] * 43]


def test_a_prompt_is_read_once_beside_others_of_its_length(model: Any) -> None:
    """Three rows of one token and two short prompts in one call, the long ones in another; each row then has a draw of its own."""
    calls: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kw: calls.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    kw: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 1.0, "batch_size": 8}
    found = sample(model, MIXED, NOISES, **kw)
    hook.remove()
    assert calls[:3] == [(3, 3), (3, 45), (8, 1)]
    agree(found, [one_by_one(model, p, u, 1.0, {EOS, STOP}) for p, u in zip(MIXED, NOISES, strict=True)])
    assert len({tuple(found[i].tokens) for i in (0, 3, 6)}) == 3


SHAPE: dict[str, Any] = {
    "vocab_size": 98, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": PAD,
}  # fmt: skip
OTHERS = {
    "qwen3": Qwen3Config(**SHAPE),
    "gemma3, window of 8 in every other layer": Gemma3TextConfig(
        **SHAPE, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2
    ),
    "mistral, window of 8": MistralConfig(**SHAPE, sliding_window=8),
    "gpt2": GPT2Config(vocab_size=98, n_embd=32, n_layer=4, n_head=4, n_positions=64, initializer_range=0.2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_decoders_say_what_a_plain_loop_says(name: str) -> None:
    """Keys of a window are not all kept, learned positions not relative: padded on the left, both could go wrong."""
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(OTHERS[name]).eval()
    kw: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 1.0, "batch_size": 8}
    found = sample(other, MIXED, NOISES, **kw)
    agree(found, [one_by_one(other, p, u, 1.0, {EOS, STOP}) for p, u in zip(MIXED, NOISES, strict=True)])


def test_noise_belongs_to_seed_step_prompt_and_sample() -> None:
    draws = [noise(s, t, p, n, 5).tolist() for s in (0, 1) for t in (0, 1) for p in ("a", "b") for n in (0, 1)]
    assert len({tuple(d) for d in draws}) == 16
    assert noise(0, 1, "a", 1, 5).tolist() == noise(0, 1, "a", 1, 9).tolist()[:5]
    np.random.seed(0)
    torch.manual_seed(0)
    assert noise(0, 1, "a", 1, 5).tolist() == noise(0, 1, "a", 1, 5).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    """χ² of 50,000 draws from 8 tokens has 7 degrees of freedom: above 24.3 in one of a thousand; the seed is fixed."""
    z = torch.tensor([1.0, -1.0, 0.3, 2.0, -3.0, 0.0, 0.0, 1.5])
    uniform = torch.tensor(np.random.default_rng(0).random(50_000))
    tokens, logprobs, _ = choose(z.expand(50_000, -1), uniform, temperature)
    p = torch.softmax(z.double() / temperature, -1)
    expected, observed = 50_000 * p, torch.bincount(tokens, minlength=8)
    assert ((observed - expected) ** 2 / expected).sum() < 24.3
    torch.testing.assert_close(logprobs.double(), p.log()[tokens], atol=1e-5, rtol=0)


def test_another_batch_draws_the_same() -> None:
    """Rounding moves logits by some hundred-thousandths, and rare tokens, of which a large vocabulary has many, must be drawn none the
    less. In one sum over the vocabulary 12 of these 1000 draws change."""
    generator, changed = torch.Generator().manual_seed(0), 0
    for part in range(10):
        z = 2.5 * torch.randn((100, 30_000), generator=generator)
        uniform = torch.tensor(np.random.default_rng(part).random(100))
        moved = z + 3e-5 * torch.randn(z.shape, generator=generator)
        changed += int((choose(z, uniform, 1.0)[0] != choose(moved, uniform, 1.0)[0]).sum())
    assert changed <= 2


def test_no_token_without_probability_is_ever_chosen() -> None:
    """u = 0 and the u nearest to 1 (which float32 rounds to 1) take the first and last token that can be said."""
    z = torch.full((2, 9), -torch.inf)
    z[:, [2, 4, 6]] = torch.tensor([0.0, 1.0, 0.5])
    tokens, logprobs, _ = choose(z, torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64), 1.0)
    assert tokens.tolist() == [2, 6]
    assert torch.isfinite(logprobs).all()
    flat = torch.randn((1000, 300), generator=torch.Generator().manual_seed(0))
    flat[:, 250:] = -torch.inf
    tokens, logprobs, _ = choose(flat, torch.full((1000,), np.nextafter(1.0, 0.0), dtype=torch.float64), 1.0)
    assert tokens.max() < 250 and torch.isfinite(logprobs).all()
