"""Do a decoder's two parts make the whole, and are a rollout's states those that a plain forward computes?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import DEMO_TEXTS, EOS, PAD, PROMPTS, STOP, asked, randomise, rows, said, settings, unpacked
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen3Config,
)

from pipeline.settings.sections import Lora
from pipeline.training.roles import _last_score
from policies.adapters import lora_config
from policies.backbone import decoder, load_causal
from policies.drawing import Completion, Record, noise
from policies.quick.linear import in_one_step
from policies.quick.trunk import Trunk, find_trunk, first_adapted, padded
from policies.roles import POLICY, REWARD, VALUE, Roles, lora_roles
from policies.rollout import sample
from reward.model import Scorer

LAYERS = 4
SHAPE: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2, "pad_token_id": PAD,
    "eos_token_id": EOS, "bos_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with four layers; ends and <|pad|> are likely, so that lengths differ and texts lose tokens."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    with torch.no_grad():
        model.lm_head.weight[[EOS, STOP]] *= 2.0
        model.lm_head.weight[PAD] *= 3.0
    model.generation_config.eos_token_id = [EOS, STOP]
    model.save_pretrained(folder)
    return folder


def four_roles(folder: Path, tokenizer: Any, policy: str = "last 2", reward: Sequence[int] = (2, 3)) -> Roles:
    """Policy, value and reward adapters with random weights; the policy's in the last layers, the reward's as given."""
    torch.manual_seed(7)
    base = load_causal(folder, tokenizer, torch.float32)
    model: Any = get_peft_model(base, lora_config(base, Lora(r=4, lora_alpha=8, layers=policy), "CAUSAL_LM"), POLICY)
    names = ["q_proj", "v_proj", "down_proj"]
    model.add_adapter(
        REWARD, in_one_step(LoraConfig(r=3, lora_alpha=9, target_modules=names, layers_to_transform=list(reward)))
    )
    roles = lora_roles(model, "adapter", None)
    randomise(roles, POLICY, VALUE, REWARD)
    return roles


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Rows of each call of a decoder layer within the block."""
    calls: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    try:
        yield calls
    finally:
        hook.remove()


# --- two parts and the whole


