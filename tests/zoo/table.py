"""What became of every architecture, as a page: docs/models.md. `make models` runs this, some minutes on two cores."""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.build import CANNOT, names
from zoo.checks import Outcome, check

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Models

Every causal language model of transformers {version}, as a tiny random model of its config class (`tests/zoo/`), asked the same: logits,
sampling with a shared beginning and past a sliding window, an adapter on all linear layers that is merged, saved and loaded by plain
transformers and peft, a step of PPO, checkpointing, a score head. *Works* means that every number is that of the model's own forward;
*refused* is the sentence that a user reads at load; where a score head is refused without a note, transformers has no classifier of its
kind. A path that falls back gives the same numbers in more time or memory. Written by `make models`: {works} work, {refused} are refused, {missing} cannot be built from their config class alone.

| architecture | policy | what falls back | score head | note |
|---|---|---|---|---|
"""


def line(found: Outcome) -> str:
    """A row of the table."""
    policy, _, why = found.policy.partition(": ")
    score, _, other = found.score.partition(": ")
    notes = [why] if why else []
    if other and not why and "Unrecognized configuration class" not in other:
        notes.append(f"score head: {other}")
    note = "; ".join(notes).replace("|", "/")
    return f"| `{found.name}` | {policy} | {', '.join(found.falls_back)} | {score} | {note} |"


def page(outcomes: list[Outcome]) -> str:
    works = sum(o.policy == "works" for o in outcomes)
    head = HEAD.format(version=version("transformers"), works=works, refused=len(outcomes) - works, missing=len(CANNOT))
    rows = {o.name: line(o) for o in outcomes} | {n: f"| `{n}` | not built | | | {why} |" for n, why in CANNOT.items()}
    return head + "\n".join(rows[name] for name in sorted(rows)) + "\n"


def listed(text: str) -> list[str]:
    """The architectures that a page lists."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def asked(name: str) -> Outcome:
    """`check` in a process of its own kind: one thread, nothing on the terminal."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        try:
            return check(name, Path(folder))
        except Exception as error:  # the others are asked nevertheless
            return Outcome(name, f"fails: {type(error).__name__} {error}")


def main() -> str | None:
    """Write the page; what failed, if anything did, and then no page."""
    with ProcessPoolExecutor(2) as pool:
        outcomes = []
        for found in pool.map(asked, names()):
            print(f"{found.name}: {found.policy}", file=sys.stderr)
            outcomes.append(found)
    if failed := [f"{o.name} {o.policy}" for o in outcomes if o.policy.startswith("fails")]:
        return "\n".join(failed)
    PAGE.write_text(page(outcomes), encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())
