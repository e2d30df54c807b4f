"""What is the policy rewarded for? Reward functions by name, their scores checked, weighed and pooled.

A reward function takes B prompts and B completions and returns B numbers, higher is better. It is called by keyword
(`prompts=`, `completions=`, as TRL calls its `reward_funcs`) where its signature allows, with those other columns of the
prompts' rows that it takes, B values each; else by position in that order. A prompt is a text or messages; a completion is
always a text. None says, as in TRL, that the function cannot judge a completion: then the other functions alone do.
"""

import difflib
import importlib
import inspect
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.units import count_words
from policies.template import PromptText
from policies.untyped import AnyFunction, Arguments, Foreign, Json

RewardFunction = AnyFunction
Score = Callable[[Sequence[PromptText], Sequence[str]], Tensor]
Columns = Mapping[str, Sequence[Foreign]]
"""Other columns of the prompts' rows, B values each."""
NO_COLUMNS: Columns = {}


class RewardError(ValueError):
    """A reward function that cannot be found or gives no usable scores: one sentence for the user, with its remedy."""


def resolve(name: str) -> RewardFunction:
    """The function called `module:function`; its module may lie in the current directory, which joins the import path
    for good.

    Raises RewardError when there is no such module or function or it cannot be called. An error inside the module keeps
    its traceback.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or module_name.startswith("."):
        raise RewardError(f'reward function "{name}" is not of the form module:function; write my_rewards:helpful')
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    # a module written since the last look, in a notebook say, is else not seen
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # a package that the user's module imports and lacks is not the module's absence: that traceback is theirs
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise RewardError(
            f'reward function "{name}": no module {module_name} in {here} or among the installed packages; '
            "give its name without .py, folders parted by dots"
        ) from error
    if not hasattr(module, function_name):
        functions = [key for key, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(function_name, functions, n=1)
        remedy = f"did you mean {near[0]}?" if near else "check its spelling"
        place = getattr(module, "__file__", None) or module_name
        raise RewardError(f'reward function "{name}": {place} has no function {function_name}; {remedy}')
    function = getattr(module, function_name)
    if not callable(function):
        raise RewardError(
            f'reward function "{name}" is a {type(function).__name__}, which cannot be called; name a function'
        )
    return function


def call_checked(
    function: RewardFunction,
    name: str,
    prompts: Sequence[PromptText],
    completions: Sequence[str],
    columns: Columns = NO_COLUMNS,
    may_fail: bool = False,
) -> Tensor:
    """Scores (B,) float32 on the CPU, without gradient, from a function that returns a list, tuple, array or tensor of
    B numbers; NaN where it returned None and `may_fail`.

    Raises RewardError naming the function when it returns anything else, the first bad number with its index, prompt
    and completion. What the function raises itself keeps its traceback.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions")
    with torch.no_grad():
        result = _call(function, name, list(prompts), list(completions), columns)
    wanted = f"it must return {len(completions)} finite numbers, one a completion"
    if isinstance(result, np.ndarray | Tensor) and result.ndim != 1:
        raise RewardError(f"reward function {name} returned {_what(result)} of shape {tuple(result.shape)}; {wanted}")
    if not isinstance(result, list | tuple | np.ndarray | Tensor):
        raise RewardError(f"reward function {name} returned {_what(result)}; {wanted}")
    if len(result) != len(completions):
        raise RewardError(f"reward function {name} returned {_what(result)} of {len(result)}; {wanted}")
    values = result.tolist() if isinstance(result, np.ndarray | Tensor) else list(result)
    scores = torch.empty(len(values), dtype=torch.float32)
    for index, value in enumerate(values):
        if value is None and may_fail:
            scores[index] = math.nan
            continue
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise RewardError(
                f"reward function {name} returned {_shown(value)} at index {index}, for prompt "
                f"{_shown(prompts[index])} and completion {_shown(completions[index])}; {wanted}"
            )
        scores[index] = number
    return scores


def _call(
    function: RewardFunction, name: str, prompts: list[PromptText], completions: list[str], columns: Columns
) -> Foreign:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C tell nothing of their parameters
        return function(prompts, completions)
    every = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    taken = {key: list(of) for key, of in columns.items() if every or key in signature.parameters}
    if _fits(signature, prompts=prompts, completions=completions, **taken):
        return function(prompts=prompts, completions=completions, **taken)
    # by position a function of (completions, reference) would take prompts for completions and nobody would notice
    if _fits(signature, prompts, completions) and not {"prompts", "completions"} & set(signature.parameters):
        return function(prompts, completions)
    beside = (
        f"and the rows' columns {', '.join(columns)}" if columns else "alone; data.keep names other columns of the rows"
    )
    raise RewardError(
        f"reward function {name}{signature} cannot be called with prompts and completions {beside}; "
        "let it take (prompts, completions) or (completions, **kwargs)"
    )


def _fits(signature: inspect.Signature, *args: Arguments, **kwargs: Arguments) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _number(value: Foreign) -> float | None:
    """The value as float32 would hold it, None when it is no real number; text that spells a number is none."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, int | float | np.integer | np.floating | np.bool_):
        return None
    try:
        return torch.tensor(float(value), dtype=torch.float32).item()
    except OverflowError:
        return math.inf


def _what(result: Foreign) -> str:
    return "None" if result is None else f"a {type(result).__name__}"


def _shown(value: Foreign, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Counted:
    """What a function said since it was last asked: numbers, their sum and sum of squares, and how often it said None."""

    numbers: int = 0
    failures: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, scores: Tensor) -> "Counted":
        said = scores[~scores.isnan()].double()
        return cls(len(said), len(scores) - len(said), said.sum().item(), said.square().sum().item())

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def figures_of(counted: Mapping[str, Counted]) -> dict[str, float]:
    """Each function's mean, standard deviation and share of failures, by the names that TRL has for the first two."""
    found = {}
    for name, own in counted.items():
        mean = own.total / max(own.numbers, 1)
        if own.numbers:
            found[f"rewards/{name}/mean"] = mean
            found[f"rewards/{name}/std"] = max(own.squares / own.numbers - mean**2, 0.0) ** 0.5
        found[f"rewards/{name}/failures"] = own.failures / max(own.numbers + own.failures, 1)
    return found


