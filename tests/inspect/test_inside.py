"""Are the figures from inside the models those that transformers and autograd give? And is what cannot be shown left out?"""

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from pipeline.inspect import heads, landscape, lens, positions, saliency, stepping
from policies.logprobs import logits
from reward.model import Reading

SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 99}
PLAIN: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
IDS, PROMPT = [5, 9, 23, 7, 40, 41, 8, 3], 3


def model(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A random model of three layers, initialised so widely that its layers differ."""
    torch.manual_seed(3)
    wide = {"initializer_range": 0.3}
    made: dict[str, Any] = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=99, **wide, **PLAIN)),
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(**SIZE, intermediate_size=64, num_key_value_heads=2, **wide, **PLAIN)
        ),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZE, intermediate_size=64, **wide, **PLAIN)),
        "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=99, **wide)),
    }
    return made[kind]().to(dtype).eval()


class Words:
    """A tokenizer as far as showing a token needs one."""

    all_special_ids = [0, 1]
    pad_token_id = 0

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"w{one} " for one in ids)

    def convert_ids_to_tokens(self, one: int) -> str:
        return f"w{one}"


@pytest.fixture(autouse=True)
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lens, saliency, stepping):
        monkeypatch.setattr(module, "shown", lambda tokenizer, token: f"w{token}")


FINAL = {
    "gpt2": "transformer.ln_f",
    "llama": "model.norm",
    "neox": "gpt_neox.final_layer_norm",
    "bloom": "transformer.ln_f",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", sorted(FINAL))
def test_the_lens_reads_each_layer_by_the_models_own_norm_and_head(kind: str, dtype: torch.dtype) -> None:
    speaker = model(kind, dtype)
    found = lens.lens("m", speaker, Words(), IDS, PROMPT)
    assert found is not None and found.normed and list(found.layers) == [0, 1, 2, 3]
    norm = speaker.get_submodule(FINAL[kind])
    with torch.no_grad():
        out = speaker(input_ids=torch.tensor([IDS]), output_hidden_states=True)
        expected = {i: logits(speaker, norm(out.hidden_states[i])[0, PROMPT - 1 : -1]) for i in range(3)}
    expected[3] = out.logits[0, PROMPT - 1 : -1].float()
    close = {"abs": 1e-5} if dtype == torch.float32 else {"rel": 0.1}
    for layer, z in expected.items():
        for place, guess in enumerate(found.layers[layer]):
            said = IDS[PROMPT + place]
            p = z[place].softmax(-1)
            assert guess.text == f"w{z[place].argmax()}" and guess.probability == pytest.approx(p.max().item(), **close)
            assert guess.rank == 1 + int((z[place] > z[place][said]).sum())
            assert guess.of_said == pytest.approx(p[said].item(), **close)


def test_a_lens_that_does_not_end_at_the_models_own_answer_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "logits", lambda one, hidden: -logits(one, hidden))
    assert lens.lens("m", model("llama"), Words(), IDS, PROMPT) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_query_and_key_make_the_attention_that_transformers_gives(kind: str, dtype: torch.dtype) -> None:
    speaker = model(kind, dtype)
    found = heads.looked(speaker, IDS)
    with torch.no_grad():
        expected = speaker(input_ids=torch.tensor([IDS]), output_attentions=True).attentions
    assert len(found) == 3 and all(one.explained for one in found)
    for one, weights in zip(found, expected, strict=True):
        torch.testing.assert_close(one.weights, weights[0].float())
        for fault in (-one.keys, one.keys.roll(1, 0), one.keys.roll(1, 1)):
            assert not heads.explains(one.weights, one.queries, fault, one.scaling, dtype != torch.float32)


def test_a_bias_of_distance_is_not_explained_by_query_and_key() -> None:
    """BLOOM's ALiBi: either nothing is overheard, or what is does not make the shares."""
    found = heads.looked(model("bloom"), IDS)
    assert not any(one.explained for one in found)
    shown = heads.view(found, [f"w{one}" for one in IDS])
    assert shown is None or not any("queries" in layer for layer in shown["layers"])


def test_the_page_holds_what_gives_weights_and_scores_back() -> None:
    found = heads.looked(model("llama"), IDS)
    view = heads.view(found, [f"w{one}" for one in IDS])
    assert view is not None and view["earlier"] == 0 and [one["number"] for one in view["layers"]] == [1, 2, 3]
    layer, one, count = view["layers"][1], found[1], len(IDS)
    weights = np.frombuffer(base64.b64decode(layer["weights"]), np.uint8).reshape(4, -1)
    for head in range(4):
        for i in range(count):
            row = (weights[head][i * (i + 1) // 2 : (i + 1) * (i + 2) // 2] / 255) ** 2
            assert row == pytest.approx(one.weights[head, i, : i + 1].numpy(), abs=5e-3)

    def vectors(kind: str, number: int) -> Any:
        raw = np.frombuffer(base64.b64decode(layer[kind]), np.int8).reshape(number, count, layer["width"])
        return raw * np.array(layer[f"{kind}_scale"]).reshape(number, count, 1)

    queries, keys = vectors("queries", 4), vectors("keys", 2)
    scores = layer["scaling"] * queries @ keys.repeat(2, 0).transpose(0, 2, 1)
    exact = one.scaling * one.queries @ one.keys.repeat_interleave(2, 0).transpose(1, 2)
    assert np.abs(scores - exact.numpy()).max() < 0.02 * exact.abs().max()


def test_a_large_models_sections_are_small() -> None:
    """30 layers of 9 heads of 64, as SmolLM2-135M, with 60 tokens: together below 1.5 MB of the page's 3."""
    weights = torch.rand(9, 60, 60).tril()
    one = heads.Looked(
        weights / weights.sum(-1, keepdim=True), torch.randn(9, 60, 64), torch.randn(3, 60, 64), 0.125, True
    )
    one = heads.Looked(one.weights[:, -48:, -48:], one.queries[:, -48:], one.keys[:, -48:], 0.125, True)
    view = heads.view([one] * 30, ["␣word"] * 60)
    assert view is not None and view["earlier"] == 12 and len(view["layers"]) == 30
    apart = [layer["number"] for layer in view["layers"] if "queries" in layer]
    assert len(apart) >= 8 and apart[0] == 1 and apart[-1] == 30
    step = {"said": 0, "tokens": list(range(100)), "logprobs": [-1.234] * 100, "rest": [-1.234] * 20}
    assert len(json.dumps(view)) + len(json.dumps([step] * 60)) < 1_500_000


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_with_one_position_for_all_only_tokens_count(kind: str) -> None:
    """Then a token that stands twice gets the same share from whoever sees both; with its own positions it does not."""
    ids = [5, 9, 5, 7, 40, 41, 8, 3]
    speaker = model(kind)
    found = positions.ways(speaker, ids, PROMPT, seed=1)
    assert [way.name for way in found] == ["as it is", "shuffled", "all the same"]
    assert len({way.logprob for way in found}) == 3 and all(list(way.images) == [1, 2, 3] for way in found)
    twice = {}
    for name, numbers in (("own", range(8)), ("one", [0] * 8)):
        made = positions._run(speaker, ids, list(numbers))
        assert made is not None
        twice[name] = max((layer[3:, 0] - layer[3:, 2]).abs().max().item() for layer in made[1][:1])
        plain = torch.log_softmax(made[0][PROMPT - 1 : -1], -1).gather(1, torch.tensor(ids[PROMPT:])[:, None]).mean()
        assert next(
            w for w in found if w.name == {"own": "as it is", "one": "all the same"}[name]
        ).logprob == pytest.approx(plain.item())
        assert all((layer[7, :7] > 0).all() for layer in made[1])  # nothing was taken for a text of its own
    assert twice["one"] < 1e-6 < 1e-3 < twice["own"]


def test_a_model_without_positions_to_change_shows_none() -> None:
    assert positions.ways(model("bloom"), IDS, PROMPT, seed=1) == []


def classifier(kind: str) -> Any:
    torch.manual_seed(5)
    wide = {"initializer_range": 0.3, "num_labels": 1}
    if kind == "llama":
        config = LlamaConfig(**SIZE, intermediate_size=64, **wide, **PLAIN)
        return LlamaForSequenceClassification(config).eval()
    return BertForSequenceClassification(BertConfig(**SIZE, intermediate_size=64, **wide)).eval()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Reading:
    from reward.rendering import Row

    row = Row(IDS)
    for module in (saliency, landscape):
        monkeypatch.setattr(module, "render", lambda *_: row)
    return Reading(Words(), "completion", 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_gradient_times_input_is_the_slope_towards_nothing(kind: str, rendered: Reading) -> None:
    """Their sum is d/dα of score(α · embeddings) at 1, here by differences; a token's own is the same with its embedding alone."""
    judge = classifier(kind)
    found = saliency.saliency(judge, rendered, "p", "c")
    assert found is not None and [text for text, _ in found.tokens] == [f"w{one}" for one in IDS]
    judge.double()
    given = judge.get_input_embeddings()(torch.tensor([IDS])).detach()
    mask = torch.ones(1, len(IDS), dtype=torch.long)

    def score(scale: torch.Tensor) -> float:
        with torch.no_grad():
            return judge(inputs_embeds=given * scale[None, :, None], attention_mask=mask).logits.item()

    ones, step = torch.ones(len(IDS), dtype=torch.double), 1e-3  # the norms round to float32
    for place, (_, share) in enumerate(found.tokens):
        moved = torch.zeros_like(ones)
        moved[place] = step
        slope = (score(ones + moved) - score(ones - moved)) / (2 * step)
        assert share == pytest.approx(slope, rel=2e-2, abs=2e-3)
    assert found.total == pytest.approx(
        (score(ones * (1 + step)) - score(ones * (1 - step))) / (2 * step), rel=2e-2, abs=5e-3
    )
    assert found.score == pytest.approx(score(ones), abs=1e-4) and found.blank == pytest.approx(
        score(ones * 0), abs=1e-4
    )


def test_saliency_of_a_model_in_bfloat16_has_gradients_in_float32(rendered: Reading) -> None:
    """A slope in bfloat16 has eight bits; of these some need more."""
    found = saliency.saliency(classifier("llama").to(torch.bfloat16), rendered, "p", "c")
    assert found is not None
    assert any(torch.tensor(share).bfloat16().item() != share for _, share in found.tokens)


def test_states_of_layers_are_those_of_transformers(rendered: Reading) -> None:
    judge = classifier("llama")
    found = landscape.states_of_layers(judge, rendered, [("p", "c"), ("p", "d")])
    with torch.no_grad():
        expected = judge(input_ids=torch.tensor([IDS]), output_hidden_states=True).hidden_states
    assert found is not None and found[0].shape == (2, 4, 32) and found[1] == [0, 1, 2, 3]
    for layer, states in enumerate(expected):
        assert found[0][1, layer] == pytest.approx(states[0, -1].numpy(), abs=1e-5)


def test_a_map_says_how_far_chosen_and_rejected_are_apart() -> None:
    """Layer 0: all the same. Layer 1: two lumps, so all nearest neighbours are of a point's kind. Chance by hand: 2·(5·4)/(10·9)."""
    rng = np.random.default_rng(0)
    lumps = np.concatenate([rng.normal(0, 0.1, (5, 6)), rng.normal(9, 0.1, (5, 6)), rng.normal(4, 0.1, (1, 6))])
    states = np.stack([np.zeros_like(lumps), lumps], axis=1).astype(np.float32)
    kinds = ["chosen"] * 5 + ["rejected"] * 5 + ["this one"]
    made = landscape.maps(states, [0, 1], kinds, [f"r{i}" for i in range(11)], seed=1)
    first, last = made["layers"]
    assert first["apart"] is None and last["apart"] == 1.0 and last["chance"] == pytest.approx(4 / 9)
    assert len(last["pca"]) == len(last["tsne"]) == 11 and all(0 <= x <= 100 for place in last["pca"] for x in place)
    mixed = landscape.maps(states, [0, 1], (["chosen", "rejected"] * 5 + ["this one"]), made["names"], seed=1)
    assert mixed["layers"][1]["apart"] < 0.8


def test_the_rest_makes_shares_exact_at_every_temperature() -> None:
    logprobs = torch.log_softmax(torch.randn(2, 50, generator=torch.Generator().manual_seed(1)) * 3, -1)
    best, ids = logprobs.topk(7, -1)
    rest = stepping.of_the_rest(logprobs, ids)
    for place, t in enumerate(stepping.TEMPERATURES):
        shares = (best / t).exp() / ((best / t).exp().sum(-1) + rest[:, place].exp())[:, None]
        torch.testing.assert_close(shares, torch.softmax(logprobs / t, -1).gather(1, ids), atol=1e-5, rtol=1e-4)
    assert torch.isinf(stepping.of_the_rest(logprobs, logprobs.topk(50, -1).indices)).all()


def test_what_a_model_lacks_is_left_out() -> None:
    """GPT-1's layers end in norms of their own, and no norm comes after; OPT-350m's output is narrower than its layers; Mamba has no attention."""
    small: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2}
    first = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    found = lens.lens("m", first, Words(), IDS, PROMPT)
    assert found is not None and not found.normed
    narrow = {"ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
    assert lens.lens("m", OPTForCausalLM(OPTConfig(**small, **narrow)).eval(), Words(), IDS, PROMPT) is None
    assert positions.ways(MambaForCausalLM(MambaConfig(**small)).eval(), IDS, PROMPT, seed=1) == []


@pytest.mark.parametrize("ids", [[5, 9], [5, 9, 7]])
def test_a_text_of_two_or_three_tokens_has_its_positions(ids: list[int]) -> None:
    assert all(len(positions.ways(model("llama"), ids, 1, seed)) == 3 for seed in range(8))


def test_states_in_a_batch_are_those_of_each_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from reward.rendering import Row

    monkeypatch.setattr(landscape, "render", lambda *given: Row(IDS[: int(given[3])]))
    reads = Reading(Words(), "completion", 64)  # type: ignore[arg-type]
    texts = [("p", str(length)) for length in (8, 3, 5)]
    both = landscape.states_of_layers(classifier("llama"), reads, texts)
    alone = [landscape.states_of_layers(classifier("llama"), reads, [one]) for one in texts]
    assert both is not None
    for place, one in enumerate(alone):
        assert one is not None and both[0][place] == pytest.approx(one[0][0], abs=1e-5)


def test_a_reward_model_that_fails_on_embeddings_has_no_saliency(
    rendered: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = classifier("llama")
    plain = judge.forward

    def forward(*given: Any, **more: Any) -> Any:
        if more.get("inputs_embeds") is not None:
            raise RuntimeError("no embeddings here")
        return plain(*given, **more)

    monkeypatch.setattr(judge, "forward", forward)
    assert saliency.saliency(judge, rendered, "p", "c") is None
