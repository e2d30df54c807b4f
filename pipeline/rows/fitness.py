"""Can the model read a row as it stands, and tell its answers apart? One judgement for stage data and for data-check.

A row that cannot be learned from is either told, with file and line, and may be set aside by `data.skip_bad`, or left out by
name: blank once it is cleaned, or a ranking whose answers are equal once they are cut.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from data.refining import clean
from data.refining.across import Across
from data.schema import AnyRow, Completion, DataError, Demonstration, Judgement, Problem, PromptText, Ranking
from pipeline.settings.config import Data

Encode = Callable[[PromptText, str | None], list[int]]
CONTROL, REFUSED, TOO_LONG, CONTRARY = "control_tokens", "refused", "too_long", "contradicting"
ELSEWHERE = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|endofprompt|>", "<|eom_id|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
)
"""Control tokens of wide-spread chat templates: a text with one was rendered before, whatever model reads it now."""
OVERHEAD = 64
"""Tokens that a tokenizer may make beyond the bytes of a text; a text is never more than that longer in tokens."""


class SetAside(NamedTuple):
    """A row that is told, and what is wrong with it; `reason` is the name under which it is counted."""

    reason: str
    problem: Problem
    row: AnyRow

    def to_json(self) -> dict[str, Any]:
        file, line, why = self.problem.file, self.problem.line, self.problem
        said = f"{why.field}: {why.problem}; {why.fix}"
        return {"row": self.row.to_json(), "file": file, "line": line, "reason": said}


def allowed(reason: str, settings: Data) -> bool:
    """Whether such rows are set aside without a stop."""
    return settings.skip_bad or (reason == TOO_LONG and settings.clean.too_long == "drop")


def refuse(aside: Iterable[SetAside], settings: Data, read: int) -> None:
    """Raises DataError with every row that was set aside and may not be, where there is any; `read` rows were read."""
    told = [one for one in aside if not allowed(one.reason, settings)]
    if told:
        raise DataError([one.problem for one in told], aside=(len({one.row.source for one in told}), read))


def problem_of(row: AnyRow, field: str, what: str, fix: str) -> Problem:
    file, _, line = row.source.rpartition(":")
    return Problem(file or row.source, int(line) if line.isdigit() else None, field, what, fix)


# Control tokens


class Marks:
    """The control tokens of a tokenizer and of wide-spread chat templates, and what is done about them in a text."""

    def __init__(self, tokenizer: Any, settings: Data):
        self.how = settings.special_tokens
        own = set() if tokenizer is None else _control_tokens(tokenizer)
        self.pattern = re.compile("|".join(map(re.escape, sorted(own | {*ELSEWHERE}, key=len, reverse=True))))

    def of(self, row: AnyRow) -> tuple[AnyRow, Problem | None]:
        """The row without them, where they are to be stripped, or what is wrong with it."""
        found = None if self.how == "keep" else self._first(row)
        if found is None:
            return row, None
        if self.how == "strip":
            return rewritten(row, self._without), None
        field, token = found
        fix = "take it out, or set data.special_tokens=strip to take all of them out, or keep to leave them in"
        return row, problem_of(row, field, f'it holds "{token}", a control token of a chat template', fix)

    def _first(self, row: AnyRow) -> tuple[str, str] | None:
        for field, text in texts_of(row):
            if found := self.pattern.search(text):
                return field, found.group()
        return None

    def _without(self, text: str) -> str:
        # What is left may be a token again: <|im_<|im_end|>end|>.
        while (less := self.pattern.sub("", text)) != text:
            text = less
        return text


def _control_tokens(tokenizer: Any) -> set[str]:
    """Texts that the tokenizer takes for one special token each, but for the one that stands for what it does not know."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = {token for token in added | {*tokenizer.all_special_tokens} if token.strip()}
    return found - ({tokenizer.unk_token} - {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token})


def texts_of(row: AnyRow) -> Iterator[tuple[str, str]]:
    """Every text of a row with the field it stands in."""
    if isinstance(row.prompt, str):
        yield "prompt", row.prompt
    else:
        for place, turn in enumerate(row.prompt):
            yield f"prompt[{place}].content", turn["content"]
    if isinstance(row, Demonstration | Judgement):
        yield "completion", row.completion
    if isinstance(row, Ranking):
        for place, one in enumerate(row.completions):
            yield f"completions[{place}]", one.text


def rewritten(row: AnyRow, better: Callable[[str], str]) -> AnyRow:
    """The row with every text made better."""
    prompt: PromptText = (
        better(row.prompt)
        if isinstance(row.prompt, str)
        else [{**turn, "content": better(turn["content"])} for turn in row.prompt]
    )
    if isinstance(row, Demonstration | Judgement):
        return replace(row, prompt=prompt, completion=better(row.completion))
    if isinstance(row, Ranking):
        return replace(row, prompt=prompt, completions=tuple(_better(one, better) for one in row.completions))
    return replace(row, prompt=prompt)


def _better(one: Completion, better: Callable[[str], str]) -> Completion:
    return replace(one, text=better(one.text))


# Lengths in tokens


def encoder(tokenizer: Any) -> Encode:
    """Token ids of a prompt, or of a prompt and a completion. A ranking asks several times in a row for one prompt."""
    from policies.template import encode_completion, encode_prompt

    last: list[Any] = [None, []]

    def encode(prompt: PromptText, completion: str | None) -> list[int]:
        if last[0] is not prompt:
            last[:] = [prompt, encode_prompt(tokenizer, prompt)]
        ids: list[int] = last[1]
        return ids if completion is None else ids + encode_completion(tokenizer, prompt, completion)

    return encode


def unfit(row: AnyRow, encode: Encode, settings: Data) -> tuple[str, Problem | None]:
    """What keeps the model from reading the row's prompt and answering it, under its reason."""
    room = settings.min_completion_tokens + 1
    try:
        length = len(encode(row.prompt, None))
    except ValueError as error:
        return REFUSED, problem_of(row, "prompt", str(error), "or set another model, or data.skip_bad=true")
    if length == 0:
        return REFUSED, problem_of(row, "prompt", "it has no tokens", "take the row out, or set data.skip_bad=true")
    if length > settings.max_length - room:
        what = f"it is {length} tokens long and leaves no room within max_length {settings.max_length}"
        return TOO_LONG, problem_of(
            row, "prompt", what, "shorten it, raise data.max_length, or set data.clean.too_long=drop"
        )
    return "", None


def told_apart(rows: Sequence[Ranking], encode: Encode, limit: int) -> tuple[list[Ranking], int]:
    """Rankings without completions that are equal once they are cut to `limit` tokens, and how many completions went."""
    return clean.equal_after_truncation(rows, encode, limit)


def may_be_cut(row: Ranking, prompt_tokens: int, limit: int) -> bool:
    """Whether a completion may be longer than what is left of `limit`: it has hardly more tokens than bytes."""
    return any(prompt_tokens + len(one.text.encode("utf-8", "replace")) + OVERHEAD > limit for one in row.completions)


# Between rows


class Contradictions:
    """Rankings that go against one before them, once they are cleaned."""

    def __init__(self) -> None:
        self.across = Across()

    def add(self, number: int, row: AnyRow) -> None:
        """`number` counts rows from 0 and grows."""
        if isinstance(row, Ranking):
            file, _, line = row.source.rpartition(":")
            # Ids were looked at when the rows were read.
            self.across.add(number, replace(row, id=row.source), file or row.source, int(line) if line.isdigit() else 0)

    def problems(self) -> list[tuple[int, Problem]]:
        try:
            return list(self.across.problems())
        finally:
            self.across.close()
