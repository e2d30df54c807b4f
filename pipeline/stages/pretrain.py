"""Stage pretrain: a corpus to a base model and its tokenizer, both from nothing.

    python -m pipeline pretrain recipes/film_reviews.yaml pretrain.source=corpus.txt

Reads as: gather and clean documents, hold some out, learn a vocabulary from the others, write them as tokens, make a model with random
weights, and train it by pretrain.objective with transformers' Trainer. Publishes a folder that plain `from_pretrained` loads. With
model: pretrain every other stage starts from it.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import write_text
from pipeline.artifacts.gate import Gate
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.pretraining import corpus, tokens
from pipeline.pretraining import tokenizer as vocabulary
from pipeline.pretraining.causal import CAUSAL
from pipeline.pretraining.mlm_nsp import MLM_NSP
from pipeline.pretraining.objective import HeldOut, Objective, saved_fresh
from pipeline.pretraining.span import SPAN
from pipeline.pretraining.training import SAMPLES, Heard, RowTrainer, as_page, learn, read
from pipeline.settings.config import Config, Pretrain
from pipeline.training import preflight
from pipeline.training.card import Base, card, datasets_of
from pipeline.training.context import closing, make_accelerator
from pipeline.training.holding import to_train
from pipeline.training.model_folder import save_merged
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report
from policies.template import fingerprint

OBJECTIVES: Mapping[str, Objective] = {"causal": CAUSAL, "mlm_nsp": MLM_NSP, "span": SPAN}


def run(config: Config, run: Run, stage: str = "pretrain") -> Manifest | None:
    accelerator = make_accelerator()
    section: Pretrain = getattr(config, stage)
    objective = OBJECTIVES[section.objective]
    folder = working_folder(run, stage, config)
    texts, fresh = folder / "corpus", folder / "fresh"
    if accelerator.is_main_process:
        documents = corpus.gathered(config, section, texts)
        _prepared(objective, section, documents, fresh, config.seed)
    accelerator.wait_for_everyone()
    tokenizer = vocabulary.opened(fresh)
    train = tokens.opened(fresh)
    held_out = _held_out(objective, section, tokenizer, texts)
    rows = objective.rows(train, tokenizer, section, config.seed)
    sizes = preflight.Rows.of(rows[0], section)
    preflight.of_trainer(stage, config, run, fresh, sizes, kind=objective.kind)
    report = Report(folder, stage, open_trackers(stage, config, run))
    model = objective.load(fresh, tokenizer, to_train(config, accelerator.device, "full")).to(accelerator.device)
    ask = partial(_asked, objective, tokenizer, section, held_out, config.seed)
    before = objective.measured(model, tokenizer, section, held_out)
    model, figures = learn(
        *(
            section,
            model,
            rows,
            objective.collate,
            Heard(section, folder, ask),
            folder,
            accelerator,
            config.seed,
            report,
            objective.trainer or RowTrainer,
        )
    )
    after = objective.measured(model, tokenizer, section, held_out)
    at_end = objective.at_end(model, tokenizer, section, held_out, config.seed)
    if not accelerator.is_main_process:
        return None
    made = folder / "made"
    save_merged(made, model, tokenizer)
    metrics = {
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        **objective.baselines(train, tokenizer, section, held_out),
        **at_end,
        **figures,
        "parameters": float(sum(one.numel() for one in model.parameters())),
        "tokens": float(len(train.ids)),
        "bytes_per_token": documents.counts["bytes_train"] / len(train.ids),
        **{name: float(count) for name, count in documents.counts.items()},
    }
    for name in ("metrics.jsonl", SAMPLES):
        (folder / name).touch()
        (made / name).write_bytes((folder / name).read_bytes())
    write_text(made / "samples.md", as_page(read(folder / SAMPLES)))
    _write_card(made, objective, config, section, metrics, stage, run.folder(stage))
    return publish(
        run,
        stage,
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": "nothing", "objective": section.objective, "architecture": section.built()},
        dtype="torch.float32",
        metrics=metrics,
        gate=gate(metrics | {"objective": section.objective}),
        data=corpus.described(documents, section),
        notes=report.shares,
    )


def gate(figures: Mapping[str, Any]) -> Gate:
    """figures: what is published, and "objective", whose `checks` they are held against."""
    return Gate(OBJECTIVES[figures["objective"]].checks(figures))


def summary(manifest: Manifest, run: Run) -> str:
    shown = OBJECTIVES[manifest.model["objective"]].shown
    removed = [name for name in ("blank", "duplicates", "near_duplicates") if manifest.metrics.get(name)]
    figures = [*shown, "documents_train", "documents_eval", *removed, "parameters", "tokens_per_second"]
    return closing(manifest, run, figures, run.following("data"))


def _prepared(objective: Objective, section: Pretrain, documents: corpus.Corpus, fresh: Path, seed: int) -> None:
    """In `fresh`: the tokenizer, the training documents as tokens, and the model with random weights."""
    fresh.mkdir(exist_ok=True)
    rules = vocabulary.learned(documents.texts(), section, objective.special, objective.extra)
    tokenizer = vocabulary.saved(rules, objective.special, section, fresh, objective.extra)
    if objective.encoded is None:
        found = tokens.encoded(documents.texts(), vocabulary.encoder(tokenizer), *_around(objective, tokenizer))
    else:
        found = objective.encoded(documents.texts(), tokenizer)
    tokens.written(found, fresh)
    saved_fresh(objective, section, tokenizer, fresh, seed)


def _held_out(objective: Objective, section: Pretrain, tokenizer: Any, texts: Path) -> HeldOut:
    aside = corpus.Corpus(texts / corpus.TRAIN, texts / corpus.HELD_OUT, {}).held_out_texts(section.eval_rows)
    around = _around(objective, tokenizer)
    ids = list(tokens.encoded(aside, vocabulary.encoder(tokenizer), *around))
    return HeldOut(aside, ids, sum(len(text.encode()) for text in aside))


def _around(objective: Objective, tokenizer: Any) -> tuple[list[int], list[int]]:
    before, after = ([getattr(tokenizer, f"{role}_id") for role in roles] for roles in objective.around)
    return before, after


def _asked(
    objective: Objective, tokenizer: Any, section: Pretrain, held_out: HeldOut, seed: int, model: Any
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    figures = objective.measured(model, tokenizer, section, held_out)
    return figures, objective.said(model, tokenizer, section, held_out, seed)


def _write_card(
    made: Path,
    objective: Objective,
    config: Config,
    section: Pretrain,
    metrics: dict[str, float],
    stage: str,
    place: Path,
) -> None:
    about = [
        f"Made from nothing but the corpus {section.source}: {section.built()}, {metrics['parameters'] / 1e6:.3g} million weights, "
        f"{section.vocab_size} tokens. Seed {config.seed}. Settings and hashes: `manifest.json`."
    ]
    text = card(
        stage,
        objective.card,
        str(place),
        Base(None),
        metrics,
        datasets=datasets_of(section.sources()),
        about=about,
        objective=section.objective,
    )
    write_text(made / "README.md", text)
