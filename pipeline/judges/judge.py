"""Who says which completion is better? Judges of one form, each labelled with how far it may be trusted.

A `Judge` compares completions of the same prompts. Judges that score (a reward model, a lexicon, a function of yours)
are made here; a language model that is asked is in llm.py, people's votes are in votes.py.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import statistics
from pipeline.commands import install
from pipeline.pages.progress import bar
from pipeline.settings.data import CHINESE_SENTIMENT, VADER
from pipeline.waiting import patient, watched
from policies.precision import Held
from policies.template import PromptText
from reward.functions import NO_COLUMNS, Columns, RewardError, RewardFunction, call_checked, resolve
from reward.model import load_scorer
from reward.verifiers import verifies

Label = Literal["optimised", "independent", "gold", "human", "LLM", "verifier"]
"""What a reader must know of a judge: "optimised" is the score that training maximised, and no evidence by itself;
"gold" is a reward model that training never saw, learned from other rankings; "verifier" checks an answer against the row's own, so that on
held-out prompts it is no proxy even where training maximised it on others."""
Scores = Callable[[Sequence[PromptText], Sequence[str]], list[float]]
Outcomes = NDArray[np.float64]

ColumnsOf = Callable[[Sequence[PromptText]], Columns]

SCORE_BATCH = 32


def no_columns(prompts: Sequence[PromptText]) -> Columns:
    return NO_COLUMNS


class JudgeError(Exception):
    """A judge that cannot be found or gives no usable judgement: one sentence for the user, with its remedy."""


@dataclass(frozen=True)
class Judge:
    """`outcomes(prompts, a, b) -> (N,) float64`: is completion a[i] of prompts[i] better than b[i]?

    1 yes, 0 no, ½ a tie, nan where there is no judgement; the mean of several people's votes may lie between.
    `scores(prompts, completions)`, one finite number a completion with more being better, is None for a judge that only
    compares. `summary()` tells for the report what judging has cost so far: numbers and texts, ready for JSON. A completion with a
    score above `positive` is one that the judge holds for good; None where no score has that meaning.
    """

    name: str
    label: Label
    outcomes: Callable[[Sequence[PromptText], Sequence[str], Sequence[str]], Outcomes]
    scores: Scores | None = None
    summary: Callable[[], dict[str, Any]] = dict
    positive: float | None = None


def by_scores(
    name: str, label: Label, function: RewardFunction, tie: float = statistics.TIE, columns_of: ColumnsOf = no_columns
) -> Judge:
    """A judge that prefers the completion with the higher score by `function(prompts, completions)`, which gets those columns of the prompts' rows that it takes.

    A completion of a prompt is scored once and remembered: comparing it with several others costs nothing, and equal
    completions tie even where a model's scores hang on the batch. Raises JudgeError, when used, for scores that are not
    one finite number a completion.
    """
    known: dict[tuple[str, str], float] = {}

    def scores(prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
        keys = [(json.dumps(prompt), text) for prompt, text in zip(prompts, completions, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            places = list(new.values())
            with _as_judge():
                asked, said = [prompts[i] for i in places], [completions[i] for i in places]
                found = call_checked(function, name, asked, said, columns_of(asked))
            known.update(zip(new, found.tolist(), strict=True))
        return [known[key] for key in keys]

    def outcomes(prompts: Sequence[PromptText], a: Sequence[str], b: Sequence[str]) -> Outcomes:
        return statistics.outcomes(scores(prompts, a), scores(prompts, b), tie)

    return Judge(name, label, outcomes, scores)


def optimised(score: RewardFunction, name: str = "reward") -> Judge:
    """The score that training maximised, as a judge labelled so: `score(prompts, completions) -> (N,)`."""
    return by_scores(name, "optimised", score)


def gold(
    path: str | Path,
    how: torch.dtype | Held,
    device: torch.device,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    name: str = "gold",
) -> Judge:
    """A reward model that training never saw, from a folder or Hub id, with a tokenizer of its own.

    Such as the published reward stage of another run, learned from the other half of the rankings (Gao et al. 2023,
    arXiv 2210.10760, measure over-optimisation so). Its summary counts the "texts" it read, and those that were "cut".
    The model is loaded now and kept as long as the judge. Raises BackboneError or ScoringError where it cannot score.
    """
    scorer = load_scorer(path, how, device, SCORE_BATCH, chat_template_kwargs)

    def score(prompts: Sequence[PromptText], completions: Sequence[str]) -> Tensor:
        with bar(len(completions), f"compare: {name}", "sample") as progress:
            return scorer(prompts, completions, progress.update)

    return replace(by_scores(name, "gold", score), summary=lambda: dict(scorer.counts))


def independent(name: str, columns_of: ColumnsOf = no_columns) -> Judge:
    """The judge called `name`, "vader" or "module:function", which training must not have maximised unless it is a verifier.

    Raises JudgeError when there is no such judge, and, when used, as `by_scores` does.
    """
    function = _function(name)
    return by_scores(name, "verifier" if verifies(function) else "independent", function, columns_of=columns_of)


def _function(name: str) -> RewardFunction:
    if name != VADER and ":" not in name:
        raise JudgeError(
            f'no judge is called {name!r}: use "{VADER}", "{CHINESE_SENTIMENT}", or "module:function" for your own'
        )
    with _as_judge():
        if name == VADER:
            return vader
        with watched(f"the import of judge {name}"):
            found = resolve(name)
        return patient(found, f"judge {name}")


def vader(prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
    """Sentiment from -1 (hostile) to 1 (friendly) by the VADER lexicon: (N,) compound scores (Hutto and Gilbert 2014).

    The text judged is prompt + completion, because "not" in a prompt turns "good" in a completion around. Of a prompt
    of messages nothing is judged: those words are another speaker's. Raises JudgeError when vaderSentiment is missing.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ModuleNotFoundError as error:
        if error.name not in ("vaderSentiment", "vaderSentiment.vaderSentiment"):
            raise
        raise JudgeError(
            f"judge vader needs the package vaderSentiment; leave it out of compare.judges, or {install('vaderSentiment==3.3.2')}"
        ) from error
    score = SentimentIntensityAnalyzer().polarity_scores
    texts = [
        prompt + completion if isinstance(prompt, str) else completion
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return [score(text)["compound"] for text in texts]


@contextmanager
def _as_judge() -> Iterator[None]:
    """A judge is found, called and checked as a reward function is; only its errors speak of a judge."""
    try:
        yield
    except RewardError as error:
        raise JudgeError(str(error).replace("reward function", "judge")) from error
