"""What is asked? A held-out prompt by its id, or a text; and whether that text is like what this run's models were trained on."""

import re
from collections.abc import Sequence
from pathlib import Path

from data.schema import Prompt
from data.units import count_words, is_spaceless
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.language import fixed, phrase
from pipeline.rows.published import columns_of, prompts
from pipeline.settings.config import Config
from pipeline.waiting import watched
from policies.template import PromptText, show_prompt
from reward.functions import resolve
from reward.verifiers import wrong

SHOWN = 5  # of the run's prompts
RARE = 0.05  # share of the run's prompts below which a habit is not theirs
# Behind a full-width mark a quotation or bracket may close.
ENDS = re.compile(r"[.!?…]$|[。！？｡…][”’」』）》】]*$")


def find_prompt(run: Run, prompt: str, chat: bool = False) -> tuple[str, PromptText]:
    """(id, prompt): the held-out prompt of that id, or the text itself, as a user's message where the run's prompts are conversations
    or `chat` asks for it."""
    if not prompt.strip():
        raise ArtifactError("the prompt is empty; give a text, or the id of a held-out prompt")
    held_out = prompts(run, "eval")
    for known in held_out:
        if known.id == prompt:
            return known.id, known.prompt
    if chat or (held_out and not isinstance(held_out[0].prompt, str)):
        return prompt, [{"role": "user", "content": prompt}]
    return prompt, prompt


def check_checkable(config: Config, run: Run, asked: PromptText) -> None:
    """Raise ArtifactError where a verifier among ppo.reward_funcs finds no row of the run behind this prompt that it could check by."""
    columns = {name: values[0] for name, values in columns_of(run)([asked]).items()}
    some = [one.prompt if isinstance(one.prompt, str) else one.id for one in prompts(run, "eval")[:SHOWN]]
    told = []
    for name in config.ppo.reward_funcs:
        if ":" not in name or Path(name).exists():
            continue
        with watched(f"the import of reward function {name}"):
            said = wrong(resolve(name), columns)
        if said is not None:
            told.append(f"{name} cannot check an answer to this prompt: {said.partition(';')[0]}")
    if told:
        raise ArtifactError(
            f"inspect: {', and '.join(told)}; ask what run {run.name} asks, as its text or id, such as {', '.join(map(repr, some))}"
        )


def unlike(asked: PromptText, held_out: Sequence[Prompt]) -> list[str]:
    """In which ways a prompt is none of this run's kind, each as what follows "it"; nothing where it may be one of them."""
    if not held_out or any(asked == one.prompt for one in held_out):
        return []
    if isinstance(asked, str) != isinstance(held_out[0].prompt, str):
        return [phrase("is a conversation, and this run's prompts are plain texts")]
    text, known = show_prompt(asked).strip(), [show_prompt(one.prompt).strip() for one in held_out]
    words, lengths = count_words(text), sorted(map(count_words, known))
    said = []
    theirs = phrase("{low} to {high}" if lengths[0] < lengths[-1] else "all {low}", low=lengths[0], high=lengths[-1])
    by_characters, by_words = fixed("characters: {own}, theirs {theirs}"), fixed("words: {own}, theirs {theirs}")
    counted = by_characters if is_spaceless([text, *known]) else by_words
    figures = phrase(counted, own=words, theirs=theirs)
    if 2 * words < lengths[0]:  # a word more or less is no other kind
        said.append(phrase("is far shorter than any of them ({figures})", figures=figures))
    if words >= 2 * lengths[-1]:
        said.append(phrase("is far longer than any of them ({figures})", figures=figures))
    ending = sum(map(_ends, known)) / len(known)
    if _ends(text) and ending < RARE:
        said.append(
            phrase(
                "ends as a sentence does, which {share:.0%} of theirs do: there may be nothing left to say",
                share=ending,
            )
        )
    if not _ends(text) and 1 - ending < RARE:
        said.append(phrase("does not end as a sentence does, which {share:.0%} of theirs do", share=ending))
    return said


def _ends(text: str) -> bool:
    return ENDS.search(text) is not None


def advice(run: Run, asked: PromptText) -> tuple[str, list[str]]:
    """A sentence on how the prompt is unlike this run's, with what helps, and some of the run's prompts; ("", []) where it is not."""
    held_out = prompts(run, "eval")
    ways = unlike(asked, held_out)
    if not ways:
        return "", []
    some = [show_prompt(one.prompt) for one in held_out[:: max(1, len(held_out) // SHOWN)]][:SHOWN]
    if isinstance(asked, str):
        helps = phrase("ask as they do, or with CHAT=1, which sends the text through the chat template")
    else:
        helps = phrase("ask as they do")
    told = ways[0]
    for way in ways[1:]:
        told = phrase("{ways}; it {way}", ways=told, way=way)
    return (
        phrase(
            "This prompt is unlike those of run {run}: it {ways}. The answer may mean little; {helps}.",
            run=run.name,
            ways=told,
            helps=helps,
        ),
        some,
    )
