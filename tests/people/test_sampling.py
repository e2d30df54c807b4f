"""Are people asked what they should be? K answers of each model by turns, training prompts alone, nothing sampled twice, files checked."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data.schema import DataError, Prompt
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.commands import Call
from pipeline.people import sampling
from pipeline.people.sampling import chosen, from_file, from_models, unsureness
from pipeline.people.store import open_store
from pipeline.rows.published import prompts
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.stages import data as stage_data
from pipeline.training.context import base_model

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs/r, whose stage data is finished."""
    folder, before = tmp_path_factory.mktemp("asked"), Path.cwd()
    os.chdir(folder)
    try:
        settings = load(RECIPE, [f"data.source={RECIPE.parents[1] / 'data' / 'smoke.jsonl'}"])
        base_model(settings)  # is made where it is missing
        stage_data.run(settings, Run("r"))
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def run(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(published)
    yield Run("r")
    shutil.rmtree("runs/r/people", ignore_errors=True)


def config(folder: Path, *more: str) -> Config:
    """Two models that answer by themselves: the base and a folder."""
    given = [f"compare.models=[base,{folder}]", "ppo.response_length=8", "compare.per_device_eval_batch_size=4"]
    return load(RECIPE, [*given, *more])


def asked(run: Run) -> list[Any]:
    return [item for item in open_store(run).items() if item.kind == "rank"]


def test_models_answer_by_turns_training_prompts_alone(run: Run, tiny_folder: Path) -> None:
    line = from_models(config(tiny_folder), run, 3, 4)
    assert (
        line.startswith("rank: 4 new items of base, ")
        and "4 training prompts (what is held out stays held out)" in line
    )
    assert line.endswith("in any order, as the run has no reward model; next: python -m pipeline web --run r")
    items = asked(run)
    known = {json.dumps(one.prompt) for one in prompts(run, "train")} - {
        json.dumps(one.prompt) for one in prompts(run, "eval")
    }
    assert len(items) == 4 and all(json.dumps(item.prompt) in known for item in items)
    for item in items:
        models = [one.model for one in item.completions]
        assert (
            models.count("base") == 2
            and models.count(str(tiny_folder)) == 1
            and len({one.text for one in item.completions}) == 3
        )
    practice = [item for item in open_store(run).items() if item.kind == "practice"]
    assert practice and all(item.body["order"] for item in practice)
    log = Path("runs/r/people/sampled.jsonl")
    assert log.stat().st_mode & 0o777 == 0o600 and len(log.read_text().splitlines()) == 12


def test_the_same_command_samples_nothing_twice(run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_models(config(tiny_folder), run, 2, 3)
    before = open_store(run).items()
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "load_causal", lambda *_: pytest.fail("a model was loaded"))
        assert from_models(config(tiny_folder), run, 2, 3).startswith("rank: 0 new items")
    assert open_store(run).items() == before
    counted: list[int] = []
    decode = sampling.decode
    monkeypatch.setattr(sampling, "decode", lambda m, p, *a, **k: counted.append(len(p)) or decode(m, p, *a, **k))
    assert from_models(config(tiny_folder), run, 2, 5).startswith("rank: 2 new items")
    assert sum(counted) == 4, "two answers to each of the two further prompts"
    assert {item.id for item in before} < {item.id for item in open_store(run).items()}


def test_what_is_interrupted_goes_on(run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "AT_ONCE", 2)
    decode, counted = sampling.decode, list[int]()

    def stopping(model: Any, rows: Any, *more: Any, **how: Any) -> Any:
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(len(rows))
        return decode(model, rows, *more, **how)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "decode", stopping)
        with pytest.raises(KeyboardInterrupt):
            from_models(config(tiny_folder), run, 2, 4)
    assert asked(run) == []
    monkeypatch.setattr(sampling, "decode", lambda m, p, *a, **k: counted.append(len(p)) or decode(m, p, *a, **k))
    from_models(config(tiny_folder), run, 2, 4)
    assert sum(counted) == 8 and len(asked(run)) == 4
    whole = asked(run)
    shutil.rmtree("runs/r/people")
    from_models(config(tiny_folder), run, 2, 4)
    assert asked(run) == whole, "as if nothing had happened"


