"""Stage best_of_n: how much would choosing among many answers give, without any training? Best-of-n with the optimised score.

    python -m pipeline best-of-n recipes/film_reviews.yaml

n completions (64) of each held-out prompt are sampled once from the sft model and scored. best_of_1, best_of_4, best_of_16 … are
all read from these: a block of 4 samples in a row gives one best_of_4, and the mean over blocks is an unbiased estimate.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.schema import Prompt
from pipeline.artifacts.files import write_rows
from pipeline.artifacts.gate import Gate, above, at_least, check
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.rows.published import prompts
from pipeline.settings.config import Config, ConfigError
from pipeline.statistics import mean_interval
from pipeline.training import preflight, sizes
from pipeline.training.baselines import open_parents
from pipeline.training.checked import check_rows
from pipeline.training.context import closing, make_accelerator
from pipeline.training.holding import as_published
from pipeline.training.lengths import check_fits, new_tokens, prompt_rows
from pipeline.training.roles import scores
from pipeline.training.samples import ByPrompt, best_of_block, kl_bound, sample_rows, sample_scored
from pipeline.training.seen import check_cut, check_seen, models_that_score, seen
from policies.asking import Machine, answering
from policies.backbone import load_causal
from policies.template import fingerprint
from policies.tokenizers import eos_ids

SIZES = (1, 4, 16, 64)

PROMPTS = at_least(20)
GAIN = above(0)


def run(config: Config, run: Run) -> Manifest | None:
    if not config.compare.generation.do_sample:
        raise ConfigError(
            "compare.generation.do_sample: false, and the samples of a prompt are the same; set it to true for best_of_n"
        )
    accelerator, section = make_accelerator(), config.best_of_n
    tokenizer = open_parents("best_of_n", config, run)
    asked = prompts(run, "eval")[: section.prompts]
    check_fits("best_of_n", run.folder("sft"), prompt_rows(tokenizer, asked), *new_tokens(config, "compare"))
    folder = working_folder(run, "best_of_n", config)
    accelerator.wait_for_everyone()
    check_seen("best_of_n", config, asked, models_that_score(config, run))
    check_rows(config, asked, "best_of_n")
    how = config.compare.generation.resolved(config.ppo.temperature, config.ppo.response_length)
    longest = max(length for _, length in prompt_rows(tokenizer, asked)) + how.max_new_tokens
    wanted, sources = len(asked) * section.n, [run.folder("sft")]
    rows, chosen = sizes.of_asking("best_of_n", config, run, sources, wanted, longest)
    machine = Machine(section.engine, "best_of_n.engine", config.ppo, accelerator, longest)
    preflight.of_asking("best_of_n", config, run, sources, rows, longest, count=wanted, engine=machine.engine)
    score = scores(config, run, accelerator.device)
    model: Any = load_causal(run.folder("sft"), tokenizer, as_published(config, accelerator.device))
    model.to(accelerator.device)
    with answering(machine, model, run.folder("sft")) as say:
        found = sample_scored(
            *(folder, say, eos_ids(model, tokenizer), tokenizer, asked, score, config.ppo),
            n=section.n,
            how=how,
            seed=config.seed,
            # not the noise of the comparison: with the sft model's own sample among its candidates, best-of-n could never lose to it
            stream="best_of_n",
            batch_size=rows,
            what="best_of_n",
        )
    if not accelerator.is_main_process:
        return None  # the main process publishes alone
    metrics = {"prompts": float(len(asked)), "n": float(section.n), **seen(score.functions.values())}
    for n in dict.fromkeys([*(size for size in SIZES if size <= section.n), section.n]):
        metrics |= {f"best_of_{n}/{name}": value for name, value in estimates(asked, found, n, config.seed).items()}
    made = folder / "made"
    made.mkdir(exist_ok=True)
    write_rows(made / "samples.jsonl", sample_rows(asked, found))
    write_rows(made / "metrics.jsonl", [metrics])
    return publish(
        run,
        "best_of_n",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": "sft", "n": section.n},
        dtype=str(next(model.parameters()).dtype),
        metrics=metrics,
        gate=gate(metrics),
        notes={"chosen": chosen},
    )


def gate(figures: Mapping[str, float]) -> Gate:
    """figures: "prompts", "n", and the scores of best_of_1 and best_of_n."""
    most = f"best_of_{int(figures['n'])}"
    gain = figures[f"{most}/score"] - figures["best_of_1/score"]
    return Gate(
        [
            check("held-out prompts", figures["prompts"], should=PROMPTS),
            check(f"score of {most} over one sample", gain, should=GAIN),
            *check_cut(figures),
        ]
    )


def summary(manifest: Manifest, run: Run) -> str:
    figures = [name for name in manifest.metrics if name.endswith("/score")]
    most = f"best_of_{int(manifest.metrics['n'])}"
    return closing(manifest, run, figures, run.following("compare", models=("sft", "ppo", most)))


def estimates(asked: Sequence[Prompt], found: ByPrompt, n: int, seed: int) -> dict[str, float]:
    """Figures of best_of_n over all whole blocks of n samples: the mean score with its 95% interval over prompts, mean tokens and
    EOS rate of what is chosen, tokens sampled for one answer, and the bound of its KL to the sft model."""
    chosen = [(p.id, best_of_block(found[p.id], n, b)[0]) for p in asked for b in range(len(found[p.id]) // n)]
    whole = [
        len(one.tokens) for p in asked for one in found[p.id][: len(found[p.id]) // n * n]
    ]  # what lies in no whole block is not read
    interval = mean_interval([one.score for _, one in chosen], [name for name, _ in chosen], seed=seed)
    return {
        "score": interval["mean"],
        "score_low": interval["low"],
        "score_high": interval["high"],
        "length": float(np.mean([len(one.tokens) for _, one in chosen])),
        "eos_rate": float(np.mean([one.finished for _, one in chosen])),
        "tokens_per_answer": float(np.sum(whole)) / len(chosen),
        "kl_bound": kl_bound(n),
    }
