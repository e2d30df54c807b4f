"""Which of several models is best, and does a model still win when its length is taken out of the judgement?

Both answers are logistic regressions: Bradley–Terry has one score a model, length control adds the difference in
length. They are fitted by damped Newton steps with a small ridge penalty, all bootstrap resamples at once; prompts are
what is resampled, with all their comparisons. A refit is dearer than a mean, so 2,000 draws are the default: percentile
ends ask for 1,000 or more (Efron and Tibshirani 1993, chapter 19).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics import TIE, outcomes, prompt_index
from reward.statistics import Floats, percentile_ends, resamples

DRAWS = 2_000
# Ridge of strength λ = a normal prior of variance 1/λ on every coefficient, in log-odds. Length control has two
# coefficients that can grow without end when length decides everything; 0.1 (sd 3.2) keeps them within reason.
LENGTH_RIDGE = 0.1
# Sd 10 in log-odds: moves no score that data determine by more than a hundredth, and holds an unbeaten model finite.
SCORE_RIDGE = 0.01
_STEPS = 200


class Match(NamedTuple):
    """One comparison: on `prompt`, model `a` met model `b`; outcome 1 if a won, 0 if b won, ½ for a tie."""

    prompt: str
    a: str
    b: str
    outcome: float


def every_pair(scores: Mapping[str, Sequence[float]], prompts: Sequence[str], tie: float = TIE) -> list[Match]:
    """Each model against each other on each sample, by one judge: scores model -> (N,), prompts (N,) -> N·M(M-1)/2.

    scores[m][i] belongs to prompts[i] and to the same seed for all models; scores within `tie` of each other tie.
    Raises ValueError when lengths differ or a score is not finite.
    """
    matches = []
    for a, b in combinations(scores, 2):
        if len(scores[a]) != len(prompts):
            raise ValueError(f"{len(scores[a])} scores of {a} for {len(prompts)} prompts: give one each")
        try:
            results = outcomes(scores[a], scores[b], tie)
        except ValueError as error:
            raise ValueError(f"{a} against {b}: {error}") from None
        matches += [Match(prompt, a, b, float(result)) for prompt, result in zip(prompts, results, strict=True)]
    return matches


def length_controlled_win_rate(
    outcome: Sequence[float],
    length_a: Sequence[float],
    length_b: Sequence[float],
    prompts: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """a's win rate against b had both written equally much, as AlpacaEval 2 estimates it, with a 95% interval.

    outcome (N,): 1 a won, 0 a lost, ½ a tie (which weighs as half of each); length_a, length_b (N,) in any one unit;
    prompts (N,). Dubois et al. 2024 (arXiv 2404.04475, equations 1 and 2) fit

        logit P(a wins on x) = (θ_a - θ_b) + φ·tanh((len_a - len_b) / sd(len_a - len_b)) + (ψ_a - ψ_b)·γ_x

    and report the mean prediction over prompts with the length term at 0. Kept: the model term and the length term,
    with the sample sd (n - 1) over all samples, as in their code. Left out: the difficulty γ_x of a prompt, which they
    estimate jointly over more than a hundred models on the same prompts and then hold fixed; from one pair it is a free
    number a prompt and cannot be told from the outcome itself. Without it the prediction at equal length is σ(θ_a -
    θ_b) for every prompt, and where lengths never differ it is the plain win rate (but for the ridge). Left out too:
    their two artificial baselines with truncated outputs, whose part in holding φ the ridge takes (their code
    cross-validates the strength; here it is LENGTH_RIDGE). The sd stays that of the whole sample in every resample: it
    is a unit. A judge for whom the longer one wins without exception is no logistic curve: the ridge smooths his step,
    which leaves some 0.02 to the model that is mostly longer.

    Returns {"win_rate", "low", "high" (shares), "length_effect" (φ, log-odds), "length_sd", "prompts" (int),
    "overlap"}. `overlap` is False when equal length lies outside the middle 95% of the differences: one model is longer
    nearly always, length and quality cannot be told apart, the figure hangs on the ridge, and `sentences` claims
    nothing. Where all lengths differ by one and the same amount, sd is 0 and the term is its limit ±1.
    Raises ValueError for unequal numbers, an outcome outside [0, 1] or a number that is not finite.
    """
    won = np.asarray(outcome, dtype=np.float64)
    if not len(won) == len(length_a) == len(length_b):
        raise ValueError(f"{len(won)} outcomes, {len(length_a)} and {len(length_b)} lengths: give one of each a sample")
    difference = np.asarray(length_a, dtype=np.float64) - np.asarray(length_b, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError(f"the lengths of sample {int(np.argmin(np.isfinite(difference)))} are not finite")
    index = prompt_index(won, prompts)
    if ((won < 0) | (won > 1)).any():
        raise ValueError("an outcome is 1 (won), ½ (tie) or 0 (lost), or a number between")
    sd = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    term = np.tanh(difference / sd) if sd > 0 else np.sign(difference)
    features = np.stack([np.ones(len(term)), term], axis=1)
    fitted = _fit(features, won[None], np.ones((1, len(won))), LENGTH_RIDGE)[0]
    replicates = [
        _fit(features, weights[:, index] * won, weights[:, index], LENGTH_RIDGE, start=fitted)[:, 0]
        for weights in _weights(int(index.max()) + 1, draws, seed, cells=math.ceil(len(won) / (index.max() + 1)))
    ]
    low, high = percentile_ends(_sigmoid(np.concatenate(replicates)))
    shortest, longest = percentile_ends(difference)
    return {
        "win_rate": float(_sigmoid(fitted[0])),
        "low": low,
        "high": high,
        "length_effect": float(fitted[1]),
        "length_sd": sd,
        "prompts": int(index.max()) + 1,
        "overlap": shortest <= 0 <= longest,
    }


def bradley_terry(matches: Sequence[Match], draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Scores in log-odds with mean 0 over the models, P(i beats j) = σ(s_i - s_j), with 95% intervals over prompts.

    Bradley and Terry 1952 (Biometrika 39:324–345). A tie counts as half a win for each side, as in the win rate (the
    models of Rao and Kupper 1967 or Davidson 1970 would spend a parameter on ties). The maximum is finite only if,
    however the models are split in two, some model of each part beat (or tied) one of the other: Ford 1957 (American
    Mathematical Monthly 64:28–33). The prior, normal with mean 0 and sd 10 log-odds on every score, makes it finite
    always, and its mean 0 exactly; where Ford's condition holds it moves scores by less than the third digit.

    Returns {"models": {name: {"score", "low", "high"}}, best first, "groups", "prior_share", "prompts", "comparisons"}.
    `groups` lists the sets of models within which Ford's condition holds; more than one means that somebody was never
    beaten, or never met, by the rest: distances between groups then come from the prior, and every `low` and `high`
    is None. `prior_share` is the share of resamples in which this happened: above 0.025 the outer ends come from the
    prior, too, so read them as "at least so far".
    Raises ValueError without matches, for a model that meets itself or an outcome outside [0, 1].
    """
    for match in matches:
        if match.a == match.b:
            raise ValueError(f"{match.a} meets itself on prompt {match.prompt!r}: a comparison needs two models")
        if not 0 <= match.outcome <= 1:
            raise ValueError(f"{match.a} against {match.b} on prompt {match.prompt!r}: outcome {match.outcome}")
    index = prompt_index(np.array([match.outcome for match in matches]), [match.prompt for match in matches])
    names = list(dict.fromkeys(name for match in matches for name in (match.a, match.b)))
    place = {name: i for i, name in enumerate(names)}
    pairs = list(combinations(range(len(names)), 2))
    column = {pair: i for i, pair in enumerate(pairs)}
    prompts = int(index.max()) + 1
    won, met = np.zeros((prompts, len(pairs))), np.zeros((prompts, len(pairs)))  # by prompt, of each pair's first model
    for prompt, match in zip(index, matches, strict=True):
        a, b = place[match.a], place[match.b]
        met[prompt, column[min(a, b), max(a, b)]] += 1
        won[prompt, column[min(a, b), max(a, b)]] += match.outcome if a < b else 1 - match.outcome
    features = np.zeros((len(pairs), len(names)))
    for row, (a, b) in enumerate(pairs):
        features[row, a], features[row, b] = 1.0, -1.0
    wins, games = won.sum(axis=0)[None], met.sum(axis=0)[None]
    scores = _fit(features, wins, games, SCORE_RIDGE)[0]
    linked = _linked(wins, games, pairs, len(names))[0]
    replicates, whole = [], []
    for weights in _weights(prompts, draws, seed):
        drawn_wins, drawn_games = weights @ won, weights @ met
        replicates.append(_fit(features, drawn_wins, drawn_games, SCORE_RIDGE, start=scores))
        whole.append(_linked(drawn_wins, drawn_games, pairs, len(names)).all(axis=(1, 2)))
    drawn = np.concatenate(replicates)
    best = sorted(range(len(names)), key=lambda i: (-scores[i], names[i]))
    groups = list(dict.fromkeys(tuple(names[j] for j in best if linked[i, j]) for i in best))
    ends = [percentile_ends(drawn[:, i]) if len(groups) == 1 else (None, None) for i in range(len(names))]
    return {
        "models": {names[i]: {"score": float(scores[i]), "low": ends[i][0], "high": ends[i][1]} for i in best},
        "groups": [list(group) for group in groups],
        "prior_share": float(1 - np.concatenate(whole).mean()),
        "prompts": prompts,
        "comparisons": len(matches),
    }


