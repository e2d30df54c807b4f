"""What does the sft model say when it is asked many times, and what is each answer worth? Sampled once, kept, never again.

Each prompt's samples are written as they come, so an interrupted stage goes on with the next prompt.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.schema import Prompt
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.ownership import begun_from
from pipeline.artifacts.row_log import add_rows, whole_rows
from pipeline.artifacts.run import Run
from pipeline.settings.sections import Resolved
from policies.decoding import decode
from policies.drawing import noise
from policies.episodes import Score, after_eos_rule
from policies.loop_settings import EosRule
from policies.template import decode_completion, encode_prompt, show_prompt
from policies.tokenizers import eos_ids
from reward.functions import WeightedScore

AT_ONCE = 64  # completions sampled and scored between two writes


@dataclass(frozen=True)
class Sample:
    """One completion. `reward` is what training would maximise: `score` after the rule for completions without EOS."""

    tokens: list[int]
    text: str
    finished: bool
    score: float
    reward: float


ByPrompt = dict[str, list[Sample]]


def read(path: Path) -> ByPrompt:
    """Samples by prompt id. Rows that are not as they were written are told, and not among them."""
    return {
        row["prompt_id"]: [Sample(**one) for one in row["samples"]] for part in _parts(path) for row in part["rows"]
    }


def _parts(path: Path) -> list[dict[str, Any]]:
    return whole_rows(path, begun_from(path.parent))


def sample_scored(
    path: Path,
    known: ByPrompt,
    model: Any,
    tokenizer: Any,
    asked: Sequence[Prompt],
    score: Score,
    rule: EosRule,
    *,
    n: int,
    how: Resolved,
    seed: int,
    stream: str,
    batch_size: int,
    progress: Callable[[int], object],
) -> None:
    """Sample `n` completions of each prompt that is not `known` yet, score them, and append a line for those sampled at once to `path`,
    with how many texts reward models were given for it; what they were given for the lines in `path` is counted here.

    The noise of a completion belongs to (seed, `stream` and prompt, its number), whatever else is sampled. What is sampled and scored
    at once is the same after an interruption. `rule` is for completions without EOS.
    """
    stops, counted = eos_ids(model, tokenizer), score.texts() if isinstance(score, WeightedScore) else {}
    for done in _parts(path):
        for name, counts in counted.items():
            counts.update(done["texts"].get(name, {}))
    step = max(1, AT_ONCE // n)
    for start in range(0, len(asked), step):
        together, before = asked[start : start + step], {name: Counter(counts) for name, counts in counted.items()}
        if all(p.id in known for p in together):
            progress(n * len(together))
            continue
        part = [(p, k) for p in together for k in range(n)]
        said = decode(
            model,
            [encode_prompt(tokenizer, p.prompt) for p, _ in part],
            [noise(seed, 0, f"{stream} {p.id}", k, how.max_new_tokens) for p, k in part],
            how,
            eos_ids=stops,
            pad_id=tokenizer.pad_token_id,
            batch_size=batch_size,
            progress=progress,
        )
        texts = [decode_completion(tokenizer, p.prompt, c.tokens, stops) for (p, _), c in zip(part, said, strict=True)]
        raw = score([p.prompt for p, _ in part], texts).tolist()
        lines: dict[str, list[Sample]] = {}
        for (p, _), c, text, value in zip(part, said, texts, raw, strict=True):
            shaped = after_eos_rule(value, c.finished, rule)
            lines.setdefault(p.id, []).append(Sample(c.tokens, text, c.finished, value, shaped))
        rows = [{"prompt_id": name, "samples": [asdict(one) for one in samples]} for name, samples in lines.items()]
        given = {name: dict(counts - before[name]) for name, counts in counted.items()}
        add_rows(path, [{"rows": rows, "texts": given}], begun_from(path.parent))


def sample_rows(asked: Sequence[Prompt], found: ByPrompt, kept: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """Rows of a published samples.jsonl, one a completion; `kept` names the one that was chosen of each prompt."""
    return [
        {
            "prompt_id": p.id,
            "prompt": show_prompt(p.prompt),
            "sample": number,
            "completion": one.text,
            "tokens": one.tokens,
            "length": len(one.tokens),
            "eos": one.finished,
            "score": one.score,
            "reward": one.reward,
        }
        | ({} if kept is None else {"kept": kept[p.id] == number})
        for p in asked
        for number, one in enumerate(found[p.id])
    ]


def best_of_block(samples: Sequence[Sample], n: int, block: int) -> tuple[Sample, int]:
    """The best by reward of the samples numbered block·n to block·n + n - 1, and its number; the first of equals."""
    numbers = range(block * n, (block + 1) * n)
    number = max(numbers, key=lambda i: samples[i].reward)
    return samples[number], number


def kl_bound(n: int) -> float:
    """log n - (n - 1)/n nats: the KL of best-of-n to what it samples from is at most this.

    Stiennon et al. 2020 (2009.01325) give it as the KL itself; it is an upper bound (Beirami et al. 2024, 2401.01879), near the
    KL where ties are rare and every single completion is unlikely.
    """
    return math.log(n) - (n - 1) / n


def published(run: Run) -> ByPrompt:
    """The samples of a finished stage, by prompt id."""
    found: ByPrompt = {}
    for row in read_rows(run.folder("best_of_n") / "samples.jsonl"):
        one = Sample(row["tokens"], row["completion"], row["eos"], row["score"], row["reward"])
        found.setdefault(row["prompt_id"], []).append(one)
    return found
