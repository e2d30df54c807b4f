"""What does the aligned model do with one prompt? A page that looks inside: token by token, attention, alternatives, hidden states.

    python -m pipeline inspect recipes/film_reviews.yaml --prompt "A funny" --run demo

The prompt is a text or the id of a held-out prompt. The completion is sampled, with the noise of the trainer's own evaluations, so
that a held-out prompt gets the completion that its last evaluation saw; or decoded as inspect.generation says; or it is given.
"""

import gc
import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from pipeline import waiting
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import write_text
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import is_plain_name
from pipeline.artifacts.run import Run
from pipeline.artifacts.unchanged import unchanged
from pipeline.inspect import inside, stepping
from pipeline.inspect.asking import advice, check_checkable, find_prompt
from pipeline.inspect.figures import figures
from pipeline.inspect.tokens import tokens, totals
from pipeline.language import named, phrase, recognised, retold, spoken
from pipeline.pages import index
from pipeline.pages.common import page_template, require_finite
from pipeline.pages.visible import visible
from pipeline.settings.config import PPO, Config
from pipeline.settings.sections import Resolved
from pipeline.training import preflight, roles
from pipeline.training.context import base_model, make_accelerator
from pipeline.training.holding import as_published
from pipeline.training.lengths import check_fits, new_tokens
from policies.backbone import load_causal
from policies.decoding import decode
from policies.drawing import Completion
from policies.engines import Engine
from policies.episodes import Asked, Episode, Score, roll_out, scored
from policies.roles import Roles
from policies.template import PromptText, encode_completion, encode_prompt, fingerprint, show_prompt, splits
from policies.tokenizers import load_tokenizer
from policies.told import tell
from policies.trainer import EVAL_STEP
from policies.trials import output_layer

LONGEST = 512  # tokens of a completion on a page
ALIGNED = "ppo"
SETTINGS_THAT_COUNT = ["tuning", "lora", "value", "reward_funcs", "reward_weights", "temperature", "response_length"]
SETTINGS_THAT_COUNT += ["missing_eos_score", "missing_eos_penalty", "kl_coef", "gamma", "lam"]


