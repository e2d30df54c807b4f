"""Stage rloo: does PPO's critic earn its keep? REINFORCE with a leave-one-out baseline, on the same score and prompts.

    python -m pipeline rloo recipes/film_reviews.yaml

trl.RLOOTrainer from the sft model (Ahmadian et al. 2024, 2402.14740). Everything that both have is ppo's: the score, the KL
coefficient, temperature, length, the rule for completions without EOS, the sampler, and how many completions are sampled in all.
"""

import json
from collections.abc import Callable
from typing import Any

from datasets import Dataset

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
from pipeline.training.lengths import check_fits, prompt_rows
from pipeline.training.roles import scores
from pipeline.training.seen import check_seen, models_that_score
from pipeline.training.sharing import counted_by_all
from pipeline.training.trackers import open_trackers
from pipeline.training.trainers import Report, check_recomputes, train, trainer_arguments
from pipeline.training.trl_trainers import PromptArguments, PromptTrainer
from policies.adapters import lora_config
from policies.episodes import after_eos_rule, prompt_order
from policies.sharding import whole
from policies.template import decode_completion, encode_prompt
from policies.tokenizers import eos_ids
from reward.functions import WeightedScore


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    section = config.rloo
    tokenizer = open_parents("rloo", config, run)
    folder = working_folder(run, "rloo", config)
    accelerator.wait_for_everyone()
    asked = prompts(run, "eval")[: config.ppo.eval_prompts]
    trackers = open_trackers("rloo", config, run)
    rows = prompt_rows(tokenizer, [*prompts(run, "train"), *asked])
    check_fits("rloo", run.folder("sft"), rows, "ppo.response_length", config.ppo.response_length)
    lengths = [length + config.ppo.response_length for _, length in rows]
    held = preflight.Rows.of(lengths, section, sampled=section.batch_size, length=max(lengths))
    preflight.of_trainer("rloo", config, run, run.folder("sft"), held, scored=True, reference=True)
    check_seen("rloo", config, [*prompts(run, "train"), *asked], models_that_score(config, run))
    check_rows(config, [*prompts(run, "train"), *asked], "rloo")
    score = scores(config, run, accelerator.device)
    report = Report(folder, "rloo", trackers, score)
    model = load_sft(config, run, tokenizer, section.tuning, accelerator.device, section.shared_by("rloo"))
    check_recomputes(model, section)
    with whole(model):  # processes sample different numbers of tokens
        before = answer_held_out(model, tokenizer, asked, score, config)
    score.taken()  # the figures of each function are those of training
    shown = prompts(run, "train")
    order = prompt_order(len(shown), range(config.ppo.total_episodes // section.num_generations), config.seed)
    given_rows = [{"prompt": json.dumps(shown[i].prompt, ensure_ascii=False)} for i in order]
    arguments = PromptArguments(
        **trainer_arguments(section, folder, accelerator.num_processes, config.seed),
        num_generations=section.num_generations,
        max_completion_length=config.ppo.response_length,
        temperature=config.ppo.temperature,
        beta=config.ppo.kl_coef,
        shuffle_dataset=False,  # `prompt_order` has shuffled them
        disable_dropout=True,
    )
    trainer = PromptTrainer(
        model=model,
        reward_funcs=rewarded(tokenizer, score, eos_ids(model, tokenizer), config),
        args=arguments,
        train_dataset=Dataset.from_list(given_rows),
        processing_class=tokenizer,
        peft_config=lora_config(model, section.lora, "CAUSAL_LM") if section.tuning == "lora" else None,
    )
    seconds, _ = train(trainer, report, folder, section)
    # trl counts every completion's prompt and tokens, and keeps the count in its checkpoints
    passed = trainer.state.num_input_tokens_seen
    given = sum(len(encode_prompt(tokenizer, shown[i].prompt)) for i in order) * section.num_generations
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    del trainer
    with whole(model):
        after = answer_held_out(model, tokenizer, asked, score, config)
        found = gains(before, after, model, config, run, tokenizer, score)
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    model = whole_policy(folder, model, report.learned, config, run, tokenizer, accelerator.device)
    return publish_policy(
        "rloo",
        "Policy aligned with RLOO",
        config,
        run,
        folder,
        model,
        tokenizer,
        list(zip(after.prompts, after.tokens, strict=True)),
        metrics=found.metrics | {"sampled_tokens": float(passed - given), "seconds": seconds},
        gate=gate(found),
        described={"beta": config.ppo.kl_coef, "tuning": section.tuning},
        notes=report.shares,
    )


def summary(manifest: Manifest, run: Run) -> str:
    figures = ("eval/scores_before", "eval/scores", "eval/kl", "eval/mean_length", "eval/eos_rate")
    return closing(manifest, run, figures, run.following("compare", models=("sft", "ppo", "rloo")))


def rewarded(
    tokenizer: Any, score: WeightedScore, stops: list[int], config: Config
) -> Callable[..., list[float | None]]:
    """The score as a reward function of trl: the same text as ppo's for the same tokens, and the same rule for EOS."""

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        asked = [json.loads(prompt) for prompt in prompts]
        texts = [decode_completion(tokenizer, p, ids, stops) for p, ids in zip(asked, completion_ids, strict=True)]
        with counted_by_all(score):  # the log and what goes with a state are of the completions of all processes
            raw = score(asked, texts).tolist()
        ended = [ids[-1] in stops for ids in completion_ids]
        return [after_eos_rule(value, end, config.ppo) for value, end in zip(raw, ended, strict=True)]

    return reward
