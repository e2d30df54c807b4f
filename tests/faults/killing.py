"""How is a stage killed at a named point? It runs in a fork of this process, whose file calls are counted; at one of them SIGKILL ends it.

The fork has all libraries imported and a run with the parents of the stage, hard links to those that were made once. What counts are
calls below the case's folder: opening for writing, writing (half of it is on the disk then), rename, unlink, mkdir, fsync and the like.
"""

import builtins
import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from as_a_program import ended_by

from pipeline.settings.config import Config
from pipeline.settings.recipe import load

ROOT = Path(__file__).resolve().parents[2]
RUN, LIMIT = "demo", 120.0  # seconds that a tiny stage never takes
TRAINED = ("sft", "reward", "dpo", "kto", "rft", "rloo")
SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    "data.eval_fraction=0.3333",
    "data.gold_fraction=0.5",
    # a log line is of steps on both sides of a checkpoint
    *(f"{stage}.{what}" for stage in TRAINED for what in ("save_steps=2", "logging_steps=3")),
    *(f"{stage}.max_steps=6" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    "sft.tuning=lora",
    "rft.tuning=lora",
    *(f"{stage}.batch_size=4" for stage in TRAINED),
    *(f"{stage}.per_device_train_batch_size=2" for stage in TRAINED if stage != "rloo"),
    "rloo.per_device_train_batch_size=4",
    "sft.eval_rows=4",
    "reward.eval_rows=4",
    "reward.normalise_samples=4",
    "ppo.total_episodes=24",
    "ppo.batch_size=8",
    "ppo.save_steps=1",
    "ppo.eval_steps=2",
    "ppo.response_length=6",
    "ppo.eval_prompts=3",
    "best_of_n.n=8",
    "best_of_n.prompts=6",
    "compare.prompts=4",
    "compare.perplexity_rows=2",
    "compare.models=[sft, ppo]",
]
PARENTS = {
    "data": (),
    "sft": ("data",),
    **dict.fromkeys(("reward", "gold", "dpo", "kto"), ("data", "sft")),
    **dict.fromkeys(("ppo", "rloo", "rft", "best_of_n"), ("data", "sft", "reward")),
    "compare": ("data", "sft", "reward", "ppo"),
}
TIME = re.compile(r"(^|/)time/|seconds|per_second|step_time|^made$")


def settings(*more: str) -> Config:
    return load(ROOT / "recipes" / "smoke.yaml", [*SHRUNK, *more])


@dataclass(frozen=True)
class Ended:
    """How a fork ended: its exit code, or minus the signal; and what it said."""

    code: int
    told: str


def forked(folder: Path, work: Callable[[], Any]) -> Ended:
    """`work` in a fork of this process, in `folder`; ended by SIGKILL where it takes too long."""
    log = folder / "told.txt"
    child = os.fork()
    if child == 0:
        ended_by(lambda: _in(folder, log, work))
    until, status = time.monotonic() + LIMIT, (0, 0)
    while status[0] == 0:
        status = os.waitpid(child, os.WNOHANG)
        if status[0] == 0 and time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(-99, f"still at work after {LIMIT} seconds")
        time.sleep(0.002)
    return Ended(os.waitstatus_to_exitcode(status[1]), log.read_text(errors="replace"))


def _in(folder: Path, log: Path, work: Callable[[], Any]) -> None:
    """Do `work` in `folder`; what it says goes to `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.fsync = lambda file: None  # no power fails here, and it takes most of the time
    work()


def made(stage: str, *more: str) -> None:
    """Make a stage as its command does."""
    from pipeline.running import guarded, run_stage

    importlib.import_module("pipeline.training.samples").AT_ONCE = 16  # several lines in a log of samples
    guarded(lambda: run_stage(stage, settings(*more), RUN))


class Counting:
    """Counts the file calls below a folder, and ends this process at the one numbered `at`, where it is a write with half of it done."""

    def __init__(self, folder: Path, at: int, out: Path | None = None):
        self.folder, self.at, self.seen, self.out = str(folder), at, 0, out
        self.open = builtins.open

    def here(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        whole = os.path.abspath(os.fsdecode(path))
        return whole.startswith(self.folder + os.sep) and not whole.endswith("told.txt")

    def reached(self, what: str) -> bool:
        """Whether this call is the one; all are written down where that is asked for."""
        number, self.seen = self.seen, self.seen + 1
        if self.out is not None:
            with self.open(self.out, "a") as file:
                file.write(f"{what}\n")
        return number == self.at

    def call(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            if (more.get("dir_fd") is not None or self.here(args[0])) and self.reached(f"{name} {args[0]}"):
                end()
            return inner(*args, **more)

        return counted

    def whole_file(self, name: str, inner: Callable[..., Any], place: int) -> Callable[..., Any]:
        """A library that writes a file by itself: it is there by half."""

        def counted(*args: Any, **more: Any) -> Any:
            path = args[place] if len(args) > place else more.get("filename")
            ours = isinstance(path, str | os.PathLike) and self.here(path)
            stop = ours and self.reached(f"{name} {path}")
            found = inner(*args, **more)
            if stop:
                with self.open(path, "r+b") as file:
                    file.truncate(os.path.getsize(path) // 2)
                end()
            return found

        return counted

    def opened(self, path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if isinstance(path, int) or not set(mode) & set("wax+") or not self.here(path):
            return self.open(path, mode, *args, **more)
        if self.reached(f"open {path}"):
            end()
        return Writing(self, self.open(path, mode, *args, **more), str(path))

    def install(self) -> None:
        import safetensors.torch
        import torch

        for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "fsync", "link", "truncate", "utime"):
            setattr(os, name, self.call(name, getattr(os, name)))
        kept = importlib.import_module("pipeline.artifacts.kept")
        kept.exchange = self.call("exchange", kept.exchange)  # type: ignore[attr-defined]
        safetensors.torch.serialize_file = self.whole_file("save_file", safetensors.torch.serialize_file, 1)  # type: ignore[attr-defined]
        torch.save = self.whole_file("torch.save", torch.save, 1)
        builtins.open = io.open = self.opened  # type: ignore[assignment]


class Writing:
    """A file that is written to, whose writes are counted."""

    def __init__(self, count: Counting, file: Any, path: str):
        self.count, self.file, self.path = count, file, path

    def write(self, data: Any) -> Any:
        if self.count.reached(f"write {self.path}"):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            end()
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Writing":
        self.file.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self.file.__exit__(*args)

    def __iter__(self) -> Any:
        return iter(self.file)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Path, at: int, work: Callable[[], Any], out: Path | None = None) -> Ended:
    """`work` in a fork that ends at the file call numbered `at`, or goes to its end where it makes fewer; its calls go to `out`."""

    def counted() -> None:
        Counting(folder, at, out).install()
        work()

    return forked(folder, counted)


def case(folder: Path, whole: Path, stages: Sequence[str]) -> Path:
    """A folder with a run that has the finished `stages` of the run in `whole`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (".cache", *(f"{RUN}/{stage}" for stage in stages)) if stages else ():
        shutil.copytree(whole / "runs" / path, folder / "runs" / path, copy_function=os.link)
    return folder


