"""Who else says which completion is better, besides the reward that training optimised?

A judge is a plain function: judge(prompts, completions) -> one finite number a completion, higher is better.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from reward.functions import RewardError, call_checked, resolve

Messages = list[dict[str, str]]
Judge = Callable[[Sequence[str | Messages], Sequence[str]], list[float]]


class JudgeError(Exception):
    """A judge that cannot be found or gives no usable scores: one sentence for the user, with its remedy."""


def vader(prompts: Sequence[str | Messages], completions: Sequence[str]) -> list[float]:
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
            "judge vader needs the package vaderSentiment: pip install vaderSentiment==3.3.2, "
            "or install this project with its extra demo"
        ) from error
    score = SentimentIntensityAnalyzer().polarity_scores
    texts = [
        prompt + completion if isinstance(prompt, str) else completion
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return [score(text)["compound"] for text in texts]


def load(name: str) -> Judge:
    """The judge called `name`: "vader", or "module:function" for your own. Its scores are checked on every call.

    Raises JudgeError when there is no such judge, and from the judge itself when it returns anything but one finite
    number a completion.
    """
    if name != "vader" and ":" not in name:
        raise JudgeError(f'no judge is called {name!r}: use "vader", or "module:function" for your own')
    with _as_judge():
        function = vader if name == "vader" else resolve(name)

    def judge(prompts: Sequence[str | Messages], completions: Sequence[str]) -> list[float]:
        with _as_judge():
            return call_checked(function, name, prompts, completions).tolist()

    return judge


@contextmanager
def _as_judge() -> Iterator[None]:
    """A judge is found, called and checked as a reward function is; only its errors speak of a judge."""
    try:
        yield
    except RewardError as error:
        raise JudgeError(str(error).replace("reward function", "judge")) from error
