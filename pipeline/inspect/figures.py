"""How do probability, KL and credit go over a completion's tokens? Three drawings, each with its numbers."""

from typing import Any

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
        axes.set(xlabel="token", ylabel="log-probability, nats")
        axes.legend()

    def kl(axes: Any) -> None:
        axes.bar(places, per_token("kl"), color=[ACCENT if k > 0 else EVEN for k in per_token("kl")])
        axes.plot(places, per_token("kl_whole"), color=SOFT, marker=".", linewidth=1, label="of the whole distribution")
        axes.set(xlabel="token", ylabel="nats")
        axes.legend()

    def credit(axes: Any) -> None:
        axes.bar(places, per_token("reward"), color=[GOOD if r > 0 else BAD for r in per_token("reward")], alpha=0.6)
        axes.axhline(0, color=SOFT, linewidth=1)
        if rows[0]["value"] is not None:
            axes.plot(places, per_token("value"), color=EVEN, linestyle="--", label="value")
            axes.plot(places, per_token("advantage"), color=ACCENT, label="advantage")
            axes.legend()
        axes.set(xlabel="token", ylabel="reward")

    said = f"{model} and sft"
    return [
        Figure(
            "Log-probability",
            f"Of each token under {said}.",
            draw("probability", f"log-probability of each token under {said}", probability),
            ("token", "text", model, "sft", "entropy"),
            table("logprob", "reference", "entropy"),
        ),
        Figure(
            "KL",
            "Bars: log p less log p by sft of the token said (k1, may be negative), which the reward pays for. Line: KL of the whole distribution at that step, never negative.",
            draw("kl", f"KL from {said} at each token", kl),
            ("token", "text", "k1", "whole"),
            table("kl", "kl_whole"),
        ),
        Figure(
            "Credit",
            "Bars: the reward of each token, −kl_coef times the KL of the token said, with the score on the last. Lines: what the critic expected, and the advantage (GAE), before whitening.",
            draw("credit", "reward, value and advantage of each token", credit),
            ("token", "text", "reward", "value", "advantage", "return"),
            table("reward", "value", "advantage", "return"),
        ),
    ]
