"""What do the tests of this room share? A run called demo, made of messages with the tiny model, in a folder of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.running import run_stage
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("data.source=chats.jsonl", "data.eval_fraction=0.3333", "sft.tuning=lora", "sft.learning_rate=1e-2"),
    *("sft.max_steps=3", "reward.max_steps=3", "reward.normalise_samples=8", "reward.eval_rows=4"),
    *(
        "ppo.total_episodes=16",
        "ppo.batch_size=8",
        "ppo.response_length=8",
        "ppo.eval_prompts=4",
        "ppo.learning_rate=1e-2",
    ),
    *("compare.models=[sft,ppo]", "compare.prompts=4", "compare.perplexity_rows=2", "force=true"),
]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which runs/demo lies, with data, sft, reward, ppo and compare."""
    folder = tmp_path_factory.mktemp("sharing")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with Path("chats.jsonl").open("w", encoding="utf-8") as file:
            for line in (ROOT / "data" / "smoke.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                row["prompt"] = [{"role": "user", "content": row["prompt"]}]
                file.write(json.dumps(row) + "\n")
        for stage in ("data", "sft", "reward", "ppo", "compare"):
            run_stage(stage, load(ROOT / "recipes" / "smoke.yaml", SMALL), "demo")
    return folder


@pytest.fixture
def there(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, as the current folder."""
    monkeypatch.chdir(demo)
    yield demo
