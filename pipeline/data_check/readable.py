"""Which rows would stage data refuse or leave out, once the model's tokenizer is known?

The rules are those of `pipeline/rows/fitness.py`; here they are applied to one row at a time, as rows are read.
"""

from typing import Any

from data.forms.account import Account
from data.refining import clean
from data.schema import AnyRow, Problem, Ranking
from pipeline.artifacts.embedded import CACHE
from pipeline.graph import PRETRAINED
from pipeline.rows import fitness
from pipeline.settings.config import EMBEDDED_MODEL, TINY_MODEL, Config
from pipeline.training.context import base_model

BLANK = "blank once cleaned"
EQUAL, CUT = "answers equal once cleaned", "answers equal once cut to max_length"


class Readable:
    """The tokenizer and the rules, made when the first row asks for them: bad data is told without that wait."""

    def __init__(self, config: Config, model: str | None):
        self.config, self.model = config, model
        self.steps = clean.Steps(**config.data.clean.model_dump(exclude={"decontaminate", "too_long"}))
        self.tokenizer: Any = None
        self.told: dict[str, str] | None = None
        self.marks: fitness.Marks | None = None
        self.encode: fitness.Encode | None = None

    def ready(self) -> None:
        if self.told is None:
            self.tokenizer, self.told = tokenizer_of(self.config, self.model)
            self.marks = fitness.Marks(self.tokenizer, self.config.data)
            self.encode = None if self.tokenizer is None else fitness.encoder(self.tokenizer)

    def of(self, row: AnyRow) -> tuple[AnyRow | None, str, Problem | None]:
        """(the row as it would be learned from, the name under which it goes, what is to be told of it)."""
        self.ready()
        assert self.marks is not None
        marked, problem = self.marks.of(row)
        if problem is not None:
            return None, fitness.CONTROL, problem
        cleaned, reason = clean.single(marked, self.steps)
        if cleaned is None:
            return None, BLANK if reason == "blank" else EQUAL, None
        if self.encode is None:
            return cleaned, "", None
        reason, problem = fitness.unfit(cleaned, self.encode, self.config.data)
        if problem is not None:
            return cleaned, reason, problem
        limit = self.config.data.max_length
        if isinstance(cleaned, Ranking) and fitness.may_be_cut(cleaned, len(self.encode(cleaned.prompt, None)), limit):
            left, _ = fitness.told_apart([cleaned], self.encode, limit)
            return cleaned, "" if left else CUT, None
        return cleaned, "", None


class Judged:
    """What became of the rows that were read, by their numbers, until the account can be settled."""

    def __init__(self, readable: Readable):
        self.readable = readable
        self.settings = readable.config.data
        self.against = fitness.Contradictions()
        self.aside: dict[int, tuple[str, Problem | None, str]] = {}
        self.gone: set[int] = set()

    def take(self, number: int, row: AnyRow) -> AnyRow | None:
        """The row as it would be learned from; None where nothing of it can be."""
        cleaned, reason, problem = self.readable.of(row)
        if reason:
            self.aside[number] = (reason, problem, row.source)
        elif cleaned is not None:
            self.against.add(number, cleaned)
        return cleaned

    def dropped(self, number: int) -> None:
        """The row was refused for what stands in others, and is accounted for already."""
        self.aside.pop(number, None)
        self.gone.add(number)

    def settle(self, account: Account) -> list[int]:
        """Account for the rows that are set aside or left out; the numbers of those that contradict others once cleaned."""
        contrary = [(number, problem) for number, problem in self.against.problems() if number not in self.gone]
        told = {number: (fitness.CONTRARY, problem, problem.file) for number, problem in contrary}
        spoilt: set[str] = set()
        for number, (reason, problem, source) in sorted({**self.aside, **told}.items()):
            account.kept -= 1
            first = source not in spoilt or number in told
            spoilt.add(source)
            if problem is not None and not (reason == fitness.TOO_LONG and self.settings.clean.too_long == "drop"):
                account.used -= first
                account.reject([problem]) if first else account.note([problem])
            elif first:
                account.used -= 1
                account.left_out[reason] += 1
        return [number for number, _ in contrary]


def tokenizer_of(config: Config, model: str | None) -> tuple[Any, dict[str, str]]:
    """The tokenizer that counts, its name, and what is wrong with it.

    By default that of the embedded model if it was made before: to fetch 98 MB is no part of a check.
    """
    # Both import torch, as transformers does for any tokenizer; bad data is told without that wait.
    import transformers

    from policies.backbone import BackboneError
    from policies.tokenizers import load_tokenizer

    transformers.logging.set_verbosity_error()
    name = model or config.model
    folder = CACHE / EMBEDDED_MODEL.partition("@")[0]
    if name in PRETRAINED:  # of no run, as a check is of none
        path = base_model(config.model_copy(update={"model": TINY_MODEL}))
        name = f"{TINY_MODEL}, as stage {name} makes a tokenizer of its own"
    elif name != EMBEDDED_MODEL:
        path = base_model(config.model_copy(update={"model": name}))
    elif (folder / "tokenizer.json").is_file():
        path = str(folder)
    else:
        path = base_model(config.model_copy(update={"model": TINY_MODEL}))
        name = f"{TINY_MODEL} (about twice the tokens of a real one), as {EMBEDDED_MODEL} is not in {CACHE}"
    try:
        given, foreign = config.chat_template_kwargs, name != config.model
        made = load_tokenizer(path, config.revision, chat_template_kwargs=given, foreign=foreign)
        return made, {"name": name, "problem": ""}
    except BackboneError as error:
        return None, {"name": name, "problem": str(error)}