def run(
    config: Config,
    run: Run,
    prompt: str,
    completion: str | None = None,
    model: str = ALIGNED,
    seed: int | None = None,
    chat: bool = False,
) -> Path:
    """Write runs/<name>/inspect/<slug>.html, in another language <slug>.zh.html, and return its path. Raises ArtifactError for what a user can mend.

    `model` is ppo, sft, base, another stage that made a model, a folder or a Hub id with the sft model's vocabulary; the critic
    speaks of ppo alone. Settings of ppo are those that the run was made with, whatever the recipe says now.
    """
    waiting.allow(config.function_timeout)
    opened = dict.fromkeys(["data", "sft", "reward", "ppo", *([] if "/" in model else [model])])
    with unchanged(run, "inspect", list(opened)):
        with spoken(config.report.language):
            name, page = _page(config, run, prompt, completion, model, seed, chat)
            path = run.root / run.name / "inspect" / named(f"{name}.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    with spoken(config.report.language):
        index.write(run)
    return path


def _page(
    config: Config, run: Run, prompt: str, completion: str | None, model: str, seed: int | None, chat: bool
) -> tuple[str, str]:
    """The name of the page, and the page."""
    tell("inspect: checking the files of the stages it opens")
    tokenizer, config, kl_coef = _opened(config, run, model)
    if splits(tokenizer):
        raise ArtifactError(
            f"inspect: the models of run {run.name} are encoder–decoders, and the page looks into causal language models alone; look at "
            f"what this one says: {run.remedy('compare')}"
        )
    section, device = config.ppo, make_accelerator().device
    how = config.inspect.generation.resolved(section.temperature, section.response_length)
    name, asked = find_prompt(run, prompt, chat)
    check_checkable(config, run, asked)
    with spoken("en"):
        doubt, some = advice(run, asked)
    if doubt:
        print(f"inspect: {doubt} Some of this run's: {'; '.join(map(repr, some))}", flush=True)
    source = _source(config, run, model)
    _check_length(source, tokenizer, name, asked, completion, config)
    length = config.data.max_length + how.max_new_tokens
    preflight.of_asking("inspect", config, run, [source, run.folder("sft")], 1, length, count=1)
    tell(f"inspect: loading {model}, the model it started from, and the score")
    played, score = _roles(config, run, model, source, tokenizer, device)
    seed = config.seed if seed is None else seed
    tell(
        "inspect: a completion, its figures token by token, attention and hidden states; a minute or two for a large model"
    )
    episode = speak(played, tokenizer, score, name, asked, completion, section, seed, how)
    _check_page(len(episode.completion.tokens))
    rows = tokens(played, tokenizer, episode, section, kl_coef, critic=model == ALIGNED)
    numbers = {"tokens": rows, "totals": totals(rows, episode.score)}
    require_finite(numbers, "inspect")
    before = None
    if model != "sft" and completion is None:
        before = _of_sft(config, run, tokenizer, score, device, name, asked, seed, how)
    steps = stepping.steps(played, tokenizer, episode)
    del played, score
    gc.collect()
    sections = inside.sections(inside.Asked(config, run, model, source, tokenizer, device, seed), asked, episode, steps)
    page = page_template("inspect.html.j2").render(
        model=model,
        prompt=visible(show_prompt(asked)),
        text=visible(episode.text),
        before=before,
        doubt=retold(doubt),
        some=[visible(one) for one in some],
        given=completion is not None,
        decoding=phrase(", ").join(map(recognised, how.words().split(", "))),
        finished=episode.completion.finished,
        settings={
            "kl_coef": kl_coef,
            "gamma": section.gamma,
            "lam": section.lam,
            "temperature": section.temperature,
            "seed": seed,
        },
        numbers=numbers,
        figures=figures(rows, model),
        raw=episode.raw_score,
        **sections,
    )
    said = how.words() + (", chat" if chat else "")
    return slug(prompt, completion, model, seed, said), page


def _of_sft(
    config: Config,
    run: Run,
    tokenizer: Any,
    score: Score,
    device: torch.device,
    name: str,
    asked: PromptText,
    seed: int,
    how: Resolved,
) -> dict[str, Any]:
    """What the sft model says to the same prompt with the same noise, and its score."""
    policy = load_causal(run.folder("sft"), tokenizer, as_published(config, device))
    head = nn.Linear(output_layer(policy).width, 1)
    played = Roles(policy, head, "shared", reference=policy).to(device).eval()
    said = speak(played, tokenizer, score, name, asked, None, config.ppo, seed, how)
    return {"text": visible(said.text), "score": said.raw_score}


def _opened(config: Config, run: Run, model: str) -> tuple[Any, Config, float]:
    """The sft model's tokenizer, the recipe as far as it counts here, and the KL coefficient; every parent is checked."""
    run.identity("sft")  # that it is there, before its tokenizer is looked for
    tokenizer = load_tokenizer(run.folder("sft"))
    kl_coef = config.ppo.kl_coef
    if model == ALIGNED:
        made = run.require("ppo", tokenizer=fingerprint(tokenizer), force=True)
        config = settings_of(made, config, run)
        kl_coef = made.metrics.get("objective/kl_coef", config.ppo.kl_coef)  # an adaptive one is where it ended
    elif is_plain_name(model) and run.manifest(model) is not None:
        run.require(model, tokenizer=fingerprint(tokenizer), force=True)
    for parent in parents("ppo", config):
        run.require(parent, force=True)
    return tokenizer, config, kl_coef


def settings_of(made: Manifest, config: Config, run: Run) -> Config:
    """The recipe, with the seed, the dtype and those settings of ppo that count here as the ppo stage was made with."""
    settings = made.config["settings"]
    try:
        section = PPO(**{name: settings["ppo"][name] for name in SETTINGS_THAT_COUNT})
    except (KeyError, ValidationError) as error:
        raise ArtifactError(
            f"ppo of run {made.run} was made by another version ({error}); {run.remedy('ppo', anew=True)}"
        ) from None
    own = {name: settings.get(name) for name in ("seed", "dtype", "quantization", "attn_implementation")}
    return config.model_copy(update={"ppo": section, **own})


def slug(prompt: str, completion: str | None, model: str, seed: int, decoding: str) -> str:
    """A file name that is readable, and another one for every other question."""
    words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].strip("-") or "prompt"
    key = hashlib.sha256(repr((prompt, completion, model, seed, decoding)).encode("utf-8", "replace")).hexdigest()[:8]
    return f"{words}-{key}"


