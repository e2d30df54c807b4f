"""Are a log's rows told once and whole, as it grows, is renamed, and is begun again? What do figures, limits and samples say?"""

import os
from pathlib import Path

import pytest
from watched import row, sample, stage, text

from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.settings.config import PPO, Config
from pipeline.web.curves import FIGURES, SPEED, Log, limits, place, samples, told, values_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "sft", "reward"):
        stage(Run("demo"), name)
    return Run("demo")


@pytest.fixture
def partial(run: Run) -> Path:
    return working_folder(run, "ppo", Config())


def add(path: Path, content: str, when: float | None = None) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(content)
    if when is not None:
        os.utime(path, (when, when))


def steps(log: Log) -> tuple[bool, list[int]]:
    anew, points = log.more()
    return anew, [point.step for point in points]


def test_rows_are_told_once_and_only_whole(partial: Path) -> None:
    log = Log(Path("runs/demo"), "ppo")
    assert steps(log) == (False, [])
    add(partial / "metrics.jsonl", text([row(1), row(2)]) + text([row(3)])[:20])
    assert steps(log) == (False, [1, 2]) and steps(log) == (False, [])
    add(partial / "metrics.jsonl", text([row(3)])[20:] + "no JSON\n[1]\n" + '{"step": NaN}\n' + text([row(4)]))
    assert steps(log) == (False, [3, 4]), "what is no row is passed over"
    assert log.step() == 4


def test_what_was_told_stays_when_the_stage_is_published(run: Run, partial: Path) -> None:
    log, rows = Log(Path("runs/demo"), "ppo"), [row(1), row(2), row(3)]
    add(partial / "metrics.jsonl", text(rows[:2]))
    assert steps(log) == (False, [1, 2])
    add(partial / "metrics.jsonl", text(rows[2:]))
    stage(run, "ppo", {"metrics.jsonl": text(rows)})
    assert not partial.exists() and steps(log) == (False, [3]), "the rest, from where it is published"
    assert steps(log) == (False, [])


def test_a_log_that_is_begun_again_is_told_anew(partial: Path) -> None:
    log, file = Log(Path("runs/demo"), "ppo"), partial / "metrics.jsonl"
    add(file, text([row(1), row(2), row(3)]))
    assert steps(log) == (False, [1, 2, 3])
    file.unlink()  # a run that goes on repeats what came after its last state
    add(file, text([row(1), row(2)]))
    assert steps(log) == (True, [1, 2])
    add(file, text([row(3, **{"time/update": 2.0})]))
    assert steps(log) == (False, [3])
    file.write_text(text([row(1), row(2, **{"time/update": 7.0}), row(3), row(4)]))  # longer, and other rows
    assert steps(log) == (True, [1, 2, 3, 4])
    file.write_text("")
    assert steps(log) == (True, []) and steps(log) == (False, [])


def test_an_attempt_hides_what_it_will_replace(run: Run) -> None:
    stage(run, "ppo", {"metrics.jsonl": text([row(1)])})
    log = Log(Path("runs/demo"), "ppo")
    assert steps(log) == (False, [1])
    other = working_folder(run, "ppo", Config(seed=7))
    assert place(Path("runs/demo"), "ppo") == Path("runs/demo/ppo.partial") and steps(log) == (True, [])
    add(other / "metrics.jsonl", text([row(1, **{"time/update": 2.0})]))
    assert steps(log) == (False, [1])


def test_what_was_just_published_is_read_where_it_lies(run: Run, partial: Path) -> None:
    """Between the renaming and the end of the clearing both folders are there, and the log is in the published one alone."""
    mark = (partial / "inputs.json").read_bytes()
    stage(run, "ppo", {"metrics.jsonl": text([row(1)])})
    partial.mkdir()
    (partial / "inputs.json").write_bytes(mark)
    assert place(Path("runs/demo"), "ppo") == Path("runs/demo/ppo")


def test_figures_of_every_stage_have_one_name(partial: Path) -> None:
    ppo = values_of(row(3, **{"completions/eos_rate": 0.5, "policy/clipfrac_avg": 0.1, "loss/value_avg": float("nan")}))
    assert ppo == {
        "reward": 0.3, "KL to sft": 3.0, "entropy": 2.0, "length": 10.0, "ratio": 1.0, "EOS": 0.5, "clip fraction": 0.1
    }  # fmt: skip
    assert values_of({"loss": 2, "mean_token_accuracy": 0.5, "grad_norm": True}) == {"loss": 2.0, "token accuracy": 0.5}
    assert values_of({"loss": 0.6, "rewards/accuracies": 0.75, "rewards/margins": 0.2})["accuracy"] == 0.75
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_tokens_a_second_by_ppos_own_seconds(partial: Path) -> None:
    add(partial / "metrics.jsonl", text([row(1), row(2, **{"time/rollout": 7.0})]))
    log = Log(Path("runs/demo"), "ppo")
    _, points = log.more()
    assert [point.values[SPEED] for point in points] == [10 * 8 / 4, 10 * 8 / 8]
    assert log.pace() == 8.0 and told(points)[0]["step"] == 1


def test_tokens_a_second_of_a_trainer_by_the_times_of_its_rows(run: Run) -> None:
    file = working_folder(run, "sft", Config(seed=9)) / "metrics.jsonl"
    log = Log(Path("runs/demo"), "sft")
    add(file, text([{"step": 5, "loss": 1.0, "num_tokens": 1000, "epoch": 0.25}]), 5000.0)
    assert SPEED not in log.more()[1][0].values, "nobody knows when its tokens began"
    assert log.steps() == 20 and log.pace() is None and log.pace(4900.0) == 20.0
    add(file, text([{"step": 10, "loss": 1.0, "num_tokens": 3000, "epoch": 0.5}]), 5010.0)
    assert log.more()[1][0].values[SPEED] == 200.0
    assert log.pace() == 2.0, "by the rows that came while somebody looked"


def test_the_limits_that_halt_are_those_of_the_loop() -> None:
    found = limits(PPO(max_kl=9.0, min_entropy=0.5).model_dump(mode="json"))
    assert found["KL to sft"] == {"value": 9.0, "side": "above", "setting": "ppo.max_kl"}
    assert found["entropy"] == {"value": 0.5, "side": "below", "setting": "ppo.min_entropy"}
    assert {one["setting"] for one in found.values()} == {
        "ppo.max_kl", "ppo.min_entropy", "ppo.min_length", "ppo.max_ratio", "ppo.max_sampler_kl"
    }  # fmt: skip


def test_samples_stand_beside_those_of_step_0(partial: Path) -> None:
    assert samples(Path("runs/demo"), "ppo") is None
    file = partial / "samples.jsonl"
    add(file, text([sample(0, "a", " first", 1.0), sample(0, "b", " one", 3.0)]))
    begun = samples(Path("runs/demo"), "ppo")
    assert begun is not None and begun["first"] == begun["last"] == 0 and begun["scores"] == [[0, 2.0]]
    add(file, text([sample(5, "a", " mid"), sample(10, "a", " last", 5.0)]) + text([sample(10, "b", "x")])[:30])
    found = samples(Path("runs/demo"), "ppo")
    assert found is not None and (found["first"], found["last"]) == (0, 10)
    assert found["scores"] == [[0, 2.0], [5, 0.0], [10, 5.0]]
    first, second = found["rows"]
    assert (first["before"]["text"], first["after"]["text"], first["after"]["score"]) == (" first", " last", 5.0)
    assert first["prompt"] == "Prompt a" and second["after"] is None, "the row that is being written is not there yet"
