"""What are people asked? K answers a prompt, sampled from one or several models or taken from a file, put into the queue.

    make rank MODEL="sft ppo" K=4 PROMPTS=50 RUN=demo         # from models, on training prompts of the run
    make rank FROM=answers.jsonl RUN=demo                     # rows {"prompt": …, "completions": [texts, or {"text", "model"}]}

What was sampled is kept in `people/sampled.jsonl`, so that the same command goes on where it was stopped, and makes the same items.
Held-out prompts are not asked: what people say of an answer is learned from, and a comparison asks what nobody learned from.
"""

import gc
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from data.forms import checks
from data.forms.place import Place
from data.reading import sources
from data.schema import DataError, Problem, Prompt
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, weights_sha256
from pipeline.artifacts.other_runs import open_models
from pipeline.artifacts.row_log import add_rows, whole_rows
from pipeline.artifacts.run import Run
from pipeline.artifacts.unchanged import unchanged
from pipeline.commands import opening
from pipeline.comparison.answers import decoding
from pipeline.comparison.contenders import Contender, check_prompts, contenders
from pipeline.pages.progress import bar
from pipeline.people.choosing import chance
from pipeline.people.practice import of_run
from pipeline.people.store import Item, new_item, open_store, path_of
from pipeline.rows.published import prompts
from pipeline.settings.config import Config, ConfigError, best_of
from pipeline.training import preflight
from pipeline.training.context import base_model, make_accelerator
from pipeline.training.holding import as_published
from pipeline.training.lengths import check_fits, new_tokens, prompt_rows
from pipeline.training.samples import answers
from pipeline.training.sizes import EVALUATED
from policies.backbone import BackboneError, load_causal
from policies.decoding import decode
from policies.template import decode_completion, encode_prompt
from policies.tokenizers import eos_ids, load_tokenizer
from reward.model import load_scorer
from reward.rendering import ScoringError

LOG = "sampled.jsonl"
AT_ONCE = 64  # completions sampled between two writes
FEWEST, MOST = 2, 9  # cards of an item: a digit is a place
Answers = list[tuple[str, str | None]]
"""Texts with the names of the models that wrote them."""


def queued(config: Config, run: Run, k: int, count: int, path: str | None) -> str:
    """Put answers into the queue, those of the file at `path` or else of models: the line that closes the command. Raises as either does."""
    return from_models(config, run, k, count) if path is None else from_file(config, run, path)


def from_models(config: Config, run: Run, k: int, count: int) -> str:
    """Put `k` answers to each of `count` training prompts into the queue, shared out among compare.models: the line that closes the
    command. Raises ArtifactError, ConfigError and BackboneError for what a user can mend."""
    names = config.compare.models
    if "few_shot" in names or any(best_of(name) is not None for name in names):
        raise ConfigError("MODEL: few_shot and best_of_… are not asked here; name models such as base, sft and ppo")
    if not FEWEST <= k <= MOST:
        raise ConfigError(f"K={k}: an item has {FEWEST} to {MOST} answers; give for instance K=4")
    if len(names) > k:
        raise ConfigError(
            f"K={k}: {len(names)} models are named, and each gives an answer; give K={len(names)} or more"
        )
    if count < 1:
        raise ConfigError(f"PROMPTS={count}: ask one prompt or more, such as PROMPTS=50")
    own = [name for name in names if "/" not in name and name != "base" and not Path(name).is_dir()]
    scores = [] if run.manifest("reward") is None else ["reward"]
    with unchanged(run, "rank", ["data", *own, *scores]):
        for stage in ("data", *own):
            run.require(stage, force=config.force)
        open_models(run, config)
        asked = chosen(prompts(run, "train"), count, config.seed)
        found = _sampled(config, run, asked, k)
        items, told = _items(asked, found, k)
        of = f"{', '.join(names)} on {len(asked)} training prompts (what is held out stays held out)"
        return "\n".join([*told, _added(config, run, items, of)])


