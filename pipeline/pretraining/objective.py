"""What does an objective have to say? One record each: which special tokens, which model, what a row is, how it is measured."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.gate import Check, below, check
from pipeline.pretraining.tokens import Tokens
from pipeline.settings.pretrain import Pretrain

Rows = Callable[[int, int], dict[str, Any]]
"""(which of the rows, which draw of them all) -> one row, as the collator takes it. The same two numbers give the same row in every process
and after every interruption; what is drawn at random for a row, such as masks, hangs on the draw."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents: each whole, as text and as tokens between what stands before and after every document, and their bytes (UTF-8)."""

    texts: Sequence[str]
    documents: Sequence[list[int]]
    bytes: int


@dataclass(frozen=True)
class Objective:
    """What stage pretrain does not decide by itself."""

    special: Mapping[str, str]
    """The roles of special tokens, as transformers names them, and their texts; they stand first in the vocabulary."""
    around: tuple[tuple[str, ...], tuple[str, ...]]
    """The roles of the tokens that stand before and after every document."""
    config: Callable[[Pretrain, Any], Any]
    """(section, tokenizer) -> transformers' config of the model."""
    kind: Any
    """The class that makes and loads it, such as AutoModelForCausalLM."""
    load: Callable[..., Any]
    """(path, tokenizer, how) -> the model in eval mode, looked at as the stages that go on from it look at it."""
    rows: Callable[[Tokens, Any, Pretrain, int], tuple[Sequence[int], Rows]]
    """(training documents, tokenizer, section, seed) -> the tokens of each row, and what gives one. Raises ArtifactError where there are none."""
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """Rows to the arguments of the model's forward, `labels` among them."""
    measured: Callable[[Any, Any, Pretrain, HeldOut], dict[str, float]]
    """(model, tokenizer, section, held-out documents) -> figures by name, logged as "eval/NAME". Every process is to ask; each measures its share."""
    baselines: Callable[[Tokens, Any, Pretrain, HeldOut], dict[str, float]]
    """(training documents, tokenizer, section, held-out documents) -> the same figures of what has learned next to nothing."""
    said: Callable[[Any, Any, Pretrain, HeldOut, int], list[dict[str, Any]]]
    """(model, tokenizer, section, held-out documents, seed) -> samples: {"prompt", "completion", …}. Every process is to ask."""
    at_end: Callable[[Any, Any, Pretrain, HeldOut, int], dict[str, float]]
    """(model, tokenizer, section, held-out documents, seed) -> further figures of the trained model. Every process is to ask."""
    checks: Callable[[Mapping[str, float]], list[Check]]
    """The stage's figures ("NAME_before", "NAME_after" of `measured`, `baselines`, `at_end`) -> the lines of its gate."""
    shown: Sequence[str]
    """The figures that the closing line tells."""
    card: str
    """What the model card calls the model."""
    encoded: Callable[[Iterable[str], Any], Iterator[list[int]]] | None = None
    """(training texts, tokenizer) -> the tokens of each, where they are more than tokens between those `around`."""
    extra: Sequence[str] = ()
    """Special tokens without a role; they stand behind those that have one."""
    trainer: Any = None
    """A training.RowTrainer of its own, where the loss is not what the model's forward gives."""


LONGER = "train longer (num_train_epochs), raise learning_rate, or give more text"


def check_learned(name: str, bits: str, figures: Mapping[str, float], why: str) -> list[Check]:
    """The lines of a gate that what has learned beats itself before, and one who knows only how often each token stands there: below that it has
    learned something of order. `figures` has `bits` with "_before", "_unigram" and "_after"."""
    before, unigram, after = (figures[f"{bits}_{when}"] for when in ("before", "unigram", "after"))
    return [
        check(name, after, must=below(before, "before training"), why=why),
        check(name, after, must=below(unigram, "by the frequency of tokens alone"), why=why),
    ]


def saved_fresh(objective: Objective, section: Pretrain, tokenizer: Any, folder: Path, seed: int) -> None:
    """Write the model with random weights, which follow from the seed, beside its tokenizer in `folder`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = objective.kind.from_config(objective.config(section, tokenizer), trust_remote_code=False)
    model.save_pretrained(str(folder))
