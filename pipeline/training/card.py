"""What does a model card say? Metadata that the Hub shows, the figures that mean something to a reader, and how the model is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from data.reading.sources import ADAPTER
from pipeline.graph import STAGES
from pipeline.settings.config import EMBEDDED_MODEL, TINY_MODEL
from pipeline.settings.data import EMBEDDED_SOURCES

FIGURES = {
    "bits_per_byte_before": "bits a byte of held-out documents, with random weights",
    "bits_per_byte_after": "bits a byte of held-out documents",
    "hidden_bits_per_byte_before": "bits a byte of what is hidden of held-out documents, with random weights",
    "hidden_bits_per_byte_after": "bits a byte of what is hidden of held-out documents",
    "hidden_bits_per_byte_unigram": "the same by the frequency of tokens alone",
    "bits_per_byte_unigram": "the same by the frequency of tokens alone",
    "loss_before": "held-out loss before training, nats a token",
    "loss_after": "held-out loss after training, nats a token",
    "eos_rate": "share of sampled completions that end by themselves",
    "pairwise_accuracy": "share of held-out pairs ordered as people ordered them",
    "length_accuracy": "the same by length alone",
    "human_ceiling": "the same by one of the people",
    "margin": "mean margin between the better and the worse answer",
    "ece": "calibration error of the probabilities of pairs",
    "rankings": "rankings that it learned from",
    "train_pairs": "pairs that it learned from",
    "train_rows": "rows that it learned from",
    "eval/scores_before": "mean score on held-out prompts before training",
    "eval/scores": "mean score on held-out prompts after training",
    "objective/kl": "KL to the sft model, nats a completion",
    "eval/kl": "KL to the sft model on held-out prompts, nats a completion",
    "completions/mean_length": "tokens of a completion",
    "eval/mean_length": "tokens of a completion to a held-out prompt",
    "completions/eos_rate": "share of completions that end by themselves",
    "eval/eos_rate": "share of completions to held-out prompts that end by themselves",
}
"""A stage's figures that its card shows, in words; all others are for whoever trains, and stand in metrics.jsonl and manifest.json."""


@dataclass(frozen=True)
class Base:
    """The base model as the Hub knows it: its id there, or None, and its licence where that is known."""

    hub: str | None
    license: str | None = None


EMBEDDED = Base("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def base_of(model: str) -> Base:
    """What the Hub knows of a recipe's base model, without asking it."""
    if model == EMBEDDED_MODEL:
        return EMBEDDED
    here = model == TINY_MODEL or Path(model).expanduser().exists() or model.count("/") != 1
    return Base(None if here else model)


def datasets_of(sources: Sequence[str]) -> list[str]:
    """The ids on the Hub among a run's sources; files, functions and the embedded reviews have none."""
    names = [source.partition("#")[0].partition("@")[0].partition(":")[0] for source in sources]
    return list(
        dict.fromkeys(
            name
            for name, source in zip(names, sources, strict=True)
            if source not in EMBEDDED_SOURCES
            and name.count("/") == 1
            and not ADAPTER.fullmatch(source)
            and not any(sign in name for sign in "*?[~")
            and not name.startswith((".", "/"))
            and not Path(source.partition("#")[0]).exists()
            and not Path(name).suffix
        )
    )


TASKS = {"causal": "text-generation", "mlm_nsp": "fill-mask", "span": "text2text-generation"}
"""What the Hub calls the task of a model that was made from nothing, by its objective."""
CLASSES = {
    "fill-mask": "AutoModelForMaskedLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
}


def policy(stage: str) -> bool:
    """Whether a stage publishes a policy, and not a reward model."""
    return STAGES[stage].policy


def is_encoder_decoder(folder: Path) -> bool:
    """Whether the model in a published folder is an encoder–decoder, by its config.json."""
    return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder"))


def usage(task: str, name: str) -> str:
    """The lines of Python that load a published model of a task."""
    if task == "text-generation":
        return f'from transformers import pipeline\n\nsay = pipeline("text-generation", model="{name}")'
    told = "  # scoring.json says what it reads, and the scale" if task == "text-classification" else ""
    kind = CLASSES[task]
    return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{name}"){told}'


def card(
    stage: str,
    what: str,
    name: str,
    base: Base,
    metrics: Mapping[str, float],
    *,
    datasets: Sequence[str] = (),
    languages: Sequence[str] = (),
    about: Sequence[str] = (),
    objective: str | None = None,
    encoder_decoder: bool = False,
) -> str:
    """A Hugging Face model card: metadata, `what` as its heading, the paragraphs `about`, how to load `name`, figures. `objective` is that of
    a model made from nothing; `encoder_decoder` is what a policy may be."""
    speaks = TASKS["span" if encoder_decoder else "causal"]
    task = speaks if policy(stage) else "text-classification"
    tags = ["rlhf", stage if policy(stage) else "reward-model"]
    if objective is not None:
        task, tags = TASKS[objective], [stage]
    data = ModelCardData(
        license=base.license,
        base_model=base.hub,
        datasets=list(datasets) or None,
        language=list(languages) or None,
        library_name="transformers",
        pipeline_tag=task,
        tags=tags,
    )
    shown = [f"| {FIGURES[key]} | {metrics[key]:.4g} |" for key in FIGURES if key in metrics]
    table = ["| figure | value |", "|---|---|", *shown] if shown else []
    blocks = [f"# {what}", *about, f"```python\n{usage(task, name)}\n```", "\n".join(table)]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(block for block in blocks if block) + "\n"
