"""How much is computed at once where the recipe leaves it open: what fits a GPU, what a CPU gets, and that it decides nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Watching, furthest, make_roles, run, settings, weights

from pipeline.artifacts.run import Run
from pipeline.plan.machines import KNOWN
from pipeline.plan.memory import chosen
from pipeline.plan.work import job
from pipeline.running import run_stage
from pipeline.settings.config import PPO, Compare, Config
from pipeline.settings.recipe import load
from pipeline.training import sizes
from pipeline.training.limits import available
from pipeline.training.preflight import phases
from pipeline.training.sizes import largest, ppo_on_gpu

ROOT = Path(__file__).resolve().parents[2]
GPUS = ("4090", "a100-80", "h200")


@pytest.mark.parametrize(
    ("most", "limit", "expected"),
    [(100, 9999, 128), (100, 127, 64), (100, 63, 32), (128, 9999, 128), (129, 9999, 256), (1, 9999, 8), (100, 1, 8)],
)
def test_the_largest_that_fits_and_is_filled(most: float, limit: int, expected: int) -> None:
    """Of 8, 16, … 1,024: 100 rows fill 128, not 256; where not even 8 fit the preflight refuses the stage."""
    assert largest(sizes.ROWS, most, lambda n: n <= limit) == expected


def test_a_gpu_gets_what_its_memory_holds() -> None:
    """Of each model on each GPU the choice fits, what is twice as much does not or is not filled; a larger GPU gets no less; what is set stays."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name in ("135M", "1.7B", "7B"):
        section = PPO(batch_size=512, total_episodes=512, response_length=512)
        config = Config(model=name, ppo=section)
        work = job(config, None, 512)
        model, beside = work.footprints("bfloat16", None), work.scored("bfloat16")
        for gpu in GPUS:
            free = KNOWN[gpu].memory_gb - 1
            one = found[name, gpu] = ppo_on_gpu(config, model, beside, 512, 1, free)

            def most(
                phase: str, sized: dict[str, int], section: PPO = section, model: Any = model, beside: float = beside
            ) -> float:
                now = Config(ppo=section.model_copy(update=sized))
                return sum(phases(now, model, beside, 512, 0.0, 1)[phase].values())

            for phase, setting, tried in (
                ("learning", sizes.MICRO, sizes.TOKENS),
                ("sampling", sizes.ROLLOUT, sizes.ROWS),
            ):
                fits = most(phase, one) <= 0.9 * free
                assert fits or one[setting] == tried[0], (name, gpu, phase)
                top = one[setting] == tried[-1] or 2 * one[setting] >= 2 * 512 * (1024 if setting == sizes.MICRO else 1)
                assert top or most(phase, one | {setting: 2 * one[setting]}) > 0.9 * free, (name, gpu, phase)
            kept = Config(ppo=section.model_copy(update={"micro_batch_tokens": 777}))
            assert ppo_on_gpu(kept, model, beside, 512, 1, free) == one | {sizes.MICRO: 777}
        for setting in (sizes.MICRO, sizes.ROLLOUT):
            each = [found[name, gpu][setting] for gpu in GPUS]
            assert each == sorted(each)
    assert found["135M", "h200"][sizes.MICRO] == 16384 and found["1.7B", "h200"][sizes.MICRO] >= 8192
    assert found["7B", "4090"][sizes.MICRO] < 8192


def test_a_plan_says_what_the_stage_takes() -> None:
    """The same counting: of a GPU with nothing on it, whose process has taken its share, the same micro-batch up to the stage's largest."""
    for name in ("1.7B",):
        config = Config(model=name, ppo=PPO(batch_size=64, total_episodes=64, response_length=256))
        work = job(config, None, 256)
        for gpu in GPUS:
            machine = KNOWN[gpu]
            planned = chosen(work, machine, 1, "none", None)
            free = machine.memory_gb - machine.resident_gb / sizes.USABLE
            mine = ppo_on_gpu(config, work.footprints("bfloat16", None), work.scored("bfloat16"), 256, 1, free)
            if planned.fits(machine):
                assert mine[sizes.MICRO] == min(planned.tokens, sizes.TOKENS[-1]), (name, gpu)


def on_gpus(monkeypatch: pytest.MonkeyPatch, free: float, count: int, processes: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free), int(free)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))


def test_each_process_has_its_own_gpu_or_its_share_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, processes, expected in ((8, 8, 80), (4, 8, 40), (1, 3, 80 / 3)):
        on_gpus(monkeypatch, 80e9, count, processes)
        assert available(processes) == (pytest.approx(expected), "on the GPU")


