"""What is a completion worth? Text in, normalised score out, by a reward model with its own tokenizer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from policies.backbone import load_classifier
from policies.precision import Held
from policies.quick.batching import together
from policies.quick.moving import moved, with_lengths
from policies.quick.packing import packs
from policies.template import PromptText, encode_completion, encode_prompt, show_prompt
from policies.tokenizers import load_tokenizer
from policies.untyped import Json, Model, Tokenizer

CONTRACT_FILE = "scoring.json"
Forward = Callable[[Tensor, Tensor], Tensor]  # input_ids, attention_mask (B, L) -> (B,) raw scores


class ScoringError(Exception):
    """A folder that cannot score; the message names the remedy."""


def render(tokenizer: Tokenizer, prompt: PromptText, completion: str, max_length: int) -> list[int]:
    """Token ids that a reward model scores: prompt, completion and EOS, the first `max_length` of them.

    An encoder, whose tokenizer closes a text with [SEP] rather than EOS, gets prompt and completion as its text pair.
    Raises ScoringError where the tokenizer's chat template refuses the messages of a prompt.
    """
    if tokenizer.eos_token_id is None:
        return list(tokenizer(show_prompt(prompt), completion, truncation=True, max_length=max_length)["input_ids"])
    try:
        return (encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, prompt, completion))[:max_length]
    except ValueError as error:
        raise ScoringError(f"{error}, or use another reward model") from error


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

    @torch.no_grad()
    def raw(
        self, prompts: Sequence[PromptText], completions: Sequence[str], progress: Callable[[int], object] | None = None
    ) -> Tensor:
        """Raw scores (B,) float32, on the CPU; texts of like length are run together."""
        rows = [render(self.tokenizer, p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        lengths = [len(row) for row in rows]
        order, parts = list[int](), list[Tensor]()
        for picked in together(lengths, self.batch_size * max(lengths, default=0), self.padding):
            width = max(len(rows[i]) for i in picked)
            input_ids = torch.full((len(picked), width), self.tokenizer.pad_token_id)
            attention_mask = torch.zeros((len(picked), width), dtype=torch.long)
            for line, i in enumerate(picked):
                input_ids[line, : len(rows[i])] = torch.tensor(rows[i])
                attention_mask[line, : len(rows[i])] = 1
            ids, mask = moved((input_ids, attention_mask), self.device)
            parts.append(self.forward(ids, with_lengths(mask, [lengths[i] for i in picked])).float())
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


def write_contract(
    folder: Path, *, mean: float, std: float, max_length: int, tokenizer: Tokenizer, template: str
) -> None:
    """Write scoring.json: what else than weights it takes to get the same score. `template` is the fingerprint of template.py."""
    contract = {
        "mean": mean,
        "std": std,
        "max_length": max_length,
        "template": template,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rule": "prompt, completion, EOS; score at the last token; (score - mean) / std",
    }
    (folder / CONTRACT_FILE).write_text(json.dumps(contract, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_contract(folder: str | Path) -> dict[str, Json]:
    """scoring.json of a reward artifact, or an empty dict for a model from elsewhere. Raises ScoringError if it is damaged."""
    path = Path(folder) / CONTRACT_FILE
    if not path.is_file():
        return {}
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
        if not contract["std"] > 0:
            raise ValueError("std must be above 0")
        float(contract["mean"])
    except (ValueError, KeyError, TypeError) as error:
        raise ScoringError(f"{path}: not a scoring contract ({error}); train the reward model again") from None
    return contract


def load_scorer(
    path: str | Path, how: torch.dtype | Held, device: torch.device, max_length: int, batch_size: int
) -> Scorer:
    """A reward model from a folder or a Hub id, of any architecture that AutoModelForSequenceClassification knows, with its own tokenizer.

    Scores of a model without scoring.json are taken as they are (mean 0, std 1).
    """
    tokenizer = load_tokenizer(path, scores=True)
    model: Model = load_classifier(path, tokenizer, how)
    model.to(device)
    contract = read_contract(path)
    return Scorer(
        forward=lambda input_ids, attention_mask: model(input_ids=input_ids, attention_mask=attention_mask).logits[
            :, 0
        ],
        tokenizer=tokenizer,
        mean=float(contract.get("mean", 0.0)),
        std=float(contract.get("std", 1.0)),
        max_length=int(contract.get("max_length", max_length)),
        batch_size=batch_size,
        device=device,
        padding=not packs(model),
    )
