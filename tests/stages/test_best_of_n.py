"""Are samples drawn once, as asked, and is the best of n what its estimates say?"""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import Stop
from tiny import EOS, PROMPTS, STOP, vowels

from data.schema import Prompt
from pipeline.settings.config import PPO
from pipeline.settings.sections import Decoding
from pipeline.stages import best_of_n
from pipeline.training.samples import Sample, best_of_block, kl_bound, read, sample_scored
from policies.backbone import load_causal
from policies.decoding import decode
from policies.tokenizers import eos_ids
from reward.functions import combine


def samples(rewards: Sequence[float]) -> list[Sample]:
    return [Sample([7] * (i + 1), f"text {i}", True, reward + 10, reward) for i, reward in enumerate(rewards)]


def test_the_best_of_a_block_is_the_best_by_reward() -> None:
    own = samples([1, 3, 2, 0, 5, 5])
    assert [best_of_block(own, 2, block)[1] for block in range(3)] == [1, 2, 4]
    assert best_of_block(own, 6, 0)[0].text == "text 4"  # the first of equals
    assert best_of_block(own, 1, 3)[1] == 3


def test_estimates_are_means_over_blocks() -> None:
    """Rewards 1 3 2 0 of one prompt and 4 0 0 0 of another, scores 10 more. best_of_1: (6/4 + 4/4)/2 + 10 = 11.25; best_of_2:
    blocks 3, 2 and 4, 0: 2.25 + 10; best_of_4: (3 + 4)/2 + 10; best_of_3 reads one block, 3 and 4. Lengths are 1 to 4."""
    asked = [Prompt("a", "a", "f:1"), Prompt("b", "b", "f:2")]
    found = {"a": samples([1, 3, 2, 0]), "b": samples([4, 0, 0, 0])}
    made = {n: best_of_n.estimates(asked, found, n, seed=0) for n in (1, 2, 3, 4)}
    assert [made[n]["score"] for n in (1, 2, 3, 4)] == pytest.approx([11.25, 12.25, 13.5, 13.5])
    assert [made[n]["tokens_per_answer"] for n in (1, 2, 3, 4)] == pytest.approx([2.5, 5, 6, 10])
    assert made[2]["length"] == pytest.approx((2 + 3 + 1 + 3) / 4)  # of equal rewards the first
    assert made[4]["score_low"] <= made[4]["score"] <= made[4]["score_high"]


def test_the_bound_of_the_kl_holds_and_is_near() -> None:
    """Best-of-n of 1,000 equally likely answers, all of different worth: the i-th worst is chosen with (i/1000)^n - ((i-1)/1000)^n,
    so the KL is known exactly."""
    assert [kl_bound(n) for n in (1, 4, 16, 64)] == pytest.approx([0, 0.636294, 1.835089, 3.174508], abs=1e-6)
    steps = np.arange(1001) / 1000
    for n in (1, 4, 16, 64):
        p = np.diff(steps**n)
        p = p[p > 0]
        kl = float((p * np.log(p * 1000)).sum())
        assert kl <= kl_bound(n) + 1e-9 and kl == pytest.approx(kl_bound(n), abs=0.01)
    tied = np.array([0.5**4, 1 - 0.5**4])  # two kinds of answers: ties take from the KL
    assert float((tied * np.log(tied / 0.5)).sum()) < kl_bound(4)


def asked_of(count: int) -> list[Prompt]:
    return [Prompt(row["id"], row["prompt"], "f:1") for row in PROMPTS[:count]]


def draw(
    folder: Path, model: Any, tokenizer: Any, count: int, n: int, score: Any = vowels, **how: Any
) -> dict[str, list[Sample]]:
    folder.mkdir(exist_ok=True)
    found = sample_scored(
        *(folder, partial(decode, model), eos_ids(model, tokenizer), tokenizer),
        *(asked_of(count), score, PPO(missing_eos_score=-9.0)),
        n=n,
        how=Decoding(**how).resolved(temperature=1.0, response_length=6),
        seed=3,
        stream="test",
        batch_size=8,
        what="test",
    )
    assert found == read(folder)
    return found


