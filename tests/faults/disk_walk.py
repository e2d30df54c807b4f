"""What do the tests of full and refused disks share? Every stage made once, and what each left, to hold later attempts against."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_disk import Ended, attempt

from pipeline.artifacts.files import sha256
from pipeline.commands import Call
from pipeline.running import make

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "sft", "reward", "gold", "ppo", "dpo", "kto", "rloo", "rft", "best_of_n", "compare")
TRAINED = ("sft", "reward", "dpo", "kto", "rft")
SETTINGS = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *("data.gold_fraction=0.3", "reward.normalise_samples=8", "reward.eval_rows=8", "sft.eval_rows=8"),
    *(f"{stage}.max_steps=2" for stage in TRAINED),
    *(f"{stage}.save_steps=1" for stage in (*TRAINED, "rloo", "ppo")),
    *(f"{stage}.logging_steps=1" for stage in (*TRAINED, "rloo")),
    *(
        "kto.batch_size=8",
        "kto.per_device_train_batch_size=4",
        "rloo.batch_size=8",
        "rloo.per_device_train_batch_size=4",
    ),
    *(
        "ppo.total_episodes=16",
        "ppo.batch_size=8",
        "ppo.response_length=8",
        "ppo.eval_prompts=4",
        "ppo.num_ppo_epochs=1",
    ),
    *(
        "best_of_n.n=4",
        "best_of_n.prompts=4",
        "compare.prompts=4",
        "compare.perplexity_rows=2",
        "compare.plain_text=null",
    ),
    *("compare.models=[sft,ppo]", "rft.n=2"),
]
OF_TIME = (
    "second",
    "runtime",
    "time/",
    "step_time",
    "flos",
)


def making(stage: str, *more: str) -> Callable[[], None]:
    """What `python -m pipeline STAGE` does."""
    call = Call.of(ROOT / "recipes" / "smoke.yaml", "r", [*SETTINGS, *more], asked=stage)
    return lambda: make(stage, call)


def made(stage: str) -> dict[str, Any]:
    """What a stage left in runs/r, but for what is of its time: hashes of weights and rows, and its figures."""
    folder, found = Path("runs/r") / stage, dict[str, Any]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if not any(word in k for word in OF_TIME)} for row in rows]
        elif path.suffix in (".safetensors", ".jsonl"):
            found[name] = sha256(path)
    assert found, f"nothing in {folder}"
    return found


def whole_walk() -> dict[str, Any]:
    """Make all stages here, each in a fork: stage -> what it left."""
    for stage in STAGES:
        ended = attempt(making(stage))
        assert ended.code == 0, ended.said[-3000:]
    return {stage: made(stage) for stage in STAGES}


def with_all_before(stage: str, whole: Path) -> None:
    """Put here what the stages before `stage` left in `whole`."""
    shutil.rmtree("runs", ignore_errors=True)
    shutil.copytree(whole / ".cache", "runs/.cache")
    for one in STAGES[: STAGES.index(stage)]:
        if stage != "compare" or one in ("data", "sft", "reward", "gold", "ppo"):
            shutil.copytree(whole / "r" / one, Path("runs/r") / one)
    Path("runs/r").mkdir(exist_ok=True)


def forget(stage: str) -> None:
    """Take away what `stage` left in runs/r."""
    for name in (stage, f"{stage}.partial", ".kept"):
        shutil.rmtree(Path("runs/r") / name, ignore_errors=True)


def refused(ended: Ended, *words: str) -> None:
    """It ended with one sentence and exit code 2, and the sentence says one of `words`."""
    assert ended.code == 2, f"exit code {ended.code}: {ended.said[-700:]}"
    assert any(word in ended.error for word in words), ended.error
    assert "; " in ended.error, ended.error


def goes_on(stage: str, reference: dict[str, Any]) -> None:
    """The same command makes the stage now, as if nothing had been, and leaves nothing else."""
    ended = attempt(making(stage))
    assert ended.code == 0, ended.said[-2000:]
    found, right = made(stage), reference[stage]
    others = {
        name: (found.get(name), right.get(name))
        for name in found.keys() | right.keys()
        if found.get(name) != right.get(name)
    }
    assert not others, f"other results: {others}"
    left = [path.name for path in Path("runs/r").iterdir() if path.name.startswith(f"{stage}.")]
    assert not left, left
