"""Does PPO end with the same bits when it is interrupted, and the same weights in several processes?"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import PROMPTS, Watching, furthest, make_roles, run, same, settings, vowels, weights
from torch import Tensor
from two_processes import HELD_OUT, train_tiny

from policies import trainer
from policies.roles import Roles


def fresh(folder: Path, tokenizer: Any, tuning: str = "lora", value: str = "adapter") -> Roles:
    return make_roles(folder, tokenizer, tuning, value)


class Stop(Exception):
    """An interruption."""


# --- interruption


@pytest.mark.parametrize(
    ("tuning", "value", "save_steps", "stop_after"),
    [
        ("lora", "adapter", 1, 2),
        ("lora", "adapter", 2, 3),
        ("lora", "shared", 2, 3),
        ("full", "adapter", 2, 3),
        ("full", "shared", 3, 1),
    ],
)
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    tiny_folder: Path,
    tiny_tokenizer: Any,
    tmp_path: Path,
    tuning: str,
    value: str,
    save_steps: int,
    stop_after: int,
) -> None:
    """An exception from `progress` after a step that may or may not have been saved; then fresh objects on the same folder."""
    section = settings(
        total_episodes=40, save_steps=save_steps, kl_target=0.05, kl_horizon=40, value=value, eval_steps=2, eval_prompts=3,
        lr_scheduler_type="cosine",
    )  # fmt: skip

    def once(state: Path, stop: int | None) -> tuple[Any, dict[float, Any], dict[str, Tensor], list[int]]:
        figures: dict[float, Any] = {}
        begun: list[int] = []
        while True:
            roles = fresh(tiny_folder, tiny_tokenizer, tuning, value)

            def progress(done: int, stop: int | None = stop) -> None:
                if done == stop:
                    raise Stop

            def keep(row: dict[str, float]) -> None:
                figures[row["step"]] = {k: v for k, v in row.items() if not k.startswith("time/")}

            try:
                result = trainer.train(
                    Accelerator(cpu=True), roles, tiny_tokenizer, PROMPTS, HELD_OUT, vowels, section, state=state, seed=3,
                    watch=Watching(begin=begun.append, log=keep, progress=progress),
                )  # fmt: skip
                return result, figures, weights(roles), begun
            except Stop:
                stop = None

    whole, logged, expected, _ = once(tmp_path / "whole", None)
    result, again, found, begun = once(tmp_path / "cut", stop_after)
    assert begun == [0, stop_after // save_steps * save_steps]
    assert same(found, expected)
    assert digest(found) == digest(expected)
    assert again == logged and result.evals == whole.evals
    assert {f["objective/kl_coef"] for f in logged.values()} != {section.kl_coef}


def digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(n.encode() + t.numpy().tobytes() for n, t in sorted(tensors.items()))).hexdigest()


def test_an_interrupted_save_keeps_the_older_state(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies while the state of step 2 is written, and again between the two renames that put it in place, when it is whole."""
    section = settings(total_episodes=24)
    expected = fresh(tiny_folder, tiny_tokenizer)
    run(expected, tiny_tokenizer, section, tmp_path / "whole")
    for number, place in enumerate(("write", "rename")):
        state, calls, begun = tmp_path / place, [0], list[int]()
        with monkeypatch.context() as patch:
            if place == "write":
                real = json.dump

                def dump(*args: Any, calls: list[int] = calls, real: Any = real, **kw: Any) -> None:
                    calls[0] += 1
                    if calls[0] == 2:
                        raise Stop
                    real(*args, **kw)

                patch.setattr("policies.state.json.dump", dump)
            else:
                rename = Path.rename

                def moved(self: Path, target: Any, calls: list[int] = calls, rename: Any = rename) -> Any:
                    calls[0] += self.name.endswith(".new")
                    if self.name.endswith(".new") and calls[0] == 2:
                        raise Stop
                    return rename(self, target)

                patch.setattr(Path, "rename", moved)
            with pytest.raises(Stop):
                run(fresh(tiny_folder, tiny_tokenizer), tiny_tokenizer, section, state)
        roles = fresh(tiny_folder, tiny_tokenizer)
        run(roles, tiny_tokenizer, section, state, begin=begun.append)
        assert begun == [number + 1] and same(weights(roles), weights(expected)), (number, place)


# --- several processes


def test_two_processes_equal_one(tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """torchrun with gloo, whitening, minibatches, ptx, evaluation and the adaptive KL on, also one step off; and a halt that only one process meets."""
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root.parent), str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*call, str(root / "two_processes.py"), str(tiny_folder), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "[rank" in line)[-3000:]
    result, logged, roles = train_tiny(tiny_folder, tmp_path / "alone", 1)
    told = json.loads((tmp_path / "logged.json").read_text())
    assert told["world"] == 2
    assert furthest(weights(roles), load_file(tmp_path / "weights.safetensors")) < 1e-5
    *_, ahead = train_tiny(tiny_folder, tmp_path / "alone_ahead", 1, async_steps=1)
    assert furthest(weights(ahead), load_file(tmp_path / "ahead.safetensors")) < 1e-5
    assert furthest(weights(ahead), weights(roles)) > 1e-4
    assert len(told["logged"]) == len(logged) == 3
    for two, one in zip(told["logged"], logged, strict=True):
        for key, figure in one.items():
            if not key.startswith("time/"):
                assert two[key] == pytest.approx(figure, rel=1e-3, abs=1e-4), key
    assert [e["step"] for e in told["evals"]] == [0, 2, 3]
    for two, one in zip(told["evals"], result.evals, strict=True):
        assert two == pytest.approx(one)
    halted = [(tmp_path / f"halted.{rank}").read_text() for rank in (0, 1)]
    assert halted[0] == halted[1] and "score not finite for prompt p5;" in halted[0]
