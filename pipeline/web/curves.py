"""What do a stage's curves show, and how do they go on while it works? Its metrics.jsonl, read line by line as it grows.

Nothing is written for this. While a stage works its log lies in STAGE.partial, afterwards in STAGE; a stage that goes on after an
interruption begins it again from its last state. All three are noticed here, and whoever watches is told to begin anew only where rows
that were told are no longer true.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.ownership import MANIFEST, begun_from
from pipeline.language import fixed

LOG, SAMPLES = "metrics.jsonl", "samples.jsonl"
BEFORE = 200  # bytes before the place in a log that are held against what was read, so that a log that was begun anew is noticed
SHOWN = 64  # prompts whose samples are shown
PACE = 8  # of the last rows, from which the time left is taken


@dataclass(frozen=True)
class Figure:
    """One curve: its name, in which fields of a log it may stand, and what it is in words. `limit` is the setting of stage ppo that
    halts it when the figure goes beyond it, on the `side` above or below."""

    name: str
    keys: tuple[str, ...]
    words: str
    share: bool = False  # between 0 and 1, shown in percent
    limit: str = ""
    side: str = ""


FIGURES = (
    Figure(fixed("reward"), ("objective/scores", "reward"), fixed("mean score of a completion")),
    Figure(fixed("held-out reward"), ("eval/scores",), fixed("mean score on held-out prompts")),
    Figure(
        fixed("KL to sft"),
        ("objective/kl", "kl"),
        fixed("nats a completion, how far from sft"),
        limit="max_kl",
        side="above",
    ),
    Figure(fixed("accuracy"), ("accuracy", "rewards/accuracies"), fixed("pairs ordered as people did"), share=True),
    Figure(
        fixed("token accuracy"), ("mean_token_accuracy",), fixed("tokens that were the most likely one"), share=True
    ),
    Figure(
        fixed("masked words"),
        ("eval/masked_accuracy", "masked_accuracy"),
        fixed("tokens found that were hidden"),
        share=True,
    ),
    Figure(
        fixed("next sentence"),
        ("eval/next_sentence_accuracy", "next_sentence_accuracy"),
        fixed("pairs judged right"),
        share=True,
    ),
    Figure(
        fixed("bits per byte"),
        ("eval/bits_per_byte", "eval/hidden_bits_per_byte"),
        fixed("held-out documents, or what is hidden of them"),
    ),
    Figure(fixed("loss"), ("loss", "loss/policy_avg"), fixed("what training lowers")),
    Figure(
        fixed("entropy"),
        ("policy/entropy_avg", "entropy"),
        fixed("nats a token, how undecided"),
        limit="min_entropy",
        side="below",
    ),
    Figure(
        fixed("length"), ("completions/mean_length",), fixed("tokens a completion"), limit="min_length", side="below"
    ),
    Figure(fixed("EOS"), ("completions/eos_rate",), fixed("completions that end by themselves"), share=True),
    Figure(fixed("clip fraction"), ("policy/clipfrac_avg",), fixed("tokens whose change was held back"), share=True),
    Figure(fixed("ratio"), ("val/ratio",), fixed("π / π_old, mean"), limit="max_ratio", side="above"),
    Figure(fixed("margin"), ("rewards/margins",), fixed("chosen less rejected, implicit reward")),
    Figure(fixed("critic's loss"), ("loss/value_avg",), fixed("squared error of the values")),
    Figure(
        fixed("sampler's KL"),
        ("sampler/kl",),
        fixed("nats a token to the policy"),
        limit="max_sampler_kl",
        side="above",
    ),
    Figure(fixed("gradient norm"), ("grad_norm",), fixed("before it is cut")),
    Figure(fixed("tokens a second"), (), fixed("sampled and learned from, or read")),
)
SPEED = FIGURES[-1].name


@dataclass(frozen=True)
class Point:
    """One row of a log: the step, and the values of the figures that it has, by name."""

    step: int
    values: Mapping[str, float]


def values_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one row of a log that are finite numbers."""
    found = {}
    for figure in FIGURES:
        key = next((key for key in figure.keys if key in row), None)
        if key is not None and (value := _number(row[key])) is not None:
            found[figure.name] = value
    return found