def whole(body: Any, ids: Tensor, mask: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """What enters layer `depth` in a plain forward of the whole decoder, by a hook, and the final states."""
    entered: list[Tensor] = []
    hook = body.layers[depth].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        final = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    hook.remove()
    return entered[0], final


@pytest.mark.parametrize("depth", range(1, LAYERS))
def test_two_parts_are_the_whole(deep: Path, tiny_tokenizer: Any, depth: int) -> None:
    body: Any = decoder(load_causal(deep, tiny_tokenizer, torch.float32))
    before = [name for name, _ in body.named_modules()], body.config.to_dict()
    trunk = find_trunk(body, depth)
    assert trunk is not None and trunk.depth == depth
    unpacked(body)  # the whole, not its parts
    ids, mask = rows([19, 1, 7, 12])
    for _ in range(2):  # the second time on other weights: the parts are the decoder, not a copy
        entered, final = whole(body, ids, mask, depth)
        states = trunk.states(ids, mask)
        valid = mask.bool()
        torch.testing.assert_close(states[valid], entered[valid], atol=1e-5, rtol=1e-5)
        assert not states[~valid].any() and not states.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(trunk.above(states, mask)[valid], final[valid], atol=1e-5, rtol=1e-5)
            for p in body.parameters():
                p.mul_(1.1)
    assert (final - whole(body, ids, mask, depth)[1]).abs().max() > 0.1
    assert ([name for name, _ in body.named_modules()], body.config.to_dict()) == before


def test_known_states_are_looked_up(deep: Path, tiny_tokenizer: Any) -> None:
    """Rows that are known are not run, whatever their place; a row that only begins alike is."""
    body = unpacked(load_causal(deep, tiny_tokenizer, torch.float32))  # so that rows can be counted
    trunk = Trunk(body, 2)
    ids, mask = rows([9, 4, 12, 6, 4])
    expected = trunk.states(ids, mask)
    lists = [tuple(r[:n]) for r, n in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
    trunk.known = {lists[0]: expected[0, :9], lists[3]: expected[3, :6], lists[1][:3]: torch.full((3, 32), 7.0)}
    with counted(body.layers[0]) as calls:
        torch.testing.assert_close(trunk.states(ids, mask), expected, atol=1e-6, rtol=0)
        assert calls == [3]
        some = [0, 3]
        torch.testing.assert_close(trunk.states(ids[some], mask[some]), expected[some], atol=1e-6, rtol=0)
        assert calls == [3]
    trunk.known[lists[0]] = torch.ones(9, 32)
    assert torch.equal(trunk.states(ids, mask)[0, :9], torch.ones(9, 32))


def test_padded() -> None:
    found = padded([torch.ones(2, 3), torch.full((1, 3), 2.0), torch.zeros(0, 3)], 4)
    assert found.tolist() == [[[1.0] * 3] * 2 + [[0.0] * 3] * 2, [[2.0] * 3] + [[0.0] * 3] * 3, [[0.0] * 3] * 4]


OTHERS = {
    "gemma": (GemmaConfig(**SHAPE, head_dim=8), True),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=8), True),
    "gemma2, window of 8": (Gemma2Config(**SHAPE, head_dim=8, sliding_window=8), None),
    "gemma3, window of 8": (
        Gemma3TextConfig(
            **SHAPE, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2
        ),
        None,
    ),
    "qwen2, window of 8": (
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=2),
        None,
    ),
    "cohere2, window of 8": (Cohere2Config(**SHAPE, sliding_window=8), None),
    "granite, scaled embeddings": (GraniteConfig(**SHAPE, embedding_multiplier=12.0), False),
    "gpt2, no .layers": (GPT2Config(vocab_size=98, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64), False),
}


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_other_decoders_are_whole_or_have_no_trunk(name: str, depth: int) -> None:
    """A trunk that is found must hold for texts longer than an attention window, too. None: either is right."""
    config, expected = OTHERS[name]
    torch.manual_seed(0)
    body = AutoModelForCausalLM.from_config(config).eval().base_model
    trunk = find_trunk(body, depth)
    assert expected is None or (trunk is not None) == expected
    if trunk is not None:
        ids, mask = rows([30, 4, 17])
        entered, final = whole(body, ids, mask, depth)
        valid, states = mask.bool(), trunk.states(ids, mask)
        torch.testing.assert_close(states[valid], entered[valid], atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(trunk.above(states, mask)[valid], final[valid], atol=1e-5, rtol=1e-5)


def test_no_trunk_without_depth(deep: Path, tiny_tokenizer: Any) -> None:
    body: Any = decoder(load_causal(deep, tiny_tokenizer, torch.float32))
    assert find_trunk(body, 0) is None
    del body.norm
    assert find_trunk(body, 1) is None


def test_first_adapted(deep: Path, tiny_tokenizer: Any) -> None:
    """The lowest of all the adapters asked for; 0 where one is on a module outside the layers, or there is none."""
    base = load_causal(deep, tiny_tokenizer, torch.float32)
    model: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj"], layers_to_transform=[3]), "a")
    model.add_adapter("b", LoraConfig(target_modules=["up_proj", "o_proj"], layers_to_transform=[1, 2]))
    model.add_adapter("c", LoraConfig(target_modules=["lm_head"]))
    for names, depth in ((["a"], 3), (["b"], 1), (["a", "b"], 1), (["a", "c"], 0), (["none"], 0), ([], 0)):
        assert first_adapted(model, names) == depth, names


@pytest.mark.parametrize("reward", [(2, 3), (3,), (1, 3)])
def test_every_role_on_the_trunk_is_the_role_without_it(
    deep: Path, tiny_tokenizer: Any, reward: tuple[int, ...]
) -> None:
    """A reward adapter below the policy's first layer is run on the whole decoder."""
    roles = four_roles(deep, tiny_tokenizer, reward=reward)
    assert roles.trunk is not None and roles.trunk.depth == 2
    assert [roles.on_trunk(r) for r in (POLICY, "reference", VALUE, REWARD)] == [True, True, True, min(reward) >= 2]
    ids, mask = rows([15, 3, 9])
    found, given = {}, roles.trunk.states(ids, mask)
    with torch.no_grad():
        for role in (POLICY, "reference", VALUE, REWARD):
            found[role] = roles.hidden(role, ids, mask)
            with counted(roles.causal.model.layers[0]) as calls:
                torch.testing.assert_close(roles.hidden(role, ids, mask, given), found[role])
            assert len(calls) == (0 if roles.on_trunk(role) else 1)
        object.__setattr__(roles, "trunk", None)
        for role, states in found.items():
            expected = roles.hidden(role, ids, mask)
            torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5, msg=role)


