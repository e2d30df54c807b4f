"""How do probability, KL and credit go over a completion's tokens? Three drawings, each with its numbers."""

from typing import Any

from pipeline.language import phrase, phrases
from pipeline.pages.drawing import ACCENT, BAD, EVEN, GOOD, SOFT, Figure, draw


def figures(rows: list[dict[str, Any]], model: str) -> list[Figure]:
    """Probability, KL and credit over the completion's tokens, each with its numbers."""
    places = range(1, len(rows) + 1)

    def table(*names: str) -> list[list[Any]]:
        return [[i, row["text"], *(row[name] for name in names)] for i, row in zip(places, rows, strict=True)]

    def per_token(name: str) -> list[float]:
        return [row[name] for row in rows]

    def probability(axes: Any) -> None:
        axes.plot(places, per_token("reference"), color=EVEN, marker=".", linestyle="--", label="sft")
        axes.plot(places, per_token("logprob"), color=ACCENT, marker=".", label=model)
        axes.set(xlabel=phrase("token"), ylabel=phrase("log-probability, nats"))
        axes.legend()

    def kl(axes: Any) -> None:
        axes.bar(places, per_token("kl"), color=[ACCENT if k > 0 else EVEN for k in per_token("kl")])
        axes.plot(
            places,
            per_token("kl_whole"),
            color=SOFT,
            marker=".",
            linewidth=1,
            label=phrase("of the whole distribution"),
        )
        axes.set(xlabel=phrase("token"), ylabel=phrase("nats"))
        axes.legend()

    def credit(axes: Any) -> None:
        axes.bar(places, per_token("reward"), color=[GOOD if r > 0 else BAD for r in per_token("reward")], alpha=0.6)
        axes.axhline(0, color=SOFT, linewidth=1)
        if rows[0]["value"] is not None:
            axes.plot(places, per_token("value"), color=EVEN, linestyle="--", label=phrase("value"))
            axes.plot(places, per_token("advantage"), color=ACCENT, label=phrase("advantage"))
            axes.legend()
        axes.set(xlabel=phrase("token"), ylabel=phrase("reward"))

    return [
        Figure(
            phrase("Log-probability"),
            phrase("Of each token under {model} and sft.", model=model),
            draw(
                "probability", phrase("log-probability of each token under {model} and sft", model=model), probability
            ),
            (*phrases("token", "text"), model, "sft", phrase("entropy")),
            table("logprob", "reference", "entropy"),
        ),
        Figure(
            "KL",
            phrase(
                "Bars: log p less log p by sft of the token said (k1, may be negative), which the reward pays for. Line: KL of the whole distribution at that step, never negative."
            ),
            draw("kl", phrase("KL from {model} and sft at each token", model=model), kl),
            (*phrases("token", "text"), "k1", phrase("whole")),
            table("kl", "kl_whole"),
        ),
        Figure(
            phrase("Credit"),
            phrase(
                "Bars: the reward of each token, −kl_coef times the KL of the token said, with the score on the last. Lines: what the critic expected, and the advantage (GAE), before whitening."
            ),
            draw("credit", phrase("reward, value and advantage of each token"), credit),
            phrases("token", "text", "reward", "value", "advantage", "return"),
            table("reward", "value", "advantage", "return"),
        ),
    ]
