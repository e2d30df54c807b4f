"""What became of every architecture, as a page: docs/models.md. `make models` runs this, some minutes on two cores; with the word pairs it asks
the encoder–decoders alone, and what the page says of the others stays."""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.build import CANNOT, PAIRS_CANNOT, names, pair_names
from zoo.checks import Outcome, check

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Models

Every causal language model of transformers {version}, as a tiny random model of its config class (`tests/zoo/`), asked the same: logits,
sampling with a shared beginning and past a sliding window, an adapter on all linear layers that is merged, saved and loaded by plain
transformers and peft, a step of PPO, checkpointing, a score head. *Works* means that every number is that of the model's own forward;
*refused* is the sentence that a user reads at load; where a score head is refused without a note, transformers has no classifier of its
kind. A path that falls back gives the same numbers in more time or memory. Written by `make models`: {works} work, {refused} are refused, {missing} cannot be built from their config class alone.

"""
PAIRS = """
## Encoder–decoders

Every encoder–decoder of text that transformers loads by `AutoModelForSeq2SeqLM` (`config.is_encoder_decoder`), asked the same: its logits are held against those that plain
transformers gives when encoder and decoder are given their tokens by hand ([ppo.md](ppo.md#encoderdecoders)). The score head is transformers' classifier of that kind, which
stage reward takes by default. {works} work, {refused} are refused, {missing} are not asked.

"""
COLUMNS = """| architecture | policy | what falls back | score head | note |
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


def table(head: str, outcomes: list[Outcome], cannot: dict[str, str]) -> str:
    """A part of the page: `head` with the counts filled in, and a row for each architecture."""
    works = sum(o.policy == "works" for o in outcomes)
    counts = {"works": works, "refused": len(outcomes) - works, "missing": len(cannot)}
    rows = {o.name: line(o) for o in outcomes} | {n: f"| `{n}` | not built | | | {why} |" for n, why in cannot.items()}
    head = head.format(version=version("transformers"), **counts)
    return head + COLUMNS + "\n".join(rows[name] for name in sorted(rows)) + "\n"


def parts(text: str) -> tuple[str, str]:
    """What a page says of causal models, and of encoder–decoders."""
    first, sign, second = text.partition("\n## Encoder")
    return first, sign + second


def listed(text: str) -> list[str]:
    """The architectures that a part of a page lists."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def asked(name: str, pair: bool = False) -> Outcome:
    """`check` in a process of its own kind: one thread, nothing on the terminal."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with TemporaryDirectory() as folder:
        try:
            return check(name, Path(folder), pair=pair)
        except Exception as error:  # the others are asked nevertheless
            return Outcome(name, f"fails: {type(error).__name__} {error}")


def ask(known: list[str], pair: bool) -> list[Outcome]:
    """Ask all, two at a time. Raises RuntimeError with what failed, if anything did."""
    outcomes = []
    with ProcessPoolExecutor(2) as pool:
        for found in pool.map(asked, known, [pair] * len(known)):
            print(f"{found.name}: {found.policy}", file=sys.stderr)
            outcomes.append(found)
    if failed := [f"{o.name} {o.policy}" for o in outcomes if o.policy.startswith("fails")]:
        raise RuntimeError("\n".join(failed))
    return outcomes


def main(which: list[str]) -> str | None:
    """Write the page; what failed, if anything did, and then no page."""
    first = parts(PAGE.read_text(encoding="utf-8"))[0]
    try:
        if which != ["pairs"]:
            first = table(HEAD, ask(names(), False), CANNOT)
        second = table(PAIRS, ask(pair_names(), True), PAIRS_CANNOT)
    except RuntimeError as error:
        return str(error)
    PAGE.write_text(first + second, encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
