"""How far may training take a policy? The limits that every stage which trains one holds against, and their checks."""

from pipeline.artifacts.gate import Check, at_most, between, check

KL = at_most(10)  # nats a completion, to the sft model
LENGTH = between(0.7, 1.5)  # mean tokens of a completion, as a multiple of what they were before training
MOST_LENGTH = at_most(3)
MORE = "more episodes, or another learning_rate"  # where a score did not rise


def check_kl(name: str, kl: float, most: float | None = None) -> Check:
    """KL to the sft model, nats; `most` is the limit at which training halts, where there is one."""
    return check(
        name,
        kl,
        must=None if most is None else at_most(most),
        should=KL,
        why="raise the KL's weight, or lower learning_rate",
    )


def check_length(name: str, ratio: float) -> Check:
    return check(name, ratio, must=MOST_LENGTH, should=LENGTH, why="look at the samples: a score may favour length")
