"""Does the reward model learn from groups as InstructGPT says: each completion encoded once, the same whatever the micro-batches?"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from tiny import unpacked
from transformers import TrainerCallback, TrainingArguments

from pipeline.settings.config import Reward
from pipeline.settings.sections import Lora
from pipeline.training.trainers import trainer_arguments
from policies.adapters import lora_config
from policies.backbone import decoder, new_classifier
from policies.quick.trunk import find_trunk, first_adapted
from reward.trainer import RankingCollator, RankingTrainer, encode_rows

RATED = 40  # the token that people like


def group(seed: int, k: int, ties: bool = False) -> dict[str, Any]:
    """K random completions; rank 0 holds the liked token, the others do not."""
    rng = np.random.default_rng(seed)
    rows = [[int(t) for t in rng.integers(50, 97, rng.integers(3, 14))] + [1] for _ in range(k)]
    rows[0][len(rows[0]) // 2] = RATED
    ranks = [0] + [1 if ties else i for i in range(1, k)]
    order = rng.permutation(k)
    return {
        "input_ids": [rows[i] for i in order],
        "ranks": [ranks[i] for i in order],
        "ratings": [float(-ranks[i]) for i in order],
    }


GROUPS = [group(i, k) for i, k in enumerate([2, 5, 3, 2, 4, 3, 2, 6, 4, 2, 3, 3, 5, 2, 2, 4])]


def train(
    folder: Path,
    tokenizer: Any,
    state: Path,
    groups: list[dict[str, Any]],
    size: int,
    callback: TrainerCallback | None = None,
    learning_rate: float = 1e-3,
    **loss: Any,
) -> tuple[Any, list[float]]:
    """The trained classifier and the logged losses; 8 groups a step, `size` a micro-batch."""
    section = Reward(
        batch_size=8,
        per_device_train_batch_size=size,
        learning_rate=learning_rate,
        logging_steps=1,
        save_steps=1000,
        lr_scheduler_type="constant",
    )
    model = new_classifier(folder, tokenizer, torch.float32, seed=0)
    trainer = RankingTrainer(
        model=model,
        args=TrainingArguments(**trainer_arguments(section, state, 1, 0)),
        train_dataset=groups,
        data_collator=RankingCollator(tokenizer.pad_token_id),
        **{"loss": "k_wise", **loss},
    )
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train()
    return model, [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("loss", [{"loss": "k_wise", "margin": 0.2, "label_smoothing": 0.1}, {"loss": "plackett_luce"}])
def test_micro_batches_do_not_matter(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, loss: dict[str, Any]
) -> None:
    """1 × 8 = 2 × 4 = 8 × 1 after two steps, with groups of two to six."""
    results = [train(tiny_folder, tiny_tokenizer, tmp_path / str(n), GROUPS, n, **loss) for n in (8, 4, 1)]
    plain: Any = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
    for model, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], abs=1e-4) and len(losses) == 2
        for (name, p), q in zip(model.named_parameters(), results[0][0].parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=0, msg=name)
    assert not torch.equal(results[0][0].score.weight, plain.score.weight)


def test_groups_without_a_pair_do_not_dilute_the_others(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """A wholly tied group adds nothing to the loss, whichever micro-batch it falls into."""
    tied = [{**g, "ranks": [0] * len(g["ranks"])} if i in (1, 2, 9) else g for i, g in enumerate(GROUPS)]
    results = [train(tiny_folder, tiny_tokenizer, tmp_path / str(n), tied, n) for n in (8, 4, 1)]
    for model, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], abs=1e-4)
        torch.testing.assert_close(model.score.weight, results[0][0].score.weight, atol=1e-5, rtol=0)


def test_loss_is_the_mean_over_groups_of_the_mean_over_pairs(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    """The first step's loss by a slow loop: every row scored alone, -log σ(s_i - s_j) averaged over a group's pairs, then over groups."""
    model = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
    means = []
    for g in GROUPS[:8]:
        with torch.no_grad():
            s = [model(torch.tensor([ids])).logits.item() for ids in g["input_ids"]]
        pairs = [(s[i] - s[j]) for i, a in enumerate(g["ranks"]) for j, b in enumerate(g["ranks"]) if a < b]
        means.append(np.mean([np.log1p(np.exp(-d)) for d in pairs]))
    for size in (8, 2):
        _, losses = train(tiny_folder, tiny_tokenizer, tmp_path / str(size), GROUPS[:8], size)
        assert losses == [pytest.approx(float(np.mean(means)), abs=1e-4)]


def test_each_completion_is_encoded_once(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that pass through the model in training are the completions, not the pairs they make."""
    seen: list[tuple[int, ...]] = []
    from transformers import LlamaForSequenceClassification

    right = LlamaForSequenceClassification.forward

    def counted(self: Any, input_ids: Any = None, attention_mask: Any = None, **kw: Any) -> Any:
        if self.training:  # not the trial at load
            seen.extend(tuple(r[: int(m.sum())].tolist()) for r, m in zip(input_ids, attention_mask, strict=True))
        return right(self, input_ids=input_ids, attention_mask=attention_mask, **kw)

    monkeypatch.setattr(LlamaForSequenceClassification, "forward", counted)
    train(tiny_folder, tiny_tokenizer, tmp_path / "s", GROUPS, 4)
    assert sorted(seen) == sorted(tuple(ids) for g in GROUPS for ids in g["input_ids"])


