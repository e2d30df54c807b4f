"""Do trackers get what metrics.jsonl gets, by the run's and the stage's names, and are halts told? Stand-ins have the packages' own calls."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.artifacts.files import read_rows
from pipeline.running import run_stage
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *(f"{stage}.max_steps=2" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    *(f"{stage}.logging_steps=1" for stage in ("sft", "reward", "dpo", "kto", "rft", "rloo")),
    *("reward.normalise_samples=8", "reward.eval_rows=4", "ppo.total_episodes=16", "ppo.batch_size=8"),
    *("ppo.response_length=8", "ppo.eval_prompts=4", "rloo.batch_size=8", "rloo.per_device_train_batch_size=4"),
    *("dpo.eval_rows=4", "kto.eval_rows=4", "rft.prompts=8", "rft.n=2", "force=true"),
]
TRAINED = ("sft", "reward", "ppo", "dpo", "kto", "rloo", "rft")
STAND_IN = """
import json, os
def note(*call):
    with open(os.environ["TRACKED"], "a") as file:
        file.write(json.dumps([__name__, *call]) + "\\n")
class AlertLevel:
    ERROR = "error"
class Run:
    def log(self, figures, step=None): note("log", figures, step)
    def alert(self, title, text, level=None): note("alert", title, text)
    def finish(self): note("finish")
def init(project=None, name=None, config=None, **more):
    if os.environ.get("REFUSED"): raise RuntimeError("no API key\\nconfigured")
    note("init", project, name, config, more)
    return Run()
def alert(title, text=None, level=None): note("alert", title, text)
"""


def config(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SMALL, *more])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both packages that are not installed here, and the file where they write what they are told."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("wandb", "trackio"):
        (folder / f"{name}.py").write_text(STAND_IN)
    with pytest.MonkeyPatch.context() as patch:
        # trl, which was imported without them, asks whether they are installed whenever it saves
        patch.setattr("trl.trainer.base_trainer.is_wandb_available", lambda: False)
        patch.setattr("trl.trainer.base_trainer.get_trackio_space_url", lambda: None)
        patch.syspath_prepend(str(folder))
        patch.setenv("TRACKED", str(folder / "told.jsonl"))
        yield folder / "told.jsonl"
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Path]:
    """A run whose every training stage reports to all three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tracked"))
        for stage in ("data", *TRAINED):
            run_stage(stage, config("report_to=[tensorboard,wandb,trackio]"), "t")
        yield Path("runs/t")


def told(packages: Path) -> list[Any]:
    return [json.loads(line) for line in packages.read_text().splitlines()]


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.mark.parametrize("stage", TRAINED)
def test_every_stage_tells_each_tracker_what_metrics_jsonl_says(stage: str, made: Path, packages: Path) -> None:
    rows = read_rows(made / stage / "metrics.jsonl")
    assert rows
    for package in ("wandb", "trackio"):
        calls = [call[1:] for call in told(packages) if call[0] == package]
        start = next(n for n, call in enumerate(calls) if call[0] == "init" and call[2] == f"{stage} seed 0")
        assert calls[start][1] == "t" and calls[start][3][f"{stage}.learning_rate"] > 0
        own = calls[start + 1 : start + 2 + len(rows)]
        assert [(call[1], call[2]) for call in own[:-1]] == [
            ({k: v for k, v in row.items() if k != "step"}, row["step"]) for row in rows
        ]
        assert own[-1] == ["finish"]
    (attempt,) = (made / "logs" / stage).iterdir()
    figure = "objective/scores" if stage == "ppo" else "loss"
    logged = [(event.step, event.value) for event in events(attempt).Scalars(figure)]
    assert logged == [(row["step"], pytest.approx(row[figure], rel=1e-6)) for row in rows]


def test_hyperparameters_are_flat_and_beside_the_figures(made: Path) -> None:
    (attempt,) = (made / "logs" / "ppo").iterdir()
    assert [path.is_file() for path in attempt.iterdir()] == [True]
    (plugin,) = {name for name in events(attempt).summary_metadata if name.endswith("session_start_info")}
    content = events(attempt).summary_metadata[plugin].plugin_data.content
    assert b"ppo.lora.r" in content and b"ppo.reward_funcs" in content and b"data.max_length" in content


def test_published_folders_hold_no_event_files_and_the_files_survive_another_attempt(made: Path) -> None:
    (first,) = (made / "logs" / "sft").glob("*/events*")
    assert not [path for stage in TRAINED for path in (made / stage).rglob("*tfevents*")]
    run_stage("sft", config("report_to=[tensorboard]", "sft.learning_rate=0.003"), "t")
    assert first.is_file() and len(list((made / "logs" / "sft").glob("*/events*"))) == 2


def test_what_only_observes_is_no_part_of_what_is_made(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage("data", config(), "t")
    run_stage("sft", config("sft.learning_rate=0.003", "sft.report_to=[trackio]"), "t")
    assert capsys.readouterr().out.count("is up to date") == 2


def test_a_stage_of_its_own_choice(made: Path) -> None:
    chosen = config("report_to=[wandb]", "ppo.report_to=[]", "reward.report_to=[tensorboard]")
    assert chosen.report_to_of("ppo") == [] and chosen.report_to_of("sft") == ["wandb"]
    assert chosen.report_to_of("gold") == ["tensorboard"]


def test_a_halt_is_an_alert_of_every_tracker(made: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPO's guard, and a loss that is not finite."""
    before = len(told(packages))
    run_stage("reward", config("sft.learning_rate=0.003", "report_to=[]"), "t")
    halting = ("sft.learning_rate=0.003", "report_to=[tensorboard,wandb,trackio]", "ppo.min_length=1000")
    run_stage("ppo", config(*halting), "t")
    alerts = [call for call in told(packages)[before:] if call[1] == "alert"]
    assert [(call[0], call[2]) for call in alerts] == [("wandb", "ppo seed 0 halted"), ("trackio", "ppo seed 0 halted")]
    assert all("below min_length" in call[3] for call in alerts)
    attempt = max((made / "logs" / "ppo").iterdir())
    assert any("alert" in tag for tag in events(attempt).Tags()["tensors"])
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *args, **kwargs: _nan(args[0]))
    monkeypatch.setattr(
        "trl.SFTTrainer.compute_loss", lambda self, model, inputs, **_: _nan(model(inputs["input_ids"]).logits)
    )
    with pytest.raises(FloatingPointError, match="not finite"):
        run_stage("sft", config("report_to=[wandb]", "sft.learning_rate=0.004"), "t")
    assert told(packages)[-2][:3] == ["wandb", "alert", "sft seed 0 halted"] and told(packages)[-1] == [
        "wandb",
        "finish",
    ]


def _nan(logits: torch.Tensor) -> torch.Tensor:
    return logits.sum() * float("nan")


def test_a_tracker_that_is_not_installed_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.settings.sections.find_spec", lambda name: None)
    for setting in ("report_to", "sft.report_to", "reward.report_to", "ppo.report_to", "rloo.report_to"):
        with pytest.raises(
            ConfigError,
            match=rf"{setting}.*trackio: not installed; leave it out, or run: python -m pip install trackio$",
        ):
            config(f"{setting}=[trackio]")


def test_a_tracker_that_does_not_start_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSED", "1")
    with pytest.raises(ConfigError, match="wandb did not start: no API key configured; run wandb login, or set"):
        run_stage("sft", config("report_to=[wandb]", "sft.learning_rate=0.0061"), "t")