def elo(score: float) -> float:
    """A score in log-odds on the scale of chess: 1000 + 400·score/ln 10, where 400 points are odds of 10 to 1 (Elo
    1978).

    1000 is the mean of the models compared, so figures of two comparisons are not on one scale.
    """
    return 1000 + 400 * score / math.log(10)


def _weights(groups: int, draws: int, seed: int, cells: int = 1) -> Iterator[Floats]:
    """How often each resample holds each prompt: chunks (rows, groups) float64."""
    for picked in resamples(groups, draws, seed, cells=4 * cells):  # a fit holds about four arrays of this size
        rows = len(picked)
        places = picked + np.arange(rows)[:, None] * groups
        yield np.bincount(places.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(np.minimum(-x, 700.0)))  # exp overflows beyond 709


def _fit(features: Floats, wins: Floats, games: Floats, ridge: float, start: Floats | None = None) -> Floats:
    """Maximum (D, K) of Σ_n wins·log σ(η) + (games - wins)·log σ(-η) - ½·ridge·|β|² with η = features·β, for D data
    sets.

    features (N, K) shared; wins and games (D, N); all float64. Newton's direction d (IRLS: McCullagh and Nelder 1989,
    section 2.5), with the step ln(1 + R|d|)/(R|d|), R the longest row of features, under which Newton's method
    converges from anywhere on the logistic likelihood (Sun and Tran-Dinh 2019, Mathematical Programming 178:145–213).
    Plain Newton overshoots where wins and losses separate.
    """
    size = features.shape[1]
    radius = float(np.sqrt((features**2).sum(axis=1)).max())
    squares = (features[:, :, None] * features[:, None, :]).reshape(len(features), size * size)
    beta = np.tile(np.zeros(size) if start is None else start, (len(wins), 1))
    for _ in range(_STEPS):
        chance = _sigmoid(beta @ features.T)
        slope = (wins - games * chance) @ features - ridge * beta
        curve = ((games * chance * (1 - chance)) @ squares).reshape(-1, size, size) + ridge * np.eye(size)
        direction = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        reach = radius * np.sqrt((direction**2).sum(axis=1, keepdims=True))
        beta += direction * np.where(reach > 0, np.log1p(reach) / np.where(reach > 0, reach, 1), 1)
        if reach.max() < 1e-6:  # convergence is quadratic: what is left is about 1e-12
            return beta
    raise RuntimeError(f"no convergence in {_STEPS} Newton steps: a concave maximum was not found")


def _linked(wins: Floats, games: Floats, pairs: list[tuple[int, int]], models: int) -> NDArray[np.bool_]:
    """(D, M, M): whether wins and ties lead from i to j and back, by any way (Warshall 1962); inputs (D, pairs)."""
    beat = np.zeros((len(wins), models, models), dtype=bool)
    beat[:, range(models), range(models)] = True
    for column, (a, b) in enumerate(pairs):
        beat[:, a, b] = wins[:, column] > 0
        beat[:, b, a] = wins[:, column] < games[:, column]
    for via in range(models):
        beat |= beat[:, :, via, None] & beat[:, via, None, :]
    return beat & beat.transpose(0, 2, 1)
