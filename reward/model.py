"""What is a completion worth? Text in, normalised score out, by a reward model with its own tokenizer."""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftModel
from torch import Tensor

from policies.backbone import BackboneError, load_classifier
from policies.blueprint import readable
from policies.precision import Held
from policies.quick.batching import together
from policies.quick.moving import moved, with_lengths
from policies.quick.packing import packs
from policies.template import PromptText
from policies.tokenizers import TemplateValue, load_tokenizer
from policies.told import tell
from policies.trials import reason, rounded_in, same_scores
from policies.untyped import AnyFunction, Json, Model, Tokenizer
from reward.rendering import Manner, Row, ScoringError, foreign_manner, own_manner, render

CONTRACT_FILE = "scoring.json"
UNLIMITED = 1_000_000  # tokens: what tokenizers that know no limit say is far above
# input_ids, attention_mask (B, L) and, where rows have them, token_type_ids -> (B,) raw scores
Forward = AnyFunction


@dataclass(frozen=True)
class Scorer:
    """`score(prompts, completions) -> (B,) float32`: raw scores brought to mean 0 and standard deviation 1 on sft samples."""

    forward: Forward
    tokenizer: Tokenizer
    mean: float = 0.0
    std: float = 1.0
    max_length: int = 512
    batch_size: int = 32
    device: torch.device | str = "cpu"
    padding: bool = True  # whether padded tokens cost anything
    manner: Manner = "completion"
    counts: Counter[str] = field(default_factory=Counter, compare=False)  # "texts" that were scored, and of them "cut"

    def row(self, prompt: PromptText, completion: str) -> Row:
        """What the model reads of a prompt and a completion. Raises ScoringError."""
        return render(self.tokenizer, self.manner, prompt, completion, self.max_length)

    @torch.no_grad()
    def raw(
        self, prompts: Sequence[PromptText], completions: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> Tensor:
        """Raw scores (B,) float32, on the CPU; texts of like length are run together."""
        rows = [self.row(p, c) for p, c in zip(prompts, completions, strict=True)]
        self.counts.update(texts=len(rows), cut=sum(row.cut for row in rows))
        lengths = [len(row.ids) for row in rows]
        order, parts = list[int](), list[Tensor]()
        for picked in together(lengths, self.batch_size * max(lengths, default=0), self.padding):
            inputs = moved(padded([rows[i] for i in picked], self.tokenizer.pad_token_id), self.device)
            with_lengths(inputs[1], [lengths[i] for i in picked])
            parts.append(self.forward(*inputs).float())
            order += picked
            if progress is not None:
                progress(len(picked))
        scores = torch.empty(len(rows))
        if parts:
            scores[order] = torch.cat(parts).cpu()
        return scores

    def __call__(
        self, prompts: Sequence[PromptText], completions: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> Tensor:
        return (self.raw(prompts, completions, progress) - self.mean) / self.std


def padded(rows: Sequence[Row], pad_id: int) -> tuple[Tensor, ...]:
    """Rows as input_ids and attention_mask (B, L) int64, padded on the right, and token_type_ids where they have some."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids, mask, types = (
        torch.full(shape, pad_id),
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
    )
    for line, row in enumerate(rows):
        ids[line, : len(row.ids)] = torch.tensor(row.ids)
        mask[line, : len(row.ids)] = 1
        types[line, : len(row.ids)] = torch.tensor(row.types or 0)
    return (ids, mask) if rows[0].types is None else (ids, mask, types)


def forward_of(model: Model) -> Forward:
    """Raw scores (B,) by a sequence classifier; of token types what it knows."""
    known = takes_types(model)

    def forward(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        more = {"token_type_ids": token_type_ids} if known and token_type_ids is not None else {}
        scores: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, **more).logits[:, 0]
        return scores

    return forward


def takes_types(model: Model) -> bool:
    """Whether a model tells the first of two texts from the second by token types; one with an adapter does as its base does."""
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    return (
        "token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(model.config, "type_vocab_size", 2) != 1
    )


def write_contract(
    folder: Path,
    *,
    mean: float,
    std: float,
    max_length: int,
    tokenizer: Tokenizer,
    template: str,
) -> None:
    """Write scoring.json: what else than weights it takes to get the same score. `template` is the fingerprint of template.py."""
    contract = {
        "mean": mean,
        "std": std,
        "max_length": max_length,
        "template": template,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rendering": own_manner(tokenizer),
        "rule": "prompt and completion rendered as reward/rendering.py says; (score - mean) / std",
    }
    (folder / CONTRACT_FILE).write_text(json.dumps(contract, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _contract_file(path: str | Path) -> Path | None:
    """The contract in a folder, or of a Hub id; None where there is none."""
    if Path(path).is_dir():
        file = Path(path) / CONTRACT_FILE
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(str(path), CONTRACT_FILE))
    except LocalEntryNotFoundError:
        tell(f"{path}: the Hub is not there to ask for its {CONTRACT_FILE}; its scores are taken as they are")
    except EntryNotFoundError:
        pass
    return None


def read_contract(folder: str | Path) -> dict[str, Json]:
    """scoring.json of a reward artifact, in a folder or on the Hub, or an empty dict for a model from elsewhere. Raises ScoringError if it
    is damaged."""
    path = _contract_file(folder)
    if path is None:
        return {}
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
        if not contract["std"] > 0:
            raise ValueError("std must be above 0")
        float(contract["mean"])
    except (ValueError, KeyError, TypeError) as error:
        raise ScoringError(f"{path}: not a scoring contract ({error}); train the reward model again") from None
    return contract


@dataclass(frozen=True)
class Reading:
    """What a reward model reads, before its weights are: with which tokenizer, in what manner, how many tokens, on what scale."""

    tokenizer: Tokenizer
    manner: Manner
    max_length: int
    mean: float = 0.0
    std: float = 1.0


def reading_of(path: str | Path, chat_template_kwargs: Mapping[str, TemplateValue] | None = None) -> Reading:
    """How the reward model in a folder or Hub id reads: by its contract if it has one, else by what its tokenizer and config say.

    Scores of a model without scoring.json are taken as they are (mean 0, std 1). Raises BackboneError or ScoringError.
    """
    tokenizer = load_tokenizer(path, scores=True, chat_template_kwargs=chat_template_kwargs, foreign=True)
    contract = read_contract(path)
    limit = min(tokenizer.model_max_length, readable(path) or UNLIMITED)
    if not contract:
        return Reading(tokenizer, foreign_manner(tokenizer), limit)
    # a contract of before says nothing of it: a pair was rendered where the tokenizer had no EOS
    manner = contract.get("rendering", "pair" if tokenizer.eos_token_id is None else "completion")
    limit = min(int(contract.get("max_length", limit)), limit)
    return Reading(tokenizer, manner, limit, float(contract["mean"]), float(contract["std"]))


def load_scorer(
    path: str | Path,
    how: torch.dtype | Held,
    device: torch.device,
    batch_size: int,
    chat_template_kwargs: Mapping[str, TemplateValue] | None = None,
) -> Scorer:
    """A reward model from a folder or a Hub id, of any architecture that AutoModelForSequenceClassification knows, with its own tokenizer.

    It reads as `reading_of` says. Raises BackboneError or ScoringError, also where a first text cannot be scored.
    """
    reads = reading_of(path, chat_template_kwargs)
    model: Model = load_classifier(path, reads.tokenizer, how)
    model.to(device)
    scorer = Scorer(
        forward_of(model),
        reads.tokenizer,
        reads.mean,
        reads.std,
        reads.max_length,
        batch_size,
        device,
        padding=not packs(model),
        manner=reads.manner,
    )
    _try(scorer, path, rounded_in(model))
    return scorer


TRIED = (
    ("The film was", " great, and so was everything that came with it."),
    ("A", " no"),
    ("Name three colours, and say which of them you like best.", " Red, green, blue."),
    ("One, two", ", three, four, five and so on"),
)


def _try(scorer: Scorer, path: str | Path, dtype: torch.dtype) -> None:
    """Raise BackboneError unless texts get the same scores together and each alone, in states of `dtype`."""
    prompts, said = [p for p, _ in TRIED], [c for _, c in TRIED]
    try:
        both = scorer.raw(prompts, said)
        alone = torch.cat([scorer.raw([p], [c]) for p, c in TRIED])
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{path}: cannot score a prompt and a completion ({reason(error)}); use another reward model"
        ) from error
    finally:
        scorer.counts.clear()
    if not same_scores(both, alone, dtype):
        raise BackboneError(
            f"{path}: scores a text otherwise beside another ({both.tolist()}) than alone ({alone.tolist()}); use another reward model"
        )
