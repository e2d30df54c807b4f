"""Are sound rows the right ones to learn from? What would teach something else than people's preference, each with its remedy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data.schema import AnyRow
from data.units import spaceless_letters
from pipeline.data_check.figures import completions_of
from pipeline.language import fixed, phrase

ENOUGH = 20  # rows or pairs from which a share says something
LENGTH = 0.8  # of pairs that the longer, or the shorter, answer surely wins
ALIKE = 0.9  # of the rows whose prompt stood before, or resembles one before
HALF = 0.5


def doubts(result: Mapping[str, Any], glued: float | None) -> list[str]:
    """One sentence each, for a result of `check.check` whose rows are sound. `glued` is the share of `glued_share`."""
    return [sentence for sentence in (*_length(result), *_prompts(result), *_glued(glued), *_lost(result)) if sentence]


def glued_share(rows: Sequence[AnyRow], tokenizer: Any) -> float | None:
    """The share of answers to prompts that are plain texts which begin right at the prompt's last letter, where the model has a chat
    template that these texts do not go through; None where nothing can be said."""
    texts = [row for row in rows if isinstance(row.prompt, str) and row.prompt and completions_of(row)]
    if len(texts) < ENOUGH or getattr(tokenizer, "chat_template", None) is None:
        return None
    glued = [_glues(str(row.prompt), completions_of(row)) for row in texts]
    return sum(glued) / len(glued)


def _glues(prompt: str, completions: Iterable[str]) -> bool:
    """Not where the answer begins in a script that sets no spaces: there none is missing."""
    return not prompt[-1].isspace() and all(
        text[:1].isalnum() and not spaceless_letters(text[:1]) for text in completions
    )


def _length(result: Mapping[str, Any]) -> Iterable[str]:
    found = result["longer_wins"]
    if not found or found["pairs"] < ENOUGH:
        return
    for share, word in ((found["low"], fixed("longer")), (1 - found["high"], fixed("shorter"))):
        if share >= LENGTH:
            yield phrase(
                "The {word} answer wins in {rate:.1%} of pairs: a reward model can learn length and nothing else; add pairs in which "
                "it loses, or add reward.functions:brevity_penalty to ppo.reward_funcs",
                word=phrase(word),
                rate=found["win_rate"] if word == "longer" else 1 - found["win_rate"],
            )


def _prompts(result: Mapping[str, Any]) -> Iterable[str]:
    rows, near = result["duplicates"], result["near_duplicates"]
    if rows["of"] >= ENOUGH and rows["prompts_again"] >= ALIKE * rows["of"]:
        yield phrase(
            "{rows:,} rows have {prompts:,} different prompts: what is learned is how to answer these; add rows with other prompts",
            rows=rows["of"],
            prompts=rows["prompts"],
        )
    elif (
        near
        and near["prompts"]["different"] >= ENOUGH
        and near["prompts"]["near"] >= ALIKE * near["prompts"]["different"]
    ):
        yield phrase(
            "{near:,} of {prompts:,} prompts are nearly alike: held-out prompts will be those of training; add other prompts, or take "
            "what all have in common out of them",
            near=near["prompts"]["near"],
            prompts=near["prompts"]["different"],
        )


def _glued(share: float | None) -> Iterable[str]:
    if share is not None and share >= HALF:
        yield phrase(
            "{share:.0%} of the answers begin right at the last letter of a text prompt, and this model was tuned for chat: set "
            "data.chat=true, which sends text prompts through its template, or end the prompts with a space or a line break",
            share=share,
        )


def _lost(result: Mapping[str, Any]) -> Iterable[str]:
    rejected = sum(result["rejected"].values())
    if result["read"] >= 2 and rejected >= HALF * result["read"]:
        yield phrase(
            "{rejected:,} of {rows:,} rows are rejected: mend them, or the rest may be no fair sample of them",
            rejected=rejected,
            rows=result["read"],
        )
    lengths = result["lengths"]
    if not lengths:
        return
    if lengths["prompts"] >= 2 and HALF <= lengths["no_room"] / lengths["prompts"] < 1:
        yield phrase(
            "{no_room:,} of {prompts:,} prompts leave no room within data.max_length {limit:,}: raise it",
            no_room=lengths["no_room"],
            prompts=lengths["prompts"],
            limit=lengths["max_length"],
        )
    if lengths["completions"] >= 2 and lengths["cut"] >= HALF * lengths["completions"]:
        yield phrase(
            "{cut:,} of {answers:,} answers lose their end at data.max_length {limit:,}: raise it",
            cut=lengths["cut"],
            answers=lengths["completions"],
            limit=lengths["max_length"],
        )
