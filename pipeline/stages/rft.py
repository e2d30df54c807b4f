"""Stage rft: how far does plain fine-tuning on one's own best answers go? Rejection-sampling fine-tuning.

    python -m pipeline rft recipes/film_reviews.yaml

The sft model says n things to each prompt, the score picks the best, and the sft model is fine-tuned on those with the code of
stage sft (as in Llama 2, 2307.09288, section 3.2.3, one round of it; RAFT, 2304.06767). By default it samples as many
completions as ppo does.
"""

from functools import partial
from typing import Any

from data.schema import Prompt
from pipeline.artifacts.files import write_rows
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import prompts
from pipeline.settings.config import Config
from pipeline.training import preflight
from pipeline.training.baselines import (
    answer_held_out,
    gains,
    gate,
    load_sft,
    open_parents,
    publish_policy,
    whole_policy,
)
from pipeline.training.checked import check_rows
from pipeline.training.context import closing, make_accelerator
from pipeline.training.fine_tuning import fine_tune
from pipeline.training.lengths import check_fits, new_tokens, prompt_rows
from pipeline.training.roles import scores
from pipeline.training.samples import best_of_block, sample_rows, sample_scored
from pipeline.training.seen import check_seen, models_that_score
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report
from policies.decoding import decode
from policies.episodes import prompt_order
from policies.sharding import whole
from policies.template import Lesson, encode_prompt
from policies.tokenizers import eos_ids

SAMPLED = 64  # completions that are decoded together


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    section = config.rft
    tokenizer = open_parents("rft", config, run)
    folder = working_folder(run, "rft", config)
    accelerator.wait_for_everyone()
    report = Report(folder, "rft", open_trackers("rft", config, run))
    asked = prompts(run, "eval")[: config.ppo.eval_prompts]
    lengths = _check_lengths(tokenizer, asked, config, run)
    rows = preflight.Rows.of(lengths, section, sampled=SAMPLED, length=max(lengths))
    preflight.of_trainer("rft", config, run, run.folder("sft"), rows, scored=True)
    check_seen("rft", config, [*prompts(run, "train"), *asked], models_that_score(config, run))
    check_rows(config, [*prompts(run, "train"), *asked], "rft")
    score = scores(config, run, accelerator.device)
    model = load_sft(config, run, tokenizer, section.tuning, accelerator.device, section.shared_by("rft"))
    with whole(model):  # processes sample different numbers of tokens
        before = answer_held_out(model, tokenizer, asked, score, config)
    shown = prompts(run, "train")
    shown = [shown[i] for i in prompt_order(len(shown), range(min(config.rft_prompts(), len(shown))), config.seed)]
    with whole(model):
        found = sample_scored(
            *(folder, partial(decode, model), eos_ids(model, tokenizer), tokenizer, shown, score, config.ppo),
            n=section.n,
            how=section.generation.resolved(config.ppo.temperature, config.ppo.response_length),
            seed=config.seed,
            stream="rft",
            batch_size=SAMPLED,
            what="rft",
        )
    best = {p.id: best_of_block(found[p.id], section.n, 0) for p in shown}
    lessons = [_lesson(encode_prompt(tokenizer, p.prompt), best[p.id][0].tokens) for p in shown]
    model, order, seconds, _ = fine_tune(section, model, tokenizer, lessons, folder, accelerator, config.seed, report)
    with whole(model):
        after = answer_held_out(model, tokenizer, asked, score, config)
        gained = gains(before, after, model, config, run, tokenizer, score)
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    model = whole_policy(folder, model, report.learned, config, run, tokenizer, accelerator.device)
    every = [one for p in shown for one in found[p.id]]
    figures = gained.metrics | {
        "best/scores": sum(best[p.id][0].score for p in shown) / len(shown),
        "sampled/scores": sum(one.score for one in every) / len(every),
        "train_rows": float(len(order)),
        "sampled_tokens": float(sum(len(one.tokens) for one in every)),
        "seconds": seconds,
    }
    (folder / "made").mkdir(exist_ok=True)
    write_rows(folder / "made" / "samples.jsonl", sample_rows(shown, found, {p.id: best[p.id][1] for p in shown}))
    return publish_policy(
        "rft",
        "Policy fine-tuned on its own best completions",
        config,
        run,
        folder,
        model,
        tokenizer,
        list(zip(after.prompts, after.tokens, strict=True)),
        metrics=figures,
        gate=gate(gained),
        described={"n": section.n, "tuning": section.tuning},
        notes=report.shares,
    )


def summary(manifest: Manifest, run: Run) -> str:
    figures = ("sampled/scores", "best/scores", "eval/scores_before", "eval/scores", "eval/kl")
    return closing(manifest, run, figures, run.following("compare", models=("sft", "ppo", "rft")))


def _check_lengths(tokenizer: Any, asked: list[Prompt], config: Config, run: Run) -> list[int]:
    """Most tokens of a training prompt and its completion, prompt by prompt. Raises ConfigError where that is more than the sft model reads."""
    said = prompt_rows(tokenizer, asked)
    check_fits("rft", run.folder("sft"), said, "ppo.response_length", config.ppo.response_length)
    rows, (setting, more) = prompt_rows(tokenizer, prompts(run, "train")), new_tokens(config, "rft")
    check_fits("rft", run.folder("sft"), rows, setting, more)
    return [length + more for _, length in rows]


def _lesson(prompt: list[int], completion: list[int]) -> Lesson:
    """The tokens as they were sampled: a completion that ran into the limit is not taught to end there."""
    return Lesson(prompt + completion, [False] * len(prompt) + [True] * len(completion))