@dataclass(frozen=True)
class WeightedScore:
    """Σ_name weight·score of named reward functions: (prompts, completions) -> (B,) float32. Made by `combine`.

    To log the parts beside the sum without calling anything twice: parts = score.parts(…), then score.total(parts).
    `columns_of` gives the other columns of prompts' rows; `counted` what each function said since `taken` was last called.
    """

    functions: Mapping[str, RewardFunction]
    weights: tuple[float, ...]
    columns_of: Callable[[Sequence[PromptText]], Columns] = lambda prompts: NO_COLUMNS
    counted: dict[str, Counted] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[PromptText], completions: Sequence[str]) -> Tensor:
        """Weighted sum (B,) float32. Raises RewardError as `call_checked`, and where no function gives a number."""
        parts = self.parts(prompts, completions)
        nothing = torch.stack(list(parts.values())).isnan().all(dim=0)
        if nothing.any():
            index = int(nothing.nonzero()[0])
            raise RewardError(
                f"{', '.join(self.functions)}: no reward function gave a number for prompt {_shown(prompts[index])} and "
                f"completion {_shown(completions[index])}; let one of them judge everything, 0.0 for a failure"
            )
        return self.total(parts)

    def parts(self, prompts: Sequence[PromptText], completions: Sequence[str]) -> dict[str, Tensor]:
        """Each function's own scores (B,) float32 by name, not yet weighed, NaN where it failed beside others. Raises RewardError
        as `call_checked`."""
        columns, several = self.columns_of(prompts), len(self.functions) > 1
        found = {}
        for name, function in self.functions.items():
            found[name] = call_checked(function, name, prompts, completions, columns, may_fail=several)
            self.counted[name] = self.counted.get(name, Counted()) + Counted.of(found[name])
        return found

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum (B,) float32 of what `parts` gave; a failure adds nothing."""
        weighted = [
            weight * parts[name].nan_to_num(nan=0.0) for name, weight in zip(self.functions, self.weights, strict=True)
        ]
        return torch.stack(weighted).sum(dim=0)

    def taken(self) -> dict[str, Counted]:
        """What was counted; from here on it is counted anew."""
        found = dict(self.counted)
        self.counted.clear()
        return found

    def counts(self) -> Json:
        """All that is counted, of the texts that reward models were given too, as JSON for `count_on`."""
        texts = {name: dict(counts) for name, counts in self.texts().items()}
        return {"said": {name: asdict(one) for name, one in self.counted.items()}, "texts": texts}

    def count_on(self, saved: Json) -> None:
        """Go on from what `counts` gave."""
        self.counted.clear()
        self.counted.update({name: Counted(**one) for name, one in saved["said"].items()})
        for name, counts in self.texts().items():
            counts.clear()
            counts.update(saved["texts"][name])

    def texts(self) -> dict[str, Counter[str]]:
        """What each reward model among the functions was given: reward.model.Scorer.counts."""
        found = {name: getattr(one, "counts", None) for name, one in self.functions.items()}
        return {name: counts for name, counts in found.items() if isinstance(counts, Counter)}


def combine(
    functions: Mapping[str, RewardFunction],
    weights: Sequence[float],
    columns_of: Callable[[Sequence[PromptText]], Columns] = lambda prompts: NO_COLUMNS,
) -> WeightedScore:
    """A score callable that sums the functions' scores, weights in the order of `functions`; `columns_of` see WeightedScore.

    Raises RewardError without functions, without one weight each, or for a weight that is not finite.
    """
    if not functions:
        raise RewardError("no reward function: name at least one in reward_funcs")
    if len(weights) != len(functions):
        raise RewardError(f"reward_weights: {len(weights)} for {len(functions)} reward_funcs; give one each")
    for name, weight in zip(functions, weights, strict=True):
        if not math.isfinite(weight):
            raise RewardError(f"reward_weights: {weight} for {name}; give a finite number")
    return WeightedScore(dict(functions), tuple(float(weight) for weight in weights), columns_of)


def brevity_penalty(prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
    """Words that each completion lacks to ten, negative: 0 for ten or more, -10 for none. A character counts as a word where its script
    sets no spaces (`data.units`).

    With a small weight it keeps a policy from earning its reward by saying little.
    """
    return [float(min(count_words(completion), 10) - 10) for completion in completions]


def ensemble(functions: Mapping[str, RewardFunction], how: Literal["mean", "min"] = "mean") -> Score:
    """A score callable that pools reward models of one scale, completion by completion: (B,) float32.

    "mean", or "min": worst-case optimisation, which a policy cannot please by fooling one member (Coste et al.
    2310.02743). Raises RewardError without functions or for another `how`.
    """
    if not functions:
        raise RewardError("no reward function: an ensemble needs members")
    if how not in ("mean", "min"):
        raise RewardError(f'ensemble: "{how}" is no way to pool scores; choose mean or min')
    members = dict(functions)

    def score(prompts: Sequence[PromptText], completions: Sequence[str]) -> Tensor:
        scores = torch.stack([call_checked(function, name, prompts, completions) for name, function in members.items()])
        return scores.mean(dim=0) if how == "mean" else scores.amin(dim=0)

    return score
