"""How often would a GPU be waited for? Each stage's steps, on a device that is not there, beside the same steps on the CPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from elsewhere import DEVICE, Elsewhere, Far, sent
from tiny import EOS, PAD, PROMPTS, STOP, asked, make_roles, settings, vowels
from transformers import AutoModelForSequenceClassification, LlamaConfig

from pipeline.inspect.tokens import tokens as looked_at
from pipeline.training.fine_tuning import loss
from policies import trainer
from policies.backbone import enable_packing, load_causal
from policies.drawing import Record, noise
from policies.engines import transformers_engine
from policies.episodes import roll_out, scored
from policies.loop import Loop, Silent
from policies.rollout import sample, way_of
from policies.state import save_good
from reward.model import Scorer
from reward.trainer import RankingCollator, RankingTrainer, encode_rows

LIMIT = 24
TOKENS = [[5 + i % 3] * (3 + i % 7) for i in range(64)]
NOISES = [noise(0, 0, f"p{i}", 0, LIMIT) for i in range(64)]
KW: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "temperature": 1.0, "batch_size": 64}


def test_the_device_counts_what_it_is_asked_and_finds_what_it_cannot_do() -> None:
    with Elsewhere() as device:
        x = torch.tensor([1.0, 2.0, 3.0]).to(DEVICE)
        assert isinstance(x + 1, Far) and (x + 1).device == DEVICE and not device.waits
        assert sum(device.copies.values()) == 1
        for ask in (
            lambda: x.sum().item(),
            lambda: x.tolist(),
            lambda: bool((x > 1).any()),
            lambda: x.cpu(),
            lambda: x[x > 1],
            lambda: x.nonzero(),
        ):
            before = sum(device.waits.values())
            ask()
            assert sum(device.waits.values()) == before + 1, ask
        assert not device.mixed
        torch.add(x, torch.ones(3))
        assert sum(device.mixed.values()) == 1


@pytest.fixture
def model(tiny_folder: Path, tiny_tokenizer: Any) -> Any:
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    assert way_of(model) == "cached"
    return model


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("record", [None, Record(0, EOS), Record(1, EOS)])
def test_sampling_waits_once_in_eight_steps_and_never_for_a_row(model: Any, rows: int, record: Record | None) -> None:
    """Of 24 tokens for 16 rows and for 64: what is said is what the CPU says; prompts and noise go there in a few copies."""
    expected = sample(model, TOKENS[:rows], NOISES[:rows], **KW, record=record)
    sent(model)
    with Elsewhere() as device:
        found = sample(model, TOKENS[:rows], NOISES[:rows], **KW, record=record)
    assert [(c.tokens, c.finished) for c in found] == [(c.tokens, c.finished) for c in expected]
    assert max(len(c.tokens) for c in found) == LIMIT and min(len(c.tokens) for c in found) < 8
    kept_there = record is not None and record.depth > 0
    assert sum(device.waits.values()) <= LIMIT // 8 + (record is None) + kept_there, device.waits
    assert sum(device.copies.values()) <= 8 and not device.mixed
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a.logprobs, Far) == (record is not None)
        for mine, theirs in ((a.logprobs, b.logprobs), (a.entropies, b.entropies), (a.hidden, b.hidden)):
            if theirs is not None and mine is not None:
                torch.testing.assert_close(getattr(mine, "near", mine), theirs, atol=1e-5, rtol=1e-4)
        if b.states is not None:
            assert isinstance(a.states, Far)
            torch.testing.assert_close(a.states.near, b.states, atol=1e-5, rtol=1e-4)


def loop_there(folder: Path, tokenizer: Any, state: Path, value: str, dtype: torch.dtype, **changes: Any) -> Loop:
    """A loop whose roles lie on the device, with an optimizer."""
    roles = make_roles(folder, tokenizer, "lora", value)
    roles.causal.to(dtype)
    assert way_of(roles.causal) == "cached"
    section = settings(batch_size=12, total_episodes=12, response_length=16, **changes)
    accelerator = Accelerator(cpu=True, device_placement=False)
    sent(roles)
    accelerator.state.device = DEVICE
    with Elsewhere():
        parts = trainer._optimizer(accelerator, roles, section)
    engine = transformers_engine(roles)
    everyone = asked(tokenizer)
    return Loop(
        *(accelerator, roles, roles, *parts, engine, tokenizer, vowels, section, 1),
        *(everyone, everyone, [([5, 6], [7, 8, 9])] * 4, state, "", Silent()),
    )


@pytest.mark.parametrize(
    ("value", "dtype", "changes"),
    [
        ("adapter", torch.float32, {}),
        ("shared", torch.float32, {}),
        ("adapter", torch.bfloat16, {}),
        ("shared", torch.bfloat16, {"whiten_rewards": True}),
        ("adapter", torch.float32, {"gradient_checkpointing": True, "ptx_coef": 0.1}),
    ],
)
def test_an_iteration_waits_for_few_figures(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, value: str, dtype: torch.dtype, changes: dict[str, Any]
) -> None:
    """Twice in sixteen sampled tokens, once an optimizer step, and beyond that no more than once a forward (transformers' masks)."""
    try:
        loop = loop_there(tiny_folder, tiny_tokenizer, tmp_path / "state", value, dtype, **changes)
        with Elsewhere() as device:
            figures = trainer.iteration(loop, 0, 0.05)
    finally:
        Accelerator().state._reset_state(reset_partial_state=True)
    assert abs(figures["objective/kl"]) < 1e-3 and figures["val/ratio"] == pytest.approx(1.0, abs=0.2)
    assert not device.mixed
    waits = {line: n for line, n in device.waits.items() if not line.startswith("policies/quick/packing.py")}
    by_file = {
        name: sum(n for line, n in waits.items() if line.startswith(f"policies/{name}"))
        for name in ("quick/cached", "drawing", "measure", "figures", "update", "quick/moving", "advantages", "roles")
    }
    assert by_file["quick/cached"] + by_file["drawing"] <= 2
    assert by_file["update"] <= loop.settings.num_ppo_epochs and by_file["figures"] <= 3
    assert by_file["measure"] <= 1 and by_file["advantages"] == by_file["roles"] == 0
    assert sum(waits.values()) <= 10, waits


def test_an_evaluation_leaves_what_lies_on_the_device_there(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """Nothing that a process says to the others holds a tensor of its device."""
    try:
        loop = loop_there(tiny_folder, tiny_tokenizer, tmp_path / "state", "adapter", torch.float32)
        told: list[Any] = []
        loop.watch.show = lambda step, episodes: told.extend(episodes)  # type: ignore[method-assign]
        with Elsewhere() as device:
            trainer.evaluate(loop, 1)
    finally:
        Accelerator().state._reset_state(reset_partial_state=True)
    assert len(told) == len(PROMPTS) and not device.mixed
    assert not any(isinstance(x, Far) for e in told for x in vars(e.completion).values())
    assert sum(device.waits.values()) <= 2


def test_weights_are_read_back_together(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    roles = make_roles(tiny_folder, tiny_tokenizer)
    save_good(tmp_path / "here", roles.trainable())
    expected = (tmp_path / "here.good.safetensors").read_bytes()
    sent(roles)
    with Elsewhere() as device:
        save_good(tmp_path / "there", roles.trainable())
    assert (tmp_path / "there.good.safetensors").read_bytes() == expected
    assert sum(device.waits.values()) == 1 and len(roles.trainable()) > 20


def test_sft_evaluates_with_one_wait(model: Any, tiny_tokenizer: Any) -> None:
    turns = [([5 + i, 6], [7] * (1 + i % 5) + [EOS]) for i in range(20)]
    expected = loss(model, turns, tiny_tokenizer, 4)
    sent(model)
    with Elsewhere() as device:
        found = loss(model, turns, tiny_tokenizer, 4)
    assert found == pytest.approx(expected, abs=1e-5) and not device.mixed
    assert sum(n for line, n in device.waits.items() if "packing" not in line) == 1


def classifier() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=98, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, num_labels=1, pad_token_id=PAD, use_cache=False,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    enable_packing(model)
    return model


def test_a_reward_model_scores_with_one_wait(tiny_tokenizer: Any) -> None:
    """Beside what transformers itself asks in a forward."""
    model = classifier()

    def scores(device: Any) -> torch.Tensor:
        scorer = Scorer(lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits[:, 0], tiny_tokenizer,
                        batch_size=4, device=device)  # fmt: skip
        return scorer(["a"] * 16, ["b" * (1 + i) for i in range(16)])

    expected = scores("cpu")
    sent(model)
    with Elsewhere() as device:
        found = scores(DEVICE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not device.mixed
    assert device.waits.total() - sum(n for line, n in device.waits.items() if "packing" in line) <= 1 + 2 * 16 // 4


def test_a_step_of_the_reward_model_waits_for_its_lengths(tiny_tokenizer: Any) -> None:
    model = classifier()
    groups = [{"input_ids": [[5] * n, [6] * (n + 3)], "ranks": [0, 1], "ratings": None} for n in (2, 9, 20, 4)]
    batch = RankingCollator(PAD)(groups)
    step: Any = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, num_processes=1),
        trunk=None,
        ranking_loss="k_wise",
        ranking_margin=0.5,
        ranking_smoothing=0.1,
        args=SimpleNamespace(average_tokens_across_devices=False),
        agreed=torch.zeros(2),
    )
    step._count = lambda scores, ranks: RankingTrainer._count(step, scores, ranks)
    expected = RankingTrainer.compute_loss(step, model, dict(batch), num_items_in_batch=torch.tensor(4))
    sent(model)
    with Elsewhere() as device:
        step.agreed = torch.zeros(2, device=DEVICE)
        there = {name: tensor.to(DEVICE) for name, tensor in batch.items()}
        found = RankingTrainer.compute_loss(step, model, there, num_items_in_batch=torch.tensor(4).to(DEVICE))
        found.backward()
    assert found.near.item() == pytest.approx(expected.item(), abs=1e-5) and not device.mixed
    assert device.waits["reward/trainer.py:53 tolist"] <= 1
    assert encode_rows is not None and device.waits.total() <= 6


def test_inspect_mixes_nothing(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    section = settings(response_length=8)
    rows = {}
    for place in ("here", "there"):
        roles = make_roles(tiny_folder, tiny_tokenizer)
        if place == "there":
            sent(roles)
        with Elsewhere() as device, torch.no_grad():
            said = roll_out(
                roles, transformers_engine(roles), tiny_tokenizer, asked(tiny_tokenizer)[:1], 0, section, 1, {}
            )
            (episode,) = scored(roles, tiny_tokenizer, said, vowels, section, {})
            rows[place] = looked_at(roles, tiny_tokenizer, episode, section, 0.05, critic=True, top=5)
        assert not device.mixed
    assert [r["text"] for r in rows["here"]] == [r["text"] for r in rows["there"]]
    assert rows["there"][0]["logprob"] == pytest.approx(rows["here"][0]["logprob"], abs=1e-5)