def test_samples_belong_to_their_prompt_and_number(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is sampled with them, and interrupted in the middle of a line or not."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    whole = draw(tmp_path / "whole", model, tiny_tokenizer, 5, 8)
    assert list(whole) == [p.id for p in asked_of(5)] and {len(own) for own in whole.values()} == {8}
    fewer = draw(tmp_path / "fewer", model, tiny_tokenizer, 2, 3)
    assert all(whole[name][:3] == own for name, own in fewer.items())
    texts = {one.text for own in whole.values() for one in own}
    assert len(texts) > 30  # 40 samples of a random model
    for own in whole.values():
        for one in own:
            assert one.finished == (one.tokens[-1] in (EOS, STOP))
            assert one.reward == (pytest.approx(one.score) if one.finished else -9.0)
            assert one.score == pytest.approx(vowels([""], [one.text]).item(), abs=1e-6)

    monkeypatch.setattr("pipeline.training.samples.AT_ONCE", 16)  # two prompts at a time
    calls: list[int] = []

    def failing(prompts: Sequence[Any], completions: Sequence[str]) -> torch.Tensor:
        calls.append(len(prompts))
        if len(calls) == 2:
            raise Stop
        return vowels(prompts, completions)

    path = tmp_path / "cut"
    with pytest.raises(Stop):
        draw(path, model, tiny_tokenizer, 5, 8, failing)
    assert len(read(path)) == 2
    with (path / "samples.0.jsonl").open("ab") as file:
        file.write(b'{"rows": [{"prompt_id": "p2", "samp')
    assert draw(path, model, tiny_tokenizer, 5, 8, failing) == whole
    assert calls == [16, 16, 16, 8]


class Counting:
    """A score that counts what it is given, as reward models do."""

    def __init__(self) -> None:
        self.counts = Counter(texts=5)  # of what was scored before

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str]) -> torch.Tensor:
        self.counts["texts"] += len(completions)
        return vowels(prompts, completions)


class Process:
    """One of several, as far as samples are concerned."""

    def __init__(self, process_index: int, num_processes: int):
        self.process_index, self.num_processes = process_index, num_processes

    main_process_first = staticmethod(nullcontext)

    def wait_for_everyone(self) -> None:
        pass


def test_any_number_of_processes_goes_on_from_any_others(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three processes the second ends, and the third after its first two prompts of three; then one goes on, which counts all that the
    former ones scored."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    whole = draw(tmp_path / "whole", model, tiny_tokenizer, 9, 8)
    monkeypatch.setattr("pipeline.training.samples.AT_ONCE", 16)  # two prompts at a time
    path, scored = tmp_path / "shared", [Counting(), Counting(), Counting()]
    scores = [combine({"counted": one}, [1.0]) for one in scored]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.samples.PartialState", lambda: Process(1, 3))
        assert len(draw(path, model, tiny_tokenizer, 9, 8, scores[0])) == 3
        first = (path / "samples.1.jsonl").read_bytes()
        patch.setattr("pipeline.training.samples.PartialState", lambda: Process(0, 2))
        assert len(draw(path, model, tiny_tokenizer, 9, 8, scores[1])) == 6
    (path / "samples.0.jsonl").write_bytes((path / "samples.0.jsonl").read_bytes()[:-20])  # killed while it wrote
    found = draw(path, model, tiny_tokenizer, 9, 8, scores[2])
    assert (path / "samples.1.jsonl").read_bytes() == first  # nothing is sampled twice
    assert {name: [one.tokens for one in own] for name, own in found.items()} == {
        name: [one.tokens for one in own] for name, own in whole.items()
    }
    assert scored[2].counts == Counter(texts=5 + 9 * 8)


def test_samples_are_decoded_as_they_are_asked_for(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """From the likeliest token alone, all samples of a prompt are one; from two, at most two begin them."""
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    one, two = (draw(tmp_path / str(k), model, tiny_tokenizer, 3, 8, top_k=k) for k in (1, 2))
    assert all(len({tuple(sample.tokens) for sample in own}) == 1 for own in one.values())
    assert max(len({sample.tokens[0] for sample in own}) for own in two.values()) == 2