# --- what a rollout records

LIMIT = 8
TOKENS = [[5], [9, 7, 30, 12, 44], [60, 61, 3], [8] * 11, [40, 41], [9, 7], [22] * 6, [5, 6, 7, 8, 9, 10, 11]]
LONG = [[30 + i for i in range(20)] + tail for tail in ([5], [6, 7], [8, 9, 10], [], [11])]
# so far apart in length that they are read in groups, and one of them asked for three times
MIXED = [[5], [7] * 45, [9, 7, 30], [5], [i + 3 for i in range(44)], [60, 61], [5], [8] * 43]
KW: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD}


@pytest.mark.parametrize(("depth", "batch_size"), [(0, 3), (1, 8), (2, 3), (3, 1)])
@pytest.mark.parametrize(("prompts", "temperature"), [(TOKENS, 1.0), (LONG, 0.8), (MIXED, 1.0)])
def test_recorded_is_what_a_plain_forward_computes(
    deep: Path, tiny_tokenizer: Any, prompts: list[list[int]], temperature: float, depth: int, batch_size: int
) -> None:
    """A row at a time, no cache, no padding, over prompt, completion, and EOS where there is none.

    The entropy is -Σ p log p in float64.
    """
    model: Any = load_causal(deep, tiny_tokenizer, torch.float32)
    body: Any = decoder(model)
    noises = [noise(1, 6, f"p{i}", 0, LIMIT) for i in range(len(prompts))]
    kw = KW | {"temperature": temperature, "batch_size": batch_size}
    done: list[int] = []
    found = sample(model, prompts, noises, **kw, record=Record(depth, EOS), progress=done.append)
    plain = sample(model, prompts, noises, **kw)
    assert sum(done) == len(prompts)
    assert [(c.tokens, c.finished) for c in found] == [(c.tokens, c.finished) for c in plain]
    assert all(c.hidden is None and c.states is None for c in plain)
    assert not any(layer._forward_pre_hooks for layer in body.layers)
    for prompt, c, alone in zip(prompts, found, plain, strict=True):
        ids = torch.tensor([[*prompt, *c.tokens, *([] if c.finished else [EOS])]])
        entered, final = whole(body, ids, torch.ones_like(ids), depth)
        start, n = len(prompt) - 1, len(c.tokens)
        assert c.hidden is not None and c.hidden.shape == (n, 32) and len(c.entropies) == n
        torch.testing.assert_close(c.hidden, final[0, start : start + n], atol=2e-5, rtol=1e-5)
        if depth:
            assert c.states is not None
            torch.testing.assert_close(c.states, entered[0], atol=2e-5, rtol=1e-5)
        else:
            assert c.states is None
        with torch.no_grad():
            p = torch.softmax(model.lm_head(final[0, start : start + n]).double() / temperature, -1)
        assert c.entropies == pytest.approx((-p * p.log()).sum(-1).tolist(), abs=5e-5)
        assert c.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def ends(found: Sequence[Completion]) -> set[int | None]:
    return {c.tokens[-1] if c.finished else None for c in found}


def test_the_prompts_above_end_in_every_way(deep: Path, tiny_tokenizer: Any) -> None:
    """By EOS, by the second end, by the limit; and they leave the batch at different times."""
    model = load_causal(deep, tiny_tokenizer, torch.float32)
    for prompts in (TOKENS, LONG):
        noises = [noise(1, 6, f"p{i}", 0, LIMIT) for i in range(len(prompts))]
        found = sample(model, prompts, noises, **KW, temperature=1.0 if prompts is TOKENS else 0.8, batch_size=8)
        assert ends(found) >= {EOS, STOP} and len({len(c.tokens) for c in found}) >= 3
        assert prompts is LONG or None in ends(found)