def _source(config: Config, run: Run, model: str) -> str:
    """Folder or Hub id of the model that is looked into."""
    if model == "base":
        return base_model(config, run)
    own = is_plain_name(model) and (run.folder(model) / "config.json").is_file()
    return str(run.folder(model)) if own else model


def _roles(
    config: Config, run: Run, model: str, source: str, tokenizer: Any, device: torch.device
) -> tuple[Roles, Score]:
    if model == ALIGNED:
        return roles.trained(config, run, tokenizer, device)
    how = as_published(config, device)
    if model not in ("sft", "base") and load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        raise ArtifactError(
            f"{source}: has another vocabulary than the sft model of run {run.name}; look into one made from it"
        )
    policy, reference = (load_causal(path, tokenizer, how) for path in (source, run.folder("sft")))
    head = nn.Linear(output_layer(policy).width, 1)
    played = Roles(policy, head, "shared", reference=reference).to(device)
    return played.eval(), roles.scores(config, run, device)


def _check_page(length: int) -> None:
    if length > LONGEST:
        raise ArtifactError(f"the completion has {length} tokens, and a page holds {LONGEST}; give a shorter one")


def _check_length(
    source: str | Path, tokenizer: Any, name: str, asked: PromptText, completion: str | None, config: Config
) -> None:
    """Raise ConfigError where the prompt with its completion and an EOS is more than the model reads, ArtifactError where its chat template
    refuses the prompt."""
    try:
        prompt, name = len(encode_prompt(tokenizer, asked)), f"prompt {shorten(name, 60)}"
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if completion is None:
        check_fits(
            "inspect", source, [(name, prompt)], *new_tokens(config, "inspect"), end=1
        )  # as ppo's score reads it
    else:
        given = len(encode_completion(tokenizer, asked, completion))
        _check_page(given)
        whole = prompt + given
        check_fits("inspect", source, [(f"{name} with COMPLETION", whole)], "", instead="give a shorter one")


def speak(
    played: Roles,
    tokenizer: Any,
    score: Score,
    name: str,
    asked: PromptText,
    completion: str | None,
    section: PPO,
    seed: int,
    how: Resolved,
) -> Episode:
    """The episode: decoded as `how` says and scored as the trainer does, or the completion that is given, EOS at its end, scored."""
    try:
        ids = encode_prompt(tokenizer, asked)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if completion is None:
        section = section.model_copy(update={"response_length": how.max_new_tokens})
        engine = Engine(partial(_decoded, played, how), played.exact)
        said = roll_out(played, engine, tokenizer, [Asked(name, asked, ids)], EVAL_STEP, section, seed, {})
        return scored(played, tokenizer, said, score, section, {})[0]
    given = encode_completion(tokenizer, asked, completion)
    with torch.no_grad():
        worth = score([asked], [completion]).item()
    return Episode(name, asked, ids, completion, Completion(given, torch.zeros(len(given)), True), worth, worth)


def _decoded(
    played: Roles,
    how: Resolved,
    asked: Sequence[Sequence[int]],
    noises: Sequence[Any],
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    **_: Any,
) -> list[Completion]:
    """What `Engine` runs: the policy as the trainer samples from it, the tokens taken as `how` says."""
    with played.sampling() as model:
        return decode(model, asked, noises, how, eos_ids=eos_ids, pad_id=pad_id, batch_size=batch_size)
