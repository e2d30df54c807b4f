"""Which models are compared? What stands behind each name of compare.models, and what it cost to make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.schema import Prompt
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256, weights_sha256
from pipeline.artifacts.freshness import section_values
from pipeline.artifacts.other_runs import is_of_another_run
from pipeline.artifacts.run import Run
from pipeline.graph import COMPARED
from pipeline.settings.config import Config, best_of
from pipeline.settings.sections import Decoding
from pipeline.training.context import base_model
from pipeline.training.samples import best_of_block, kl_bound, published
from policies.template import encode_prompt, fingerprint, show_prompt
from policies.tokenizers import load_tokenizer

BASE = ("base", "few_shot")


@dataclass(frozen=True)
class Contender:
    """A model of the comparison. `source` is what from_pretrained takes; `tokenizer` is its own where it is not ours."""

    name: str
    source: str
    revision: str | None
    tokenizer: Any
    ours: bool  # its tokenizer and chat template are those of the sft model, so token by token it can be compared with that

    @property
    def has_kl(self) -> bool:
        """Whether log π - log π_sft says something: the same tokens after the same prompt."""
        return self.ours and self.name not in ("few_shot", "sft")


def contenders(config: Config, run: Run, tokenizer: Any) -> list[Contender]:
    """The models that say something themselves, in the order of the recipe; best_of_… only picks from what sft said.

    Raises BackboneError where a folder or Hub id has no tokenizer.
    """
    found = []
    for name in config.compare.models:
        if best_of(name) is not None:
            continue
        if name in BASE:
            source = base_model(config, run)
            revision = None if source != config.model else config.revision
            found.append(Contender(name, source, revision, tokenizer, True))
        elif name in COMPARED:
            found.append(Contender(name, str(run.folder(name)), None, tokenizer, True))
        else:
            source = str(run.folder(name)) if is_of_another_run(run, name) else name
            own = load_tokenizer(source, chat_template_kwargs=config.chat_template_kwargs, foreign=True)
            found.append(Contender(name, source, None, own, fingerprint(own) == fingerprint(tokenizer)))
    return found


def described(contender: Contender, run: Run) -> dict[str, Any]:
    """What the report says of a model beside its figures. `training_tokens_sampled` counts what its training sampled."""
    name = contender.name
    published = (name in COMPARED and name not in BASE) or is_of_another_run(run, name)
    manifest = run.manifest(name) if published else None
    stage = manifest and manifest.stage
    return {
        "path": contender.source,
        "sha256": weights_sha256(Path(contender.source)),
        "tokenizer": "the sft model's" if contender.ours else "its own",
        "training_tokens_sampled": 0.0 if stage == "sft" else manifest and manifest.metrics.get("sampled_tokens"),
    }


def common_prompts(config: Config, run: Run, held_out: Sequence[Prompt]) -> list[Prompt]:
    """The held-out prompts that every model can answer: those that stage best_of_n sampled, if any model is read from it.

    Raises ArtifactError where its samples are not what the comparison needs: too few, of another sft model, or decoded otherwise.
    """
    most = max((best_of(name) or 0 for name in config.compare.models), default=0)
    if not most:
        return list(held_out)
    sampled, made = published(run), run.manifest("best_of_n")
    assert made is not None
    was, each = made.config["settings"], most * config.compare.samples_per_prompt
    common = [prompt for prompt in held_out if prompt.id in sampled]
    wrong = None
    if (then := _decoding(was)) != (now := _decoding(section_values(config, "best_of_n"))):
        wrong = f"it was decoded otherwise ({then}) than this comparison ({now})"
    elif len(common) < 2:
        wrong = f"it has {len(common)} of the held-out prompts"
    elif any(len(sampled[prompt.id]) < each for prompt in common):
        wrong = f"it has fewer than the {each} samples of a prompt that are needed"
    if wrong is not None:
        raise ArtifactError(
            f"{run.folder('best_of_n')}: {wrong}; make it with the same settings; {run.remedy('best_of_n')}"
        )
    return common


def _decoding(settings: dict[str, Any]) -> str:
    """How stage best_of_n decoded, in words, from the settings that its manifest has."""
    if "compare.generation" not in settings:
        return "by another version"
    given = Decoding(**settings["compare.generation"])
    return given.resolved(settings["ppo.temperature"], settings["ppo.response_length"]).words()


def check_prompts(models: Sequence[Contender], held_out: Sequence[Prompt]) -> None:
    """Raise ArtifactError where a model's chat template refuses a prompt, before anything is sampled."""
    for one in models:
        for prompt in held_out if not one.ours else ():
            try:
                encode_prompt(one.tokenizer, prompt.prompt)
            except ValueError as error:
                raise ArtifactError(
                    f"{one.name}: {error}, or leave it out of compare.models ({prompt.source})"
                ) from error


def best_of_rows(name: str, config: Config, run: Run, held_out: Sequence[Prompt]) -> tuple[list[dict[str, Any]], Any]:
    """Rows of samples.jsonl for best_of_…, one block of samples for each of compare.samples_per_prompt, and its description."""
    n = best_of(name)
    assert n is not None
    sampled = published(run)
    rows, spent = [], []
    for prompt in held_out:
        for block in range(config.compare.samples_per_prompt):
            best, _ = best_of_block(sampled[prompt.id], n, block)
            spent.append(sum(len(one.tokens) for one in sampled[prompt.id][block * n : (block + 1) * n]))
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "prompt": show_prompt(prompt.prompt),
                    "model": name,
                    "completion": best.text,
                    "length": len(best.tokens),
                    "eos": best.finished,
                    "seed": block,
                    "kl": None,
                    "scores": {},
                    "tokens": best.tokens,
                    "_prompt": prompt.prompt,
                }
            )
    return rows, {
        "path": str(Path(run.folder("best_of_n"))),
        "sha256": sha256(run.folder("best_of_n") / "samples.jsonl"),
        "perplexity": None,  # it has no probabilities of its own
        "kl_bound": kl_bound(n),
        "training_tokens_sampled": 0.0,
        "tokens_per_answer": float(np.mean(spent)),
    }