def limits(ppo: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By figure, the value at which stage ppo with these settings halts, on which side, and the setting's name."""
    return {
        figure.name: {"value": float(ppo[figure.limit]), "side": figure.side, "setting": f"ppo.{figure.limit}"}
        for figure in FIGURES
        if figure.limit and _number(ppo.get(figure.limit)) is not None
    }


def place(run: Path, folder: str) -> Path:
    """Where the log and the samples of the stage in `folder` lie now: in its partial folder where an attempt has begun and is not what
    was published, else where it is published."""
    partial, final = run / f"{folder}.partial", run / folder
    begun = begun_from(partial)
    if not begun:
        return final
    with suppress(OSError, ValueError):
        if not (partial / LOG).is_file() and manifests.read(final / MANIFEST).inputs == begun:
            return final  # it has just been published, and its partial folder is being cleared
    return partial


@dataclass
class Log:
    """A log as far as it was read. `run` is a run's folder, `folder` a stage's in it."""

    run: Path
    folder: str
    rows: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)
    state: tuple[int, int, int] = (0, 0, 0)  # inode, size and time of change at the last look
    at: int = 0  # bytes read, up to the end of a line
    before: bytes = b""  # the last of them
    seen: list[tuple[float, int, float | None]] = field(
        default_factory=list
    )  # (time, step, tokens) at each look that saw rows
    seconds: list[float] = field(default_factory=list)  # of single steps, as rows themselves say

    def more(self) -> tuple[bool, list[Point]]:
        """The points that came since the last look, and whether those that were told before are to be forgotten."""
        path = place(self.run, self.folder) / LOG
        with suppress(OSError), path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if state == self.state:
                return False, []
            stream.seek(max(0, self.at - BEFORE))
            anew = stream.read(min(self.at, BEFORE)) != self.before
            stream.seek(0 if anew else self.at)
            raw, self.state = stream.read(), state
            if anew:
                self._forget()
                self.state = state
            return anew, self._taken(raw[: raw.rfind(b"\n") + 1], found.st_mtime)
        if self.at and not path.parent.is_dir():  # between the partial folder and the published one
            return False, []
        anew = self.at > 0
        self._forget()
        return anew, []

    def _forget(self) -> None:
        self.rows, self.last, self.at, self.before, self.state = 0, {}, 0, b"", (0, 0, 0)
        self.seen, self.seconds = [], []

    def _taken(self, raw: bytes, written: float) -> list[Point]:
        points, first = [], not self.rows
        for row in parsed(raw):
            if (step := _number(row.get("step"))) is None:
                continue
            points.append(Point(int(step), values_of(row) | self._speed(row)))
            self.last, self.rows = row, self.rows + 1
        self.at += len(raw)
        self.before = (self.before + raw)[-BEFORE:]
        if points:
            tokens = _number(self.last.get("num_tokens"))
            if len(points) == 1 and not first:  # it came while somebody looked, so the time is its own
                points = [self._observed(points[0], tokens, written)]
            self.seen = [*self.seen, (written, points[-1].step, tokens)][-PACE:]
        return points

    def _speed(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Tokens a second of an iteration of ppo, which says its own seconds."""
        times = [value for key, value in row.items() if key.startswith("time/") and _number(value) is not None]
        length, episode = _number(row.get("completions/mean_length")), _number(row.get("episode"))
        if not times or length is None or episode is None or sum(times) <= 0:
            return {}
        self.seconds = [*self.seconds, sum(times)][-PACE:]
        size = episode - (_number(self.last.get("episode")) or 0.0)
        return {SPEED: length * size / sum(times)} if size > 0 else {}

    def _observed(self, point: Point, tokens: float | None, written: float) -> Point:
        """The point with the tokens that were read since the one before, by the times at which the two were written."""
        when, _, had = self.seen[-1] if self.seen else (written, 0, None)
        if SPEED in point.values or tokens is None or had is None or written <= when:
            return point
        return Point(point.step, {**point.values, SPEED: (tokens - had) / (written - when)})

    def step(self) -> int | None:
        """The last step that is told."""
        return None if not self.last else int(_number(self.last.get("step")) or 0)

    def steps(self) -> int | None:
        """How many steps there will be, where the log says it: a Trainer's does, whose rows say which share of its one epoch is done."""
        step, share = self.step(), _number(self.last.get("epoch"))
        return round(step / share) if step and share else None

    def pace(self, since: float | None = None) -> float | None:
        """Seconds a step of late; None where nobody knows yet. `since` is when the process began that made all of the rows."""
        if self.seconds:
            return sorted(self.seconds)[len(self.seconds) // 2]
        if len(self.seen) > 1 and self.seen[-1][1] > self.seen[0][1]:
            return (self.seen[-1][0] - self.seen[0][0]) / (self.seen[-1][1] - self.seen[0][1])
        if since is not None and self.seen and self.seen[-1][1]:
            return max(0.0, self.seen[-1][0] - since) / self.seen[-1][1]
        return None


def parsed(raw: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects on whole lines; a line that is none is passed over, as is one that a kill tore off."""
    for line in raw.split(b"\n"):
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def samples(run: Path, folder: str) -> dict[str, Any] | None:
    """What the policy said to held-out prompts at step 0 and last: {"first", "last", "scores": [[step, mean]], "rows": [{"prompt", "before",
    "after"}], "more"}; None where the stage keeps no such samples."""
    path = place(run, folder) / SAMPLES
    try:
        state = path.stat()
    except OSError:
        return None
    return _samples(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=32)
def _samples(path: Path, state: tuple[int, int, int]) -> dict[str, Any] | None:
    by = dict[float, dict[str, Any]]()
    with suppress(OSError):
        for row in parsed(path.read_bytes()):
            if {"prompt_id", "completion"} <= row.keys() and (step := _number(row.get("step"))) is not None:
                by.setdefault(step, {})[str(row["prompt_id"])] = row
    if not by:
        return None
    steps, means = sorted(by), []
    for step in steps:
        scores = [score for row in by[step].values() if (score := _number(row.get("score"))) is not None]
        means += [[int(step), sum(scores) / len(scores)]] if scores else []
    told = [
        {"prompt": str(own.get("prompt", "")), "before": _said(own), "after": _said(by[steps[-1]].get(name))}
        for name, own in by[steps[0]].items()
    ]
    whole = {"first": int(steps[0]), "last": int(steps[-1]), "scores": means}
    return whole | {"rows": told[:SHOWN], "more": max(0, len(told) - SHOWN)}


def _said(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"text": str(row["completion"]), "score": _number(row.get("score")), "eos": bool(row.get("eos", True))}


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and abs(value) < 1e300 and math.isfinite(value) else None


def told(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Points as JSON."""
    return [{"step": point.step, **point.values} for point in points]
