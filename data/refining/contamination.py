"""Which training rows say what an evaluation prompt asks?

A model that has seen the question, or long passages of it, is not evaluated but remembered. Overlap is counted in
n-grams of words, 13 by custom (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C).
"""

from collections.abc import Iterable, Iterator, Sequence

from data.refining.split import asked, key_of
from data.schema import AnyRow, Demonstration, Judgement, PromptText, Ranking
from data.units import bare_words

COMMON = 10
"""A phrase of more different training prompts than this is how prompts are worded here, and no sign of having seen one;
NeMo Curator's TaskDecontamination draws the line at the same number (`max_matches`)."""


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation; a character counts as one where its script sets no spaces."""
    return bare_words(text.casefold())


def contaminated(rows: Sequence[AnyRow], prompts: Iterable[PromptText], size: int) -> set[int]:
    """Numbers of the rows that have `size` words in a row from one of `prompts`, in their prompt or running on into one
    of their completions. A prompt of fewer words counts where it is, word by word, the whole prompt of a row.

    What system messages say is not looked at, nor phrases that stand in more than COMMON different prompts of `rows`.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    phrases: set[str] = set()
    ends: set[tuple[str, str]] = set()
    whole: set[str] = set()
    for prompt in prompts:
        spoken = words(asked(prompt))
        starts = range(len(spoken) - size + 1)
        phrases.update(" ".join(spoken[start : start + size]) for start in starts)
        ends.update((spoken[start], spoken[start + size - 1]) for start in starts)
        if 0 < len(spoken) < size:
            whole.add(" ".join(spoken))
    found: dict[int, set[str]] = {}
    having: dict[str, set[str]] = {}
    repeated: set[int] = set()
    for number, row in enumerate(rows):
        spoken = words(asked(row.prompt))
        if " ".join(spoken) in whole:
            repeated.add(number)
        elif shared := phrases.intersection(_phrases(row, spoken, size, ends)):
            found[number] = shared
            for phrase in shared:
                having.setdefault(phrase, set()).add(key_of(row))
    telling = {phrase for phrase, keys in having.items() if len(keys) <= COMMON}
    return repeated | {number for number, shared in found.items() if shared & telling}


def _phrases(row: AnyRow, spoken: list[str], size: int, ends: set[tuple[str, str]]) -> Iterator[str]:
    """All of a row's phrases whose first and last word are those of one that is looked for."""
    answers = [row.completion] if isinstance(row, Demonstration | Judgement) else []
    if isinstance(row, Ranking):
        answers = [one.text for one in row.completions]
    end = spoken[-(size - 1) :] if size > 1 else []
    for said in (spoken, *(end + words(answer) for answer in answers)):
        pairs = zip(said, said[size - 1 :], strict=False)
        if not ends.isdisjoint(pairs):
            for start in range(len(said) - size + 1):
                if (said[start], said[start + size - 1]) in ends:
                    yield " ".join(said[start : start + size])