def test_rows_of_like_length_together_score_as_alone(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    model = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
    inputs = RankingCollator(tiny_tokenizer.pad_token_id)(GROUPS[:6])
    with torch.no_grad():
        found = encode_rows(model, inputs["input_ids"], inputs["attention_mask"])
        alone = [model(torch.tensor([ids])).logits.item() for g in GROUPS[:6] for ids in g["input_ids"]]
    assert found.tolist() == pytest.approx(alone, abs=1e-5)


def test_collator_pads_ranks_apart_from_rank_zero(tiny_tokenizer: Any) -> None:
    out = RankingCollator(0)([GROUPS[0], {**GROUPS[1], "ratings": None}])
    assert out["ranks"].tolist() == [[*GROUPS[0]["ranks"], -1, -1, -1], GROUPS[1]["ranks"]]
    assert out["ratings"].tolist() == [[*GROUPS[0]["ratings"], 0, 0, 0], [0.0] * 5]
    assert out["input_ids"].shape[0] == out["attention_mask"].shape[0] == 7


@pytest.mark.parametrize("loss", ["k_wise", "plackett_luce"])
def test_learns_what_people_like(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, loss: str) -> None:
    """The liked token decides the first place; on groups never seen the model finds it nine times in ten."""
    groups = [group(100 + i, 2 + i % 3, ties=True) for i in range(400)]
    model, losses = train(tiny_folder, tiny_tokenizer, tmp_path / "s", groups, 8, learning_rate=3e-3, loss=loss)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    model.eval()
    right = pairs = 0
    for i in range(60):
        g = group(9000 + i, 3, ties=True)
        inputs = RankingCollator(tiny_tokenizer.pad_token_id)([g])
        with torch.no_grad():
            s = encode_rows(model, inputs["input_ids"], inputs["attention_mask"]).tolist()
        best = g["ranks"].index(0)
        right += sum(s[best] > x for j, x in enumerate(s) if j != best)
        pairs += len(s) - 1
    assert right / pairs > 0.9


@pytest.mark.parametrize("room", [1e9, 2000.0, 0.0])
def test_the_trunk_once_over_epochs(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, room: float) -> None:
    """An adapter in the last of two layers, three passes over the same rankings: losses and weights are those of whole passes, and with
    room for all states the layer below ran once for each distinct completion."""
    rows, results, seen = GROUPS * 3, [], [0]
    for kept in (True, False):
        model = new_classifier(tiny_folder, tiny_tokenizer, torch.float32, seed=0)
        torch.manual_seed(0)
        policy: Any = get_peft_model(model, lora_config(model, Lora(r=4, lora_alpha=8, layers="last 1"), "SEQ_CLS"))
        trunk = find_trunk(decoder(policy), first_adapted(policy, ["default"])) if kept else None
        if trunk is not None:
            trunk.room = room
            unpacked(trunk.lower)  # so that rows can be counted
            trunk.lower.layers[0].register_forward_pre_hook(lambda _, x: seen.__setitem__(0, seen[0] + len(x[0])))
        section = Reward(batch_size=8, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1)
        trainer = RankingTrainer(
            model=policy,
            args=TrainingArguments(**trainer_arguments(section, tmp_path / str(kept), 1, 0)),
            train_dataset=rows,
            data_collator=RankingCollator(tiny_tokenizer.pad_token_id),
            loss="k_wise",
            trunk=trunk,
        )
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        results.append((losses, {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5) and len(results[0][0]) == 6
    assert results[0][0][0] > results[0][0][-1]
    for name, weight in results[0][1].items():
        torch.testing.assert_close(weight, results[1][1][name], atol=1e-4, rtol=0, msg=name)
    distinct = len({tuple(row) for g in GROUPS for row in g["input_ids"]})
    if room == 1e9:
        assert seen[0] == distinct
    else:
        assert distinct < seen[0] <= 3 * sum(len(g["ranks"]) for g in GROUPS)


def test_accuracy_is_logged_over_the_pairs_of_all_micro_batches(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores replaced by 2, 1, 1, 0, 0, 0, … for each micro-batch's completions: what a loop over the pairs of the groups counts."""

    def falling(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, _: Any) -> torch.Tensor:
        real = encode_rows(model, input_ids, attention_mask)
        fixed = torch.tensor([2.0, 1.0, 1.0] + [0.0] * 100)[: len(real)]
        return fixed + 0 * real

    monkeypatch.setattr("reward.trainer.encode_rows", falling)
    logged: list[float] = []

    class Log(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any
        ) -> None:
            if logs and "accuracy" in logs:
                logged.append(logs["accuracy"])

    train(tiny_folder, tiny_tokenizer, tmp_path, GROUPS, 2, Log())
    expected = []
    for step in (GROUPS[:8], GROUPS[8:]):
        points, pairs = 0.0, 0
        for start in range(0, 8, 2):
            scores = iter([2.0, 1.0, 1.0] + [0.0] * 100)
            for one in step[start : start + 2]:
                own = [next(scores) for _ in one["ranks"]]
                for i, a in enumerate(one["ranks"]):
                    for j, b in enumerate(one["ranks"]):
                        if a < b:
                            points += 1.0 if own[i] > own[j] else 0.5 if own[i] == own[j] else 0.0
                            pairs += 1
        expected.append(points / pairs)
    assert logged == pytest.approx(expected)