def test_what_is_left_open_is_counted_on_a_gpu_alone_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU nothing is counted. What the recipe says is neither counted nor told."""
    asked: list[float] = []

    def counted(free: float) -> dict[str, int]:
        asked.append(free)
        return {sizes.MICRO: 8192, sizes.ROLLOUT: 256}

    place, usual = Run("r", tmp_path), {sizes.MICRO: 384, sizes.ROLLOUT: 64}
    assert sizes._chosen("ppo", place, usual, counted) == usual and not asked
    assert capsys.readouterr().out == (
        "ppo: as measured best on a CPU: ppo.micro_batch_tokens=384 ppo.per_device_rollout_batch_size=64\n"
    )
    assert sizes._chosen("ppo", place, {}, counted) == {} and not capsys.readouterr().out
    on_gpus(monkeypatch, 126e9, 1, 1)
    assert sizes._chosen("ppo", place, {sizes.MICRO: 384}, counted) == {sizes.MICRO: 8192} and asked == [126.0]
    assert capsys.readouterr().out == "ppo: for 126 GB that are free on the GPU: ppo.micro_batch_tokens=8192\n"

    def broken(free: float) -> dict[str, int]:
        raise NotImplementedError("no meta kernel")

    assert sizes._chosen("ppo", place, usual, broken) == usual
    assert "as the model cannot be counted (NotImplementedError)" in capsys.readouterr().out
    monkeypatch.setattr(sizes, "gather_object", lambda mine: [*mine, {sizes.MICRO: 512, sizes.ROLLOUT: 999}])
    assert sizes._chosen("ppo", place, usual, counted) == {sizes.MICRO: 512, sizes.ROLLOUT: 256}  # of all the least


def test_a_run_goes_on_with_another_choice(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Two iterations with one choice and two with another are four with either, up to rounding."""

    def end(state: Path, *parts: dict[str, int]) -> dict[str, torch.Tensor]:
        for number, sized in enumerate(parts):
            roles = make_roles(tiny_folder, tiny_tokenizer)
            section = settings(total_episodes=32, micro_batch_tokens=None).model_copy(update=sized)
            stop = 2 if number < len(parts) - 1 else None

            def progress(done: int, stop: int | None = stop) -> None:
                if done == stop:
                    raise InterruptedError

            try:
                run(roles, tiny_tokenizer, section, state, progress=progress)
            except InterruptedError:
                continue
        return weights(roles)

    small, large = ({sizes.MICRO: n, sizes.ROLLOUT: m} for n, m in ((30, 2), (400, 64)))
    assert furthest(end(tmp_path / "a", small, large), end(tmp_path / "b", {})) < 1e-5
    assert Watching


def test_what_was_chosen_stands_in_the_manifest_and_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run made where there was less memory is up to date where there is more."""
    monkeypatch.chdir(tmp_path)
    steps = [f"{stage}.max_steps=1" for stage in ("sft", "reward")]
    more = [
        "reward.normalise_samples=4",
        "ppo.total_episodes=32",
        "ppo.response_length=4",
        "ppo.micro_batch_tokens=null",
    ]
    more += ["best_of_n.n=2", "best_of_n.prompts=4", f"data.source={ROOT / 'data' / 'smoke.jsonl'}"]
    config = load(ROOT / "recipes" / "smoke.yaml", [*steps, *more])
    for stage in ("data", "sft", "reward", "best_of_n"):
        run_stage(stage, config, "r")
    monkeypatch.setattr(sizes, "MICRO_BATCH_TOKENS", 100)
    run_stage("ppo", config, "r")
    made = Run("r", Path("runs"))
    manifest: Any = made.manifest("ppo")
    assert manifest.notes["chosen"] == {"micro_batch_tokens": 100, "per_device_rollout_batch_size": 64}
    best: Any = made.manifest("best_of_n")
    assert best.notes["chosen"] == {"per_device_eval_batch_size": 64}
    assert manifest.config["settings"]["ppo"]["micro_batch_tokens"] is None
    monkeypatch.setattr(sizes, "MICRO_BATCH_TOKENS", 800)
    capfd.readouterr()
    run_stage("ppo", config, "r")
    assert "up to date" in capfd.readouterr().out
    assert made.manifest("ppo") == manifest


def test_completions_that_are_asked_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 GB of weights and .1 GB a row into nine tenths of 100 GB: 512 of 5,000, and 64 of the 40 that a process has; what is set stays."""
    on_gpus(monkeypatch, 100e9, 2, 2)
    monkeypatch.setattr(
        sizes.preflight, "asking_needs", lambda *given: {"process": 5.0, "weights": 10.0, "cache": 0.1 * given[3]}
    )
    place, two = Run("r", tmp_path), Run("r", tmp_path, world_size=2)
    name = "per_device_eval_batch_size"
    assert sizes.of_asking("compare", Config(), place, [], 5000, 64) == (512, {name: 512})
    assert sizes.of_asking("best_of_n", Config(), two, [], 80, 64) == (64, {name: 64})
    config = Config(compare=Compare(per_device_eval_batch_size=7))
    assert sizes.of_asking("compare", config, place, [], 5000, 64) == (7, {})
