"""How do several processes compute in turns on one machine? Both sides, and what travels between them.

driver -> process: "go" for one iteration, "end" to close
process -> driver: a line of JSON when ready, after each iteration, and at the end
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.bench.machine import peak_gb

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path("runs/.cache/trl-1.12.0")
TAIL = 15  # lines of a dead process's log that are shown


class Died(Exception):
    """A process of the bench ended before its time; the message shows the end of its log."""


@dataclass(frozen=True)
class Spec:
    """What one process is to run; travels as JSON on its command line."""

    model: str  # folder of a causal LM
    prompts: str  # JSON lines {"id", "prompt", "ids"}, in the order in which they are used
    dtype: str
    lora: bool
    lora_layers: int | None  # adapt only the last so many; None: all
    critic: str  # adapter, head, full
    epochs: int
    iterations: int
    response: int  # most new tokens
    stops: bool  # whether EOS ends a completion
    batch: int = 32
    micro_tokens: int | None = None  # of our update; None: the recipe's default
    learning_rate: float = 3e-6  # TRL's default; small, so that lengths stay those of the model both start from

    @classmethod
    def parse(cls, text: str) -> "Spec":
        return cls(**json.loads(text))


class Turns:
    """A process's side of the game: `ready` and then `done` after every iteration wait until it is its turn.

    Standard output is for the driver's JSON lines alone, so prints of libraries go to standard error from here on.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._started = 0.0

    def say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self._out, flush=True)

    def wait(self) -> bool:
        """Wait for our turn; whether it is one more iteration, false at the end."""
        word = sys.stdin.readline()
        if not word:
            sys.exit("the driver is gone")
        self._started = time.perf_counter()
        return word.strip() == "go"

    def ready(self, **facts: Any) -> bool:
        self.say(**facts)
        return self.wait()

    def done(self, **facts: Any) -> bool:
        """The iteration has ended: its wall-clock seconds since it was let go, and what else there is to tell. Returns
        whether there is one more."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.say(seconds=time.perf_counter() - self._started, **facts)
        return self.wait()

    def close(self) -> None:
        self.say(peak_gb=peak_gb())


@dataclass
class Player:
    """The driver's side of one process."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)  # what it said when ready
    turns: list[dict[str, Any]] = field(default_factory=list)
    closing: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            at = f"in iteration {len(self.turns) + 1}" if self.facts else "before it was ready"
            raise Died("\n".join([*tail, f"{self.name} ended {at} with code {code}; its whole log is {self.log}"]))
        return json.loads(line)

    def let(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died while it waited, which `told` tells
        return self.told()


def take_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, logs: Path, between: str | None = None
) -> dict[str, Player]:
    """Start the named processes one after another, let each run one iteration a round, then close them one after
    another.

    The process named `between`, if there is one, has a turn before and after every turn of another. Never do two compute at once. Raises Died when one ends before its time; none is left running.
    """
    logs.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # OpenMP threads of a waiting process sleep by themselves; told to do so at once (OMP_WAIT_POLICY), TRL took 83 s an iteration instead of 73
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    players: dict[str, Player] = {}
    try:
        for name, command in commands.items():
            log = logs / f"{name}.log"
            with log.open("w", encoding="utf-8") as file:
                pipe = subprocess.PIPE
                environment = os.environ | quiet | {"PYTHONPATH": path}
                process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, text=True, env=environment)
            players[name] = Player(name, process, log)
            players[name].facts = {"ready": True} | players[name].told()
        order = [name for _ in range(rounds) for name in players if name != between]
        if between is not None:
            order = [between, *(one for name in order for one in (name, between))]
        for name in order:
            players[name].turns.append(players[name].let("go"))
        for player in players.values():
            player.closing = player.let("end")
            player.process.wait()
    finally:
        for player in players.values():
            player.process.kill()
            player.process.wait()
            for stream in (player.process.stdin, player.process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass
    return players
