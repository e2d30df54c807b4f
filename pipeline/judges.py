"""Who else says which completion is better, besides the reward that training optimised?

A judge is a plain function: judge(prompts, completions) -> one finite number a completion, higher is better.
"""

import functools
import importlib
import math
from collections.abc import Callable, Sequence

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
    return _checked(name, vader if name == "vader" else _imported(name))


def _imported(name: str) -> Callable[..., object]:
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise JudgeError(f'no judge is called {name!r}: use "vader", or "module:function" for your own')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # a package that the user's module imports and lacks is not the module's absence: that traceback is theirs
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise JudgeError(
            f"judge {name!r}: no module {module_name!r} can be imported from here; check its spelling, "
            f"or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise JudgeError(f"judge {name!r}: {module_name!r} has no function {function_name!r}; check its spelling")
    return function


def _checked(name: str, function: Callable[..., object]) -> Judge:
    @functools.wraps(function)
    def judge(prompts: Sequence[str | Messages], completions: Sequence[str]) -> list[float]:
        result = function(prompts, completions)
        try:
            scores = [float(score) for score in result]  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise JudgeError(f"judge {name!r} must return a list of numbers, not {type(result).__name__}") from error
        if len(scores) != len(completions):
            raise JudgeError(
                f"judge {name!r} returned {len(scores)} scores for {len(completions)} completions; return one each"
            )
        for index, score in enumerate(scores):
            if not math.isfinite(score):
                raise JudgeError(f"judge {name!r} returned {score} for completion {index}; return a finite number")
        return scores

    return judge