def from_file(config: Config, run: Run, path: str) -> str:
    """The same of answers that lie in a file. Raises DataError with every mistake in it."""
    problems: list[Problem] = []
    items = []
    for at in sources.read(path, problems):
        if at.row is None:
            continue
        place = Place(at.file, at.line, problems)
        prompt, answers = checks.prompt(at.row, place, "prompt"), checks.completions(at.row, place)
        texts = [one.text.strip() for one in answers or ()]
        if len(texts) > MOST:
            place.report("completions", f"there are more than {MOST}", "give two to nine, as a digit is a place")
        if len(set(texts)) < len(texts):
            place.report("completions", "two of them are the same", "keep one of them")
        for name in at.row.keys() - {"id", "prompt", "completions"}:
            place.report(name, "a queue has no such column", "take the key away")
        if prompt is not None and answers is not None:
            items.append(new_item(prompt, [(one.text, one.model) for one in answers], body={"source": place.source}))
    if problems:
        raise DataError(problems)
    if not items:
        raise ArtifactError(f'{path}: no rows; write rows {{"prompt": …, "completions": [two or more texts]}}')
    with unchanged(run, "rank", [] if run.manifest("reward") is None else ["reward"]):
        return _added(config, run, items, path)


def chosen(known: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` of the prompts, drawn evenly by `seed`; those of a smaller count are among those of a larger one."""
    return sorted(known, key=lambda one: chance("rank", str(seed), one.id))[:count]


def unsureness(scores: Sequence[float]) -> float:
    """How unsure a reward model is of an order, 0 to 1: for two answers whose scores lie apart by d it says σ(d) that the higher one is
    better, and the entropy of that, in bits, is taken as a mean over all pairs."""
    return math.fsum(_entropy(a - b) for a, b in combinations(scores, 2)) / math.comb(len(scores), 2)


def _entropy(difference: float) -> float:
    p = 1 / (1 + math.exp(min(abs(difference), 700.0)))
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if p > 1e-300 else 0.0


def _added(config: Config, run: Run, items: Sequence[Item], of: str) -> str:
    """Add items and the run's practice to the queue; the line that says so."""
    store = open_store(run)
    there = {item.id for item in store.items()}
    new, told = _unsure(config, run, [item for item in items if item.id not in there])
    store.add_items(of_run(run))
    added = store.add_items(new)
    whole = sum(item.kind == "rank" for item in store.items())
    return f"rank: {added} new items of {of}; {whole} in {store.path}{told}; next: {opening(run.name)}"


def _unsure(config: Config, run: Run, items: Sequence[Item]) -> tuple[list[Item], str]:
    """The items with what the run's reward model is unsure of in each, and how that decides their order, in words."""
    if not items or run.manifest("reward") is None:
        return list(items), "" if not items else ", in any order, as the run has no reward model"
    device = make_accelerator().device
    try:
        run.require("reward", force=True)
        scorer = load_scorer(
            run.folder("reward"), as_published(config, device), device, 32, config.chat_template_kwargs
        )
        asked = [(item.prompt, one.text) for item in items for one in item.completions]
        with bar(len(asked), "rank: reward model", "answer") as progress:
            scores = scorer.raw([prompt for prompt, _ in asked], [text for _, text in asked], progress.update).tolist()
    except (ArtifactError, BackboneError, ScoringError) as error:
        return list(items), f", in any order, as the reward model cannot be asked ({error})"
    found, start = [], 0
    for item in items:
        end = start + len(item.completions)
        found.append(replace(item, body={**item.body, "unsure": unsureness(scores[start:end])}))
        start = end
    return found, ", those first of which the reward model is least sure"


def _items(asked: Sequence[Prompt], found: Sequence[Answers], k: int) -> tuple[list[Item], list[str]]:
    """Items of what was said, and a sentence for what is no card: an answer that is blank, or that another one said."""
    items, fewer, none = [], 0, 0
    for prompt, said in zip(asked, found, strict=True):
        cards: dict[str, tuple[str, str | None]] = {}
        for text, model in said:
            if text.strip():
                cards.setdefault(text.strip(), (text, model))
        fewer += FEWEST <= len(cards) < k
        none += len(cards) < FEWEST
        if len(cards) >= FEWEST:
            items.append(new_item(prompt.prompt, list(cards.values()), body={"source": prompt.id}))
    why = "as answers were blank or the same"
    told = [f"rank: {_prompts(fewer)} fewer than {k} answers, {why}"] if fewer else []
    return items, [*told, *([f"rank: {_prompts(none)} no two answers to order, {why}"] if none else [])]


def _prompts(count: int) -> str:
    return "1 prompt has" if count == 1 else f"{count} prompts have"


def _sampled(config: Config, run: Run, asked: Sequence[Prompt], k: int) -> list[Answers]:
    """For each prompt its `k` answers, the models by turns; those in the log are not sampled again."""
    source = run.folder("sft") if run.manifest("sft") is not None else base_model(config, run)
    tokenizer = load_tokenizer(source, chat_template_kwargs=config.chat_template_kwargs)
    models = contenders(config, run, tokenizer)
    check_prompts(models, asked)
    for one in models:
        rows = prompt_rows(one.tokenizer, asked)
        check_fits(f"rank: {one.name}", one.source, rows, *new_tokens(config, "compare"), revision=one.revision)
    log = path_of(run).parent / LOG
    open_store(run)  # which makes the folder
    known = {row["of"]: row["text"] for row in whole_rows(log)}
    found: list[Answers] = [[] for _ in asked]
    for place, one in enumerate(models):
        numbers = range(place, k, len(models))
        todo = [(prompt, number) for prompt in asked for number in numbers]
        names = _names(one, config, todo)
        if missing := [(name, *entry) for name, entry in zip(names, todo, strict=True) if name not in known]:
            _ask(one, config, run, missing, log)
            known |= {row["of"]: row["text"] for row in whole_rows(log)}
        texts = iter([known[name] for name in names])
        for given in found:
            given += [(next(texts), one.name) for _ in numbers]
    return found


def _names(one: Contender, config: Config, todo: Sequence[tuple[Prompt, int]]) -> list[str]:
    """What tells each answer from all others: who gave it, to what, how it was decoded, and by which noise."""
    who = weights_sha256(Path(one.source)) if Path(one.source).is_dir() else None
    model = who or f"{one.source}@{one.revision}"
    how = decoding(config).words()
    return [digest([model, how, config.seed, prompt.id, prompt.prompt, number]) for prompt, number in todo]


def _ask(one: Contender, config: Config, run: Run, missing: Sequence[tuple[str, Prompt, int]], log: Path) -> None:
    """Sample what is missing of one model, and write it as it comes."""
    how, device = decoding(config), make_accelerator().device
    longest = max(len(encode_prompt(one.tokenizer, prompt.prompt)) for _, prompt, _ in missing) + how.max_new_tokens
    batch = config.compare.per_device_eval_batch_size or EVALUATED
    preflight.of_asking("rank", config, run, [one.source], batch, longest, count=len(missing))
    model: Any = load_causal(one.source, one.tokenizer, as_published(config, device), one.revision)
    model.to(device)
    stops = eos_ids(model, one.tokenizer)
    with bar(len(missing), f"rank: {one.name}", "answer") as progress:
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            said = answers(
                [(prompt, n) for _, prompt, n in part],
                partial(decode, model),
                stops,
                one.tokenizer,
                how,
                seed=config.seed,
                stream="rank",
                batch_size=batch,
                progress=progress.update,
            )
            texts = [decode_completion(one.tokenizer, prompt.prompt, c.tokens, stops) for prompt, c in said]
            rows = [
                {"of": name, "model": one.name, "text": text} for (name, _, _), text in zip(part, texts, strict=True)
            ]
            add_rows(log, rows, opener=lambda path, flags: os.open(path, flags, 0o600))
    del model
    gc.collect()