def outcome(folder: Path, stage: str) -> dict[str, str]:
    """What a stage published, file by file as hashes without times and places; and all that lies beside it in the run."""
    run = folder / "runs" / RUN
    found = {}
    for path in sorted(path for path in (run / stage).rglob("*") if path.is_file()):
        raw = path.read_bytes().replace(str(folder).encode(), b"")
        if path.suffix in (".json", ".jsonl") and path.name not in ("tokenizer.json",):
            rows = [json.loads(raw)] if path.suffix == ".json" else [json.loads(line) for line in raw.splitlines()]
            raw = json.dumps([_timeless(row, path.name) for row in rows]).encode()
        elif path.name == "README.md" or path.name.startswith("report."):
            continue  # figures of time, and when it was made; all the figures in them are in the manifest
        found[str(path.relative_to(run / stage))] = hashlib.sha256(raw).hexdigest()
    beside = sorted(str(p.relative_to(folder)) for p in run.rglob("*") if not p.is_relative_to(run / stage))
    # a former result goes by the hash of its manifest, which has times
    kept = [re.sub(r"(/\.kept/.*)-[0-9a-f]{12}$", r"\1", name) for name in beside]
    return found | {name: "there" for name in kept if "/.kept/" not in name or name.count("/") == 3}


SAID = (
    "stage",
    "metrics",
    "gate",
    "config",
    "model",
    "data",
    "seed",
    "dtype",
    "tokenizer",
    "world_size",
)  # of a manifest


def _timeless(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        if name == "manifest.json":
            value = {key: value[key] for key in SAID}
        return {k: _timeless(v, "") for k, v in value.items() if not TIME.search(k)}
    return [_timeless(one, "") for one in value] if isinstance(value, list) else value


def warmed(folder: Path, work: Callable[[], Any]) -> Ended:
    """`work` in a fork; what it imports is then imported here too, so that no later fork spends time on it."""
    names = folder / "modules.txt"

    def telling() -> None:
        work()
        names.write_text("\n".join(sys.modules))

    ended = forked(folder, telling)
    for name in names.read_text().split("\n") if names.exists() else ():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    names.unlink(missing_ok=True)
    return ended


def sound(ended: Ended) -> None:
    """It went to its end, and nothing in what it said is a traceback."""
    assert ended.code == 0 and "Traceback" not in ended.told, f"exit code {ended.code}: {ended.told[-1500:]}"


class Uninterrupted:
    """What nothing interrupts: the parents of each stage, made when one is first asked for, and what a stage publishes with its calls."""

    def __init__(self, place: Callable[[str], Path]):
        self.place, self.whole = place, place("whole")
        self.known: dict[tuple[str, ...], tuple[dict[str, str], list[str]]] = {}
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def case(self, folder: Path, stage: str) -> Path:
        """A folder with a run that has the parents of `stage`."""
        for parent in PARENTS[stage]:
            if not (self.whole / "runs" / RUN / parent).exists():
                importlib.import_module("pipeline.training.context").quiet()
                importlib.import_module(f"pipeline.stages.{parent}")
                sound(warmed(self.whole, lambda parent=parent: made(parent)))  # type: ignore[misc]
        return case(folder, self.whole, PARENTS[stage])

    def of(self, stage: str, *more: str, before: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
        """What a stage publishes with settings `more`, where it was made with those of `before` first, and its file calls."""
        key = (stage, *more, "|", *before)
        if key not in self.known:
            folder = self.place(stage)
            if not any(known[0] == stage for known in self.known):
                importlib.import_module(f"pipeline.stages.{stage}")
                sound(warmed(self.case(folder, stage), lambda: made(stage, *more)))
            self.case(folder, stage)
            if before:
                sound(killed(folder, -1, lambda: made(stage, *before)))
            calls = folder / "calls.txt"
            sound(killed(folder, -1, lambda: made(stage, *more), calls))
            self.known[key] = outcome(folder, stage), calls.read_text().splitlines()
        return self.known[key]