def test_the_order_is_by_what_the_reward_model_is_unsure_of(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scorer:
        def raw(self, asked: Any, said: list[str], progress: Any) -> torch.Tensor:
            return torch.tensor([float(len(text)) for text in said])

    manifest, require = Run.manifest, Run.require
    monkeypatch.setattr(Run, "manifest", lambda self, name: object() if name == "reward" else manifest(self, name))
    monkeypatch.setattr(
        Run, "require", lambda self, name, **more: None if name == "reward" else require(self, name, **more)
    )
    monkeypatch.setattr(sampling, "load_scorer", lambda *_: Scorer())
    assert "those first of which the reward model is least sure" in from_models(config(tiny_folder), run, 2, 3)
    for item in asked(run):
        lengths = [float(len(one.text)) for one in item.completions]
        assert item.body["unsure"] == pytest.approx(unsureness(lengths))


def test_a_reward_model_that_cannot_be_asked_stops_nothing(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Run.manifest
    monkeypatch.setattr(Run, "manifest", lambda self, name: object() if name == "reward" else manifest(self, name))
    monkeypatch.setattr(Run, "require", lambda self, name, **more: _fail(name))
    Path("answers.jsonl").write_text('{"prompt": "p", "completions": ["a", "b"]}\n')
    assert "in any order, as the reward model cannot be asked (damaged)" in from_file(
        config(tiny_folder), run, "answers.jsonl"
    )
    assert "unsure" not in asked(run)[0].body


def _fail(name: str) -> None:
    raise ArtifactError("damaged")


def test_unsureness_by_hand() -> None:
    assert unsureness([1.0, 1.0]) == 1.0 and unsureness([0.0, 1000.0]) == 0.0
    assert unsureness([0.0, 1.0986122886681098]) == pytest.approx(0.8112781), "3 to 1: the entropy of a quarter"
    assert unsureness([0.0, 0.0, 1000.0]) == pytest.approx(1 / 3), "one pair of three"


def test_a_smaller_count_is_part_of_a_larger_one() -> None:
    known = [Prompt(f"p{n}", f"text {n}", "s") for n in range(50)]
    assert chosen(known, 5, 0) == chosen(known[::-1], 20, 0)[:5] != chosen(known, 5, 1)
    assert len(chosen(known, 99, 0)) == 50


def test_blank_answers_and_those_that_say_the_same_are_no_cards() -> None:
    known = [Prompt(f"p{n}", f"text {n}", "s") for n in range(4)]
    said = [
        [("a", "x"), (" a", "y"), ("b", "y")],
        [("a", "x"), (" ", "y"), ("a", "y")],
        [("", "x")] * 3,
        [("a", "x"), ("b", "y"), ("c", "x")],
    ]
    items, told = sampling._items(known, said, 3)  # type: ignore[arg-type]
    assert [[(one.text, one.model) for one in item.completions] for item in items] == [
        [("a", "x"), ("b", "y")],
        said[3],
    ]
    assert told == [
        "rank: 1 prompt has fewer than 3 answers, as answers were blank or the same",
        "rank: 2 prompts have no two answers to order, as answers were blank or the same",
    ]


def test_answers_may_come_from_a_file(run: Run, tiny_folder: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    rows = [
        {"id": "x", "prompt": turns, "completions": [{"text": "a", "model": "gpt"}, "b"]},
        {"prompt": "p", "completions": ["c", "d", "e"]},
    ]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert from_file(config(tiny_folder), run, "answers.jsonl").startswith("rank: 2 new items of answers.jsonl; 2 in ")
    first, second = asked(run)
    assert first.prompt == turns and [(one.text, one.model) for one in first.completions] == [("a", "gpt"), ("b", None)]
    assert second.body == {"source": "answers.jsonl:2"}
    assert from_file(config(tiny_folder), run, "answers.jsonl").startswith("rank: 0 new items")


def test_a_file_s_mistakes_are_told_together(run: Run, tiny_folder: Path) -> None:
    rows: list[Any] = [
        {"prompt": "p", "completions": ["a"]},
        {"prompt": "p", "completions": ["a", "a "]},
        {"prompt": "", "completions": ["a", "b"]},
        {"prompt": "p", "completions": [str(n) for n in range(10)]},
        {"prompt": "p", "completions": ["a", "b"], "ranking": [[0], [1]]},
    ]
    Path("bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as told:
        from_file(config(tiny_folder), run, "bad.jsonl")
    text = str(told.value)
    for said in (
        "bad.jsonl:1: completions: there are fewer",
        "bad.jsonl:2: completions: two of them are the same",
        "bad.jsonl:3: prompt: it is blank",
    ):
        assert said in text
    assert (
        "bad.jsonl:4: completions: there are more than 9" in text
        and "bad.jsonl:5: ranking: a queue has no such column" in text
    )
    assert not Path("runs/r/people").exists() or asked(run) == []


@pytest.mark.parametrize(
    ("k", "count", "more", "why"),
    [
        (1, 5, (), "K=1: an item has 2 to 9 answers"),
        (10, 5, (), "K=10: an item has 2 to 9 answers"),
        (4, 0, (), "PROMPTS=0: ask one prompt or more"),
        (2, 5, ("compare.models=[base,sft,ppo]",), "K=2: 3 models are named"),
        (2, 5, ("compare.models=[few_shot]",), "MODEL: few_shot and best_of_… are not asked here"),
    ],
)
def test_a_wrong_number_is_told(
    run: Run, tiny_folder: Path, k: int, count: int, more: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ConfigError, match=why.replace("(", r"\(")):
        from_models(config(tiny_folder, *more), run, k, count)


def test_a_stage_that_is_not_there_is_told(run: Run, tiny_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished sft in runs/r"):
        from_models(config(tiny_folder, "compare.models=[sft]"), run, 2, 2)


@pytest.mark.parametrize("caller", ["", "make"])
def test_the_command_is_given_again_as_it_was(caller: str) -> None:
    """The fixture of conftest.py parses it as if it were pasted."""
    words = (("MODEL", "sft ppo"), ("K", "4"), ("PROMPTS", "5"))
    line = Call("recipes/smoke.yaml", "r", asked="rank", options=words, caller=caller).again()
    assert ("MODEL='sft ppo' K=4 PROMPTS=5" if caller else "--model 'sft ppo' --k 4 --prompts 5") in line
    Call("recipes/smoke.yaml", "r", asked="rank", options=(("FROM", "a.jsonl"),), caller=caller).again()
