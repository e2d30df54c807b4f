"""What does a reward model read? Prompt and completion as the tokens that it was trained on.

- completion: our own models, and decoders without a chat template of their own: the prompt, the completion, its end.
- pair: an encoder, whose tokenizer parts two texts with a separator: prompt and completion as its text pair, with its token types.
- conversation: a decoder with a chat template of its own: the whole conversation as that template writes it, a text prompt as a user's turn.
"""

from dataclasses import dataclass
from typing import Literal

from policies.chats import Refused
from policies.chats import render as chat
from policies.framing import plain, tokenized
from policies.template import PLAIN_CHAT, PromptText, encode_completion, encode_prompt, show_prompt
from policies.untyped import Tokenizer

Manner = Literal["completion", "pair", "conversation"]


class ScoringError(Exception):
    """A folder that cannot score; the message names the remedy."""


@dataclass(frozen=True)
class Row:
    """Token ids that are scored, their types where the tokenizer gives some, and whether the text was longer."""

    ids: list[int]
    types: list[int] | None = None
    cut: bool = False


def parts_pairs(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a separator between two texts, or knows no end of a single one, as those of encoders do."""
    if tokenizer.eos_token_id is None:
        return True
    if tokenizer.sep_token_id is None:
        return False
    first, second = plain(tokenizer, "a"), plain(tokenizer, "b")
    between = tokenized(tokenizer, "a", "b")["input_ids"][len(first) : -len(second)]
    return tokenizer.sep_token_id in between


def own_manner(tokenizer: Tokenizer) -> Manner:
    """How stage reward renders for a model with this tokenizer."""
    return "pair" if parts_pairs(tokenizer) else "completion"


def foreign_manner(tokenizer: Tokenizer) -> Manner:
    """How a model from elsewhere reads, which has no contract of ours."""
    own_template = tokenizer.chat_template and not tokenizer.chat_template.endswith(PLAIN_CHAT)
    return "pair" if parts_pairs(tokenizer) else "conversation" if own_template else "completion"


def render(tokenizer: Tokenizer, manner: Manner, prompt: PromptText, completion: str, max_length: int) -> Row:
    """The first `max_length` tokens of what a reward model reads of a prompt and a completion.

    Raises ScoringError where the tokenizer's chat template refuses the messages.
    """
    if manner == "pair":
        return _pair(tokenizer, prompt, completion, max_length)
    try:
        if manner == "conversation":
            asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            said = {"role": "assistant", "content": completion}
            ids = plain(tokenizer, chat(tokenizer, tokenizer.chat_template, [*asked, said], False))
        else:
            ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, prompt, completion)
    except Refused as error:
        raise ScoringError(
            f"the reward model's chat template refuses the messages ({error}); use another reward model"
        ) from error
    except ValueError as error:
        raise ScoringError(f"{error}, or use another reward model") from error
    if getattr(tokenizer, "scores_at_eos", False):
        return _one_end(ids, tokenizer.eos_token_id, max_length)
    return Row(ids[:max_length], cut=len(ids) > max_length)


def _one_end(ids: list[int], eos: int, max_length: int) -> Row:
    """The same for transformers' classifiers on an encoder–decoder, whose score is read at the EOS: it stands at the end, of a text that was
    cut too, and nowhere else."""
    before = [one for one in ids if one != eos]
    return Row([*before[: max_length - 1], eos], cut=len(before) >= max_length)


def _pair(tokenizer: Tokenizer, prompt: PromptText, completion: str, max_length: int) -> Row:
    texts = (show_prompt(prompt), completion)
    whole = tokenized(tokenizer, *texts)
    cut = len(whole["input_ids"]) > max_length
    read = tokenized(tokenizer, *texts, truncation=True, max_length=max_length) if cut else whole
    ids = list(read["input_ids"])
    if getattr(tokenizer, "scores_at_eos", False):
        ids = _as_many_ends(ids, tokenizer.eos_token_id, tokenized(tokenizer, "a", "b")["input_ids"], max_length)
    return Row(ids, list(read["token_type_ids"]) if "token_type_ids" in read else None, cut)


def _as_many_ends(ids: list[int], eos: int, pair: list[int], max_length: int) -> list[int]:
    """The same with as many EOS as any `pair` of texts has, which those classifiers want of rows of a batch: tokenizers take an empty second
    text for none, and a text may hold one."""
    lacking = pair.count(eos) - ids.count(eos)
    if lacking > 0:
        return [*ids[:-1][: max_length - lacking - 1], *[eos] * (lacking + 1)]
    for _ in range(-lacking):
        ids = [*ids[: ids.index(eos)], *ids[ids.index(eos) + 1 :]]
    return ids
