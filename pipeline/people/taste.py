"""What would a simulated person say? One with a hidden taste, a score: it puts the queue in order, and tells what each round gained by it.

It stands in for people where the loop itself is tried: what a round learns is then held against the very taste that ranked.
"""

import gc
from collections.abc import Sequence
from functools import partial
from typing import Any

from data.forms.ranks import ranked
from data.schema import Prompt
from pipeline.artifacts.run import Run
from pipeline.comparison.answers import decoding
from pipeline.people.choosing import cards
from pipeline.people.standing import standing
from pipeline.people.store import Item, open_store
from pipeline.rows.published import prompts
from pipeline.settings.config import Config
from pipeline.statistics import mean_interval
from pipeline.training.context import make_accelerator
from pipeline.training.holding import as_published
from pipeline.training.roles import scores
from pipeline.training.samples import answers
from pipeline.training.sizes import EVALUATED
from policies.backbone import load_causal
from policies.decoding import decode
from policies.template import decode_completion
from policies.tokenizers import eos_ids, load_tokenizer
from reward.functions import Score
from reward.metrics import pairwise_accuracy
from reward.model import load_scorer

NAME = "simulated"
SAMPLES = 2  # answers of each policy to a held-out prompt
Texts = list[list[str]]
"""For each prompt the answers of one policy."""


def answer_queue(config: Config, run: Run) -> int:
    """Put every item that nobody ranked in the order of the score of `config`, as the person `simulated`; how many these were."""
    store = open_store(run)
    ranked = {event.body["item"] for event in standing(store.events()) if event.kind in ("ranking", "report")}
    items = [item for item in store.items() if item.kind == "rank" and item.id not in ranked]
    score = scores(config, run, make_accelerator().device)
    for item in items:
        body = {"item": item.id, "tiers": _tiers(item, score), "unranked": [], "all_bad": False, "note": ""}
        body |= {"seconds": 0, "shown": list(cards(item, NAME)), "repeat": 0}
        store.add(f"{NAME}-{item.id}", NAME, "ranking", body)
    return len(items)


def _tiers(item: Item, score: Score) -> list[list[str]]:
    """An item's completions by their score, the best first; equal ones tied."""
    found = score([item.prompt] * len(item.completions), [one.text for one in item.completions]).tolist()
    return [[item.completions[place].id for place in tier] for tier in ranked(found)]


def gains(config: Config, runs: Sequence[Run], count: int) -> dict[str, Any]:
    """What the score of `config` says of the policies of `runs`, and how far the reward models agree with it, on `count` held-out
    prompts of the first run: {"policies": [{"model", "score": mean with 95% interval}], "rewards": [{"run", "accuracy" …}]}.

    The texts are the same for all reward models: SAMPLES answers of every policy, by the same noise. Of a pair on which the taste is
    equal nothing is asked.
    """
    asked = prompts(runs[0], "eval")[:count]
    device = make_accelerator().device
    speaking = [
        (f"{run.name}/{stage}", run, stage) for run in runs for stage in (["sft", "ppo"] if run is runs[0] else ["ppo"])
    ]
    said = {name: _said(config, run, stage, asked, device) for name, run, stage in speaking}
    taste = scores(config, runs[0], device)
    texts = [[text for name in said for text in said[name][place]] for place in range(len(asked))]
    liked = [taste([prompt.prompt] * len(own), own).tolist() for prompt, own in zip(asked, texts, strict=True)]
    policies = []
    for number, (name, _, _) in enumerate(speaking):
        own = [values[number * SAMPLES : (number + 1) * SAMPLES] for values in liked]
        flat = [value for values in own for value in values]
        policies.append({"model": name, "score": mean_interval(flat, [p.id for p in asked for _ in range(SAMPLES)])})
    ranks = [_ranks(values) for values in liked]
    rewards = []
    for run in runs:
        scorer = load_scorer(
            run.folder("reward"), as_published(config, device), device, 32, config.chat_template_kwargs
        )
        given = [scorer.raw([p.prompt] * len(own), own).tolist() for p, own in zip(asked, texts, strict=True)]
        rewards.append({"run": run.name, **pairwise_accuracy(given, ranks)})
        del scorer
        gc.collect()
    shown = [
        {"prompt": p.prompt, "said": {name: said[name][place][0] for name in said}} for place, p in enumerate(asked[:6])
    ]
    return {"prompts": len(asked), "policies": policies, "rewards": rewards, "shown": shown}


def _ranks(values: Sequence[float]) -> list[int]:
    """Ranks of values, 0 the highest; equal ones have equal ranks."""
    rank = {place: number for number, tier in enumerate(ranked(values)) for place in tier}
    return [rank[place] for place in range(len(values))]


def _said(config: Config, run: Run, stage: str, asked: Sequence[Prompt], device: Any) -> Texts:
    run.require(stage, force=config.force, lineage=False)
    tokenizer = load_tokenizer(run.folder(stage), chat_template_kwargs=config.chat_template_kwargs)
    model: Any = load_causal(run.folder(stage), tokenizer, as_published(config, device))
    model.to(device)
    stops = eos_ids(model, tokenizer)
    said = answers(
        [(prompt, n) for prompt in asked for n in range(SAMPLES)],
        partial(decode, model),
        stops,
        tokenizer,
        decoding(config),
        seed=config.seed,
        stream="rounds",
        batch_size=config.compare.per_device_eval_batch_size or EVALUATED,
    )
    texts = [decode_completion(tokenizer, p.prompt, c.tokens, stops) for p, c in said]
    del model
    gc.collect()
    return [texts[start : start + SAMPLES] for start in range(0, len(texts), SAMPLES)]
