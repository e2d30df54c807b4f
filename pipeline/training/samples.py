"""What does the sft model say when it is asked many times, and what is each answer worth? Sampled once, kept, never again.

Each prompt's samples are written as they come, so an interrupted stage goes on with the next prompt, in as many processes as there are then.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from data.schema import Prompt
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.ownership import begun_from
from pipeline.artifacts.row_log import add_rows, whole_rows
from pipeline.artifacts.run import Run
from pipeline.pages.progress import bar
from pipeline.settings.sections import Resolved
from pipeline.training.sharing import share_of
from policies.asking import Answers
from policies.drawing import Completion, noise
from policies.episodes import Score, after_eos_rule
from policies.loop_settings import EosRule
from policies.template import decode_completion, encode_prompt, show_prompt
from reward.functions import WeightedScore

AT_ONCE = 64  # completions sampled and scored between two writes, or more where more are sampled together
FILES = "samples.*.jsonl"  # of the processes, by rank


@dataclass(frozen=True)
class Sample:
    """One completion. `reward` is what training would maximise: `score` after the rule for completions without EOS."""

    tokens: list[int]
    text: str
    finished: bool
    score: float
    reward: float


ByPrompt = dict[str, list[Sample]]


def read(folder: Path) -> ByPrompt:
    """Samples by prompt id, of all processes that ever worked in `folder`. Rows that are not as they were written are told, and not
    among them."""
    return _by_prompt(_parts(folder))


def _by_prompt(parts: Sequence[dict[str, Any]]) -> ByPrompt:
    return {row["prompt_id"]: [Sample(**one) for one in row["samples"]] for part in parts for row in part["rows"]}


def _parts(folder: Path) -> list[dict[str, Any]]:
    """What each process wrote at once. Every process is to ask: what is not whole is told and cut off by the first, before the others read."""
    with PartialState().main_process_first():
        return [part for path in sorted(folder.glob(FILES)) for part in whole_rows(path, begun_from(folder))]


def sample_scored(
    folder: Path,
    say: Answers,
    stops: Sequence[int],
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
    what: str,
) -> ByPrompt:
    """Sample `n` completions of each prompt that `folder` has none of yet, and score them: all samples by prompt id, in every process.
    To be called by all, each of which takes a share of the prompts; `say` gives the completions, which `stops` end; `what` stands beside the bar.

    A process appends a line for those sampled at once to a file of its own, with how many texts reward models were given for it. Of
    those every process counts all, those of a former attempt too. The noise of a completion belongs to (seed, `stream` and prompt, its
    number), whoever samples it and whatever else is sampled; in one process the same is sampled and scored at once after an
    interruption. `rule` is for completions without EOS.
    """
    state = PartialState()
    counted = score.texts() if isinstance(score, WeightedScore) else {}
    before = {name: Counter(counts) for name, counts in counted.items()}
    known = read(folder)
    left = [p for p in asked if p.id not in known]
    mine, step = left[state.process_index :: state.num_processes], max(1, max(AT_ONCE, batch_size) // n)
    with bar(
        share_of(len(asked)) * n, what, "sample", start=(len(asked) - len(left)) // state.num_processes * n
    ) as progress:
        for start in range(0, len(mine), step):
            texts = {name: Counter(counts) for name, counts in counted.items()}
            part = mine[start : start + step]
            numbered = [(p, k) for p in part for k in range(n)]
            said = answers(
                numbered,
                say,
                stops,
                tokenizer,
                how,
                seed=seed,
                stream=stream,
                batch_size=batch_size,
                progress=progress.update,
            )
            rows = _rows(said, tokenizer, score, rule, stops)
            given = {name: dict(counts - texts[name]) for name, counts in counted.items()}
            path = folder / FILES.replace("*", str(state.process_index))
            add_rows(path, [{"rows": rows, "texts": given}], begun_from(folder))
    state.wait_for_everyone()
    parts = _parts(folder)
    for name, counts in counted.items():
        counts.clear()
        for given in (before[name], *(part["texts"].get(name, {}) for part in parts)):
            counts.update(given)
    return _by_prompt(parts)


def answers(
    numbered: Sequence[tuple[Prompt, int]],
    say: Answers,
    stops: Sequence[int],
    tokenizer: Any,
    how: Resolved,
    *,
    seed: int,
    stream: str,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> list[tuple[Prompt, Completion]]:
    """One completion for each prompt and number, in their order, which `stops` end; its noise belongs to (seed, `stream` and prompt, number)."""
    said = say(
        [encode_prompt(tokenizer, p.prompt) for p, _ in numbered],
        [noise(seed, 0, f"{stream} {p.id}", k, how.max_new_tokens) for p, k in numbered],
        how,
        eos_ids=stops,
        pad_id=tokenizer.pad_token_id,
        batch_size=batch_size,
        progress=progress,
    )
    return [(p, completion) for (p, _), completion in zip(numbered, said, strict=True)]


def _rows(
    said: Sequence[tuple[Prompt, Completion]], tokenizer: Any, score: Score, rule: EosRule, stops: Sequence[int]
) -> list[dict[str, Any]]:
    """What is written of completions that were sampled at once: a row a prompt."""
    texts = [decode_completion(tokenizer, p.prompt, c.tokens, stops) for p, c in said]
    raw = score([p.prompt for p, _ in said], texts).tolist()
    lines: dict[str, list[Sample]] = {}
    for (p, c), text, value in zip(said, texts, raw, strict=True):
        shaped = after_eos_rule(value, c.finished, rule)
        lines.setdefault(p.id, []).append(Sample(c.tokens, text, c.finished, value, shaped))
    return [{"prompt_id": name, "samples": [asdict(one) for one in samples]} for name, samples in lines.items()]


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
