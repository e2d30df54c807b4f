"""Are log-probabilities and entropies of completions those that the model gives token by token, without padding or batching?"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAD, make_roles, randomise
from zoo.build import build

from policies import logprobs
from policies.backbone import BackboneError, decoder, load_causal
from policies.logprobs import completion_logprobs, pack
from policies.quick import head
from policies.trials import output_layer

PROMPTS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]]
COMPLETIONS = [[33, 1], [4], [17, 90, 25, 66, 31, 2], [70, 71, 1]]


def by_hand(model: Any, prompt: list[int], completion: list[int], temperature: float) -> list[tuple[float, float]]:
    """(log-probability, entropy) of each completion token: a whole forward a token, softmax written out in float64."""
    out = []
    for t, token in enumerate(completion):
        with torch.no_grad():
            z = model(torch.tensor([prompt + completion[:t]])).logits[0, -1].double() / temperature
        p = torch.exp(z - z.max())
        p = p / p.sum()
        out.append((math.log(p[token]), -sum(float(q) * math.log(q) for q in p)))
    return out


@pytest.fixture
def model(tiny_folder: Path, tiny_tokenizer: Any) -> Any:
    return load_causal(tiny_folder, tiny_tokenizer, torch.float32)


def test_pack_points_at_the_hidden_state_before_each_token() -> None:
    batch = pack(PROMPTS, COMPLETIONS, PAD)
    assert batch.input_ids.shape == (4, 13) and batch.tokens.shape == (4, 6)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        whole = prompt + completion
        seen = whole[:-1]  # nothing is predicted from the last token
        assert batch.input_ids[row].tolist() == seen + [PAD] * (13 - len(seen))
        assert batch.attention_mask[row].tolist() == [1] * len(seen) + [0] * (13 - len(seen))
        assert batch.mask[row].tolist() == [True] * len(completion) + [False] * (6 - len(completion))
        for t, token in enumerate(completion):
            assert batch.tokens[row, t] == token == whole[int(batch.positions[row, t]) + 1]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equal_to_a_slow_loop(model: Any, temperature: float) -> None:
    batch = pack(PROMPTS, COMPLETIONS, PAD)
    with torch.no_grad():
        found, entropy = completion_logprobs(model, decoder(model), batch, temperature)
    assert found.dtype == entropy.dtype == torch.float32
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        for t, (logprob, expected_entropy) in enumerate(by_hand(model, prompt, completion, temperature)):
            assert found[row, t].item() == pytest.approx(logprob, abs=2e-5)
            assert entropy[row, t].item() == pytest.approx(expected_entropy, abs=2e-5)
        assert not found[row, len(completion) :].any() and not entropy[row, len(completion) :].any()


def test_pad_token_and_neighbours_do_not_matter(model: Any) -> None:
    with torch.no_grad():
        together = completion_logprobs(model, decoder(model), pack(PROMPTS, COMPLETIONS, PAD), 1.0)[0]
        other_pad = completion_logprobs(model, decoder(model), pack(PROMPTS, COMPLETIONS, 50), 1.0)[0]
        assert torch.equal(together, other_pad)
        for row in range(4):
            alone = completion_logprobs(
                model, decoder(model), pack(PROMPTS[row : row + 1], COMPLETIONS[row : row + 1], PAD), 1.0
            )[0]
            torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=2e-6, rtol=0)


def test_chunks_change_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pack(PROMPTS, COMPLETIONS, PAD)
    with torch.no_grad():
        whole = completion_logprobs(model, decoder(model), batch, 0.8)
        monkeypatch.setattr(head, "CHUNK", 5)
        parts = completion_logprobs(model, decoder(model), batch, 0.8)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_gradient_equals_that_of_plain_logits(model: Any) -> None:
    """d/dθ of Σ w·log p, once through the packed path, once through model(...).logits row by row."""
    batch = pack(PROMPTS, COMPLETIONS, PAD)
    weight = torch.linspace(-1.0, 2.0, batch.mask.numel()).view(batch.mask.shape)
    (weight * completion_logprobs(model, decoder(model), batch, 0.7)[0]).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        z = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / 0.7
        picked = torch.log_softmax(z, -1)[torch.arange(len(completion)), completion]
        (weight[row, : len(completion)] * picked).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=2e-5, rtol=1e-4)
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize(
    "kind, changes, scale",
    [
        ("llama", {}, 1.0),
        ("granite", {"logits_scaling": 8.0}, 0.125),
        ("cohere", {"logit_scale": 0.3}, 0.3),
        ("minicpm3", {}, 8.0),  # which divides states, by two other numbers
        ("falcon_h1", {"lm_head_multiplier": 0.25}, 0.25),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, 1.0),  # which transformers does not use
        ("gemma2", {"final_logit_softcapping": 2.0}, None),
        ("recurrent_gemma", {"logits_soft_cap": 2.0}, None),
        ("xlstm", {"output_logit_soft_cap": 2.0}, None),
        ("bert", {}, None),  # whose head has layers of its own
        ("phi", {}, 1.0),  # and a bias
    ],
)
def test_logits_are_those_of_the_model(kind: str, changes: dict[str, Any], scale: float | None) -> None:
    """Values and gradients, of rows that are padded, against the whole forward; and of the log-probabilities, whichever way they take."""
    model = build(kind, **changes)
    ids = torch.randint(4, 128, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    batch = pack([ids[0, :3].tolist(), ids[1, :2].tolist()], [ids[0, 3:].tolist(), ids[1, 2:4].tolist()], 0)
    found: dict[str, Any] = {}
    for way in ("own", "ours"):
        model.zero_grad()
        if way == "own":
            z = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            table = torch.log_softmax(z / 0.7, -1)
            rows = [table[0, 2:6].gather(1, ids[0, 3:, None]), table[1, 1:3].gather(1, ids[1, 2:4, None])]
            said = torch.cat(rows)[:, 0]
        else:
            states = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            z = logprobs.logits(model, states.flatten(0, 1)).view(2, 7, -1)
            inner = states[:, : batch.input_ids.shape[1]]
            said = logprobs.token_logprobs(model, inner, batch, 0.7)[0][batch.mask]
        (said * torch.arange(1.0, 7.0)).sum().backward()
        found[way] = (z[mask.bool()].detach(), said.detach(), {n: p.grad for n, p in model.named_parameters()})
    measured = output_layer(model).scale
    assert measured == pytest.approx(scale, rel=1e-5) if scale is not None else measured is None
    assert torch.allclose(found["own"][0], found["ours"][0], atol=2e-5)
    assert torch.allclose(found["own"][1], found["ours"][1], atol=2e-5)
    for name, grad in found["own"][2].items():
        other = found["ours"][2][name]
        assert (grad is None) == (other is None) and (grad is None or torch.allclose(grad, other, atol=1e-4)), name


def test_logits_that_are_no_function_of_the_states_are_refused() -> None:
    with pytest.raises(
        BackboneError, match="ProphetNetForCausalLM: its logits are not made of its decoder's final states; use"
    ):
        output_layer(build("prophetnet"))


def test_roles_use_the_same_path(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    """Through an adapter that is not zero, policy and reference differ and each equals its own slow loop."""
    roles = make_roles(tiny_folder, tiny_tokenizer)
    randomise(roles, "policy")
    batch = pack(PROMPTS, COMPLETIONS, PAD)
    with torch.no_grad():
        policy, reference = roles(batch, 0.7)[0], roles.reference_logprobs(batch, 0.7)
    plain, merged = load_causal(tiny_folder, tiny_tokenizer, torch.float32), roles.sampler()
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        for t, ((a, _), (b, _)) in enumerate(
            zip(by_hand(merged, prompt, completion, 0.7), by_hand(plain, prompt, completion, 0.7), strict=True)
        ):
            assert policy[row, t].item() == pytest.approx(a, abs=5e-5)
            assert reference[row, t].item() == pytest.approx(b, abs=5e-5)
    assert (policy - reference).abs().max() > 0.05