def test_an_end_on_the_last_token_is_recorded_too(deep: Path, tiny_tokenizer: Any) -> None:
    """All rows, cut at each length at which one of them ends: its states hold its own end, and no second one."""
    model: Any = load_causal(deep, tiny_tokenizer, torch.float32)
    noises = [noise(1, 6, f"p{i}", 0, LIMIT) for i in range(len(TOKENS))]
    lengths = {len(c.tokens) for c in sample(model, TOKENS, noises, **KW, temperature=1.0, batch_size=8) if c.finished}
    for limit in sorted(lengths):
        kw = KW | {"temperature": 1.0, "batch_size": 8, "record": Record(2, EOS)}
        found = sample(model, TOKENS, [u[:limit] for u in noises], **kw)
        assert any(c.finished and len(c.tokens) == limit for c in found)
        for prompt, c in zip(TOKENS, found, strict=True):
            ids = torch.tensor([[*prompt, *c.tokens, *([] if c.finished else [EOS])]])
            assert c.states is not None
            torch.testing.assert_close(c.states, whole(decoder(model), ids, torch.ones_like(ids), 2)[0][0])


def test_the_hook_goes_when_sampling_fails(deep: Path, tiny_tokenizer: Any) -> None:
    model: Any = load_causal(deep, tiny_tokenizer, torch.float32)

    def fail(*args: Any) -> Any:
        raise RuntimeError("spoiled")

    with pytest.raises(RuntimeError, match="spoiled"):
        sample(
            model,
            [[5]],
            [noise(1, 4, "p", 0, 3)],
            **KW,
            temperature=1.0,
            batch_size=1,
            record=Record(2, EOS),
            choice=fail,
        )
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


# --- the score on the trunk


@pytest.mark.parametrize("reward", [(2, 3), (1, 2)])
@pytest.mark.parametrize("max_length", [64, 9])
def test_scores_in_a_rollout_are_those_without(
    deep: Path, tiny_tokenizer: Any, reward: tuple[int, ...], max_length: int
) -> None:
    """Against roles without a trunk, text by text. Some completions hold <|pad|> or end with <|stop|>, so that their
    text gives other tokens than were sampled, some are cut: those are computed anew, the others looked up."""
    roles, twin = (four_roles(deep, tiny_tokenizer, reward=reward) for _ in range(2))
    object.__setattr__(twin, "trunk", None)
    unpacked(roles.policy)  # so that rows can be counted
    assert roles.trunk is not None
    unpacked(roles.trunk.lower)
    head = nn.Linear(32, 1)
    prompts = [replace(one, sample=number) for number, one in enumerate(asked(tiny_tokenizer, PROMPTS * 2))]
    ran: list[int] = []

    def score(owner: Roles, size: int) -> Scorer:
        return Scorer(lambda i, m: _last_score(owner, head, i, m), tiny_tokenizer, 0.2, 1.5, max_length, size)

    def watched(texts: Any, completions: Any) -> Tensor:
        with counted(roles.causal.model.layers[0]) as calls:
            out = score(roles, 4)(texts, completions)
        ran.append(sum(calls))
        return out

    section = settings(response_length=10)
    episodes = said(roles, tiny_tokenizer, prompts, section, watched)
    known = other = 0
    for e in episodes:
        plain = score(twin, 1)([e.prompt], [e.text])[0].item()
        assert e.raw_score == pytest.approx(plain, abs=2e-5)
        sampled = [*e.completion.tokens, *([] if e.completion.finished else [EOS])]
        rendered = [*tiny_tokenizer(e.text)["input_ids"], EOS]
        known += sampled == rendered and len(e.prompt_ids + rendered) <= max_length
        other += sampled != rendered
    assert other >= 2 and known >= 1 and known + other <= len(episodes)  # both kinds are there
    assert ran == [len(episodes) - known if min(reward) >= 2 else len(episodes)]
    assert roles.trunk is not None and not roles.trunk.known  # nothing outlives the rollout


def test_known_states_go_when_scoring_fails(deep: Path, tiny_tokenizer: Any) -> None:
    roles = four_roles(deep, tiny_tokenizer)
    assert roles.trunk is not None
    seen: list[int] = []

    def fail(prompts: Any, completions: Any) -> Tensor:
        assert roles.trunk is not None
        seen.append(len(roles.trunk.known))
        raise ValueError("no score")

    prompts = asked(tiny_tokenizer, [{"id": text, "prompt": text} for text in DEMO_TEXTS[0]])
    with pytest.raises(ValueError, match="no score"):
        said(roles, tiny_tokenizer, prompts, settings(), fail)
    assert seen == [4] and not roles.trunk.known
