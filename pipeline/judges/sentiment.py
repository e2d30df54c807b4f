"""Does a Chinese text read as a review of one who liked what it is about? A classifier of ours, of reviews that no other stage saw.

No Chinese lexicon of sentiment was found whose licence lets it be used here (docs/judges.md), so this judge is learned, in seconds
and where it is needed, from the reviews that data.source=chinese_reviews sets apart for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from data.chinese_reviews import JUDGE
from data.schema import Judgement, PromptText
from pipeline import statistics
from pipeline.artifacts.run import Run
from pipeline.judges.judge import Judge, JudgeError, by_scores
from pipeline.rows.published import judgements
from pipeline.settings.data import CHINESE_SENTIMENT

POSITIVE = 0.5
"""The probability above which a text is held for a positive review."""
CHARACTERS = (1, 3)
"""Runs of so many characters are what the classifier sees of a text."""
INVERSE_PENALTY = 4.0
"""scikit-learn's C, the strength of what is learned."""


@dataclass
class Sentiment:
    """P(positive) of texts, by TF-IDF of runs of characters and logistic regression. `learned` counts the reviews of the judge."""

    vectors: Any
    classifier: Any
    learned: int
    held_out: list[Judgement]
    lengths: list[int] = field(default_factory=list)  # characters of the texts that were judged

    def __call__(self, prompts: Sequence[PromptText], completions: Sequence[str]) -> list[float]:
        """(N,) probabilities. The text judged is prompt + completion; of a prompt of messages nothing, as those are another's words."""
        texts = [
            prompt + completion if isinstance(prompt, str) else completion
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        self.lengths += map(len, texts)
        return self.probabilities(texts)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """(N,) from 0 to 1."""
        found: list[float] = (
            self.classifier.predict_proba(self.vectors.transform(texts))[:, 1].tolist() if texts else []
        )
        return found

    def summary(self) -> dict[str, str]:
        """How far it may be trusted: what it learned from, and how often it is right on held-out reviews as long as what it judged."""
        most = max(1, math.ceil(median(self.lengths))) if self.lengths else None
        texts = [f"{one.prompt}{one.completion}"[:most] for one in self.held_out]
        right = [
            (probability > POSITIVE) == one.liked
            for probability, one in zip(self.probabilities(texts), self.held_out, strict=True)
        ]
        told = {"trained on": f"{self.learned:,} reviews that no other stage saw"}
        if right:
            ends = statistics.wilson(sum(right), 0, len(right) - sum(right))
            cut = f", each cut to the {most} characters of the median text that was judged" if most else ""
            told["right on"] = (
                f"{sum(right) / len(right):.1%} ({ends['low']:.1%} to {ends['high']:.1%}) of {len(right):,} held-out reviews{cut}"
            )
        return told


def judge(run: Run) -> Judge:
    """The judge chinese_sentiment of a run, learned now from its data. Raises JudgeError where they hold no reviews for it."""
    rows, held_out = judgements(run, JUDGE), judgements(run, "eval")
    if len({row.liked for row in rows}) < 2:
        raise JudgeError(
            f"judge {CHINESE_SENTIMENT} learns from reviews that data.source=chinese_reviews sets apart, and this run has none; "
            "leave it out of compare.judges"
        )
    found = learned(rows, held_out)
    return replace(by_scores(CHINESE_SENTIMENT, "independent", found), summary=found.summary, positive=POSITIVE)


def learned(rows: Sequence[Judgement], held_out: Sequence[Judgement]) -> Sentiment:
    """The classifier of these reviews; the same rows give the same one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = TfidfVectorizer(analyzer="char", ngram_range=CHARACTERS, sublinear_tf=True, min_df=2)
    seen = vectors.fit_transform([f"{row.prompt}{row.completion}" for row in rows])
    classifier = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(seen, [row.liked for row in rows])
    return Sentiment(vectors, classifier, len(rows), list(held_out))
