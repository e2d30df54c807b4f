"""Stage compare: is the aligned model better than what it came from, by whose judgement, and at what price?

    python -m pipeline compare recipes/film_reviews.yaml compare.name=greedy

Samples base, few-shot prompted base, sft, ppo and whatever else compare.models names on the same held-out prompts with the same
noise, has every judge score them, and writes report.html, report.json and samples.jsonl.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.schema import Prompt
from pipeline import commands
from pipeline.artifacts import other_runs, seeds
from pipeline.artifacts.files import write_rows
from pipeline.artifacts.freshness import parents, read_by
from pipeline.artifacts.gate import NONE, Gate, at_least, check
from pipeline.artifacts.manifest import Manifest, noted, now
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.comparison import answers
from pipeline.comparison.contenders import Contender, best_of_rows, check_prompts, common_prompts, contenders
from pipeline.comparison.leaks import seen_elsewhere
from pipeline.comparison.pairing import Opinion, Samples, reference_of
from pipeline.judges import panel
from pipeline.judges.judge import Judge
from pipeline.judges.over_training import over_training
from pipeline.language import named, phrase, spoken
from pipeline.pages.progress import bar
from pipeline.report import curves, exports, numbers, seed_spread
from pipeline.report.answer import answer
from pipeline.report.findings import Report
from pipeline.report.page import told_again
from pipeline.rows.published import prompts
from pipeline.settings.config import Config, best_of
from pipeline.settings.sections import Decoding
from pipeline.training import preflight, sizes
from pipeline.training.checked import check_rows
from pipeline.training.context import closing, make_accelerator
from pipeline.training.holding import as_published
from pipeline.training.roles import scores
from pipeline.training.seen import check_seen, models_that_score, seen
from policies.asking import Machine
from policies.precision import pick_dtype
from policies.template import PromptText, fingerprint
from policies.tokenizers import load_tokenizer

HELD_OUT_PROMPTS = at_least(200)
JUDGES = at_least(1)
FEW = "raise compare.prompts, and where there are no more held-out prompts data.eval_fraction, or add rows"
NO_JUDGE = "name one in compare.judges, such as a function of yours, or set data.gold_fraction=0.5 (docs/judges.md)"


def run(config: Config, run: Run) -> Manifest | None:
    accelerator = make_accelerator()
    device = accelerator.device
    tokenizer = load_tokenizer(run.folder("sft"))
    manifests = _open_parents(tokenizer, config, run)
    others = other_runs.open_models(run, config)
    models = contenders(config, run, tokenizer)
    called = panel.called(config, run)  # a wrong name or a missing key is told before anything is sampled
    folder = working_folder(run, "compare", config)
    accelerator.wait_for_everyone()
    held_out, limits = _held_out(config, run, models)
    asked = answers.questions(held_out, tokenizer, config, run)
    answers.check_lengths(models, asked, config)
    check_seen("compare", config, held_out, models_that_score(config, run))
    panel.check_gold(config, run, held_out)
    longest = answers.longest(models, asked, config)
    sources = [one.source for one in models] + [str(run.folder("sft"))]
    wanted = len(held_out) * config.compare.samples_per_prompt
    rows, chosen = sizes.of_asking("compare", config, run, sources, wanted, longest)
    sized = config.model_copy(
        update={"compare": config.compare.model_copy(update={"per_device_eval_batch_size": rows})}
    )
    machine = Machine(config.compare.engine, "compare.engine", config.ppo, accelerator, longest)
    preflight.of_asking(
        *("compare", config, run, sources, rows, longest),
        count=len(held_out) * len(config.compare.models),
        engine=machine.engine,
    )
    leaks = [sentence for name in others if (sentence := seen_elsewhere(run, name, held_out)) is not None]
    samples, information, sft = answers.of_models(models, asked, tokenizer, sized, run, machine)
    further = _further(tokenizer, config, run)
    of_other_seeds = answers.of_other_seeds(further, held_out, tokenizer, sized, run, machine)
    answers.measure_kl(samples, {one.name for one in models if one.has_kl}, sft, tokenizer, config)
    answers.measure_kl(of_other_seeds, {sibling.folder for sibling in further}, sft, tokenizer, config)
    del sft
    gc.collect()
    if not accelerator.is_main_process:
        return None  # the main process judges and publishes alone
    for name in config.compare.models:
        if best_of(name) is not None:
            said, information[name] = best_of_rows(name, config, run, held_out)
            samples += said
    information = {name: information[name] for name in config.compare.models}
    answers.name_sources([*samples, *of_other_seeds], held_out)
    judged = _judge(samples, of_other_seeds, information, config, run, called, device)
    provenance = _provenance(manifests, further, config, run, over_training=judged.training is not None)
    if further:
        provenance["training seeds"] = seed_spread.provenance(run, config, of_other_seeds)
    provenance |= limits | _of_other_runs(others, run)
    report = numbers.summarise(
        samples,
        information,
        judged.opinions,
        provenance=provenance,
        training=judged.training,
        curves=curves.read(run.folder("ppo")) if "ppo" in information else {},
        problems=[*judged.problems, *leaks, *_failed(further)],
        seeds=judged.seeds,
        seed=config.seed,
    )
    made = folder / "made"
    made.mkdir(exist_ok=True)
    evaluations = curves.evaluations(run.folder("ppo")) if "ppo" in information else None
    exports.write(report, samples, judged.opinions, made, evaluations)
    if of_other_seeds:
        exports.write_samples(made / "samples.seeds.jsonl", of_other_seeds)
    metrics = _metrics(report)
    write_rows(made / "metrics.jsonl", [metrics])
    return publish(
        run,
        "compare",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={"base": config.model},
        dtype=str(pick_dtype(config.dtype, device)),
        metrics=metrics,
        gate=gate(report),
        notes={"answer": str(answer(report)), "verdict": report.verdict, "chosen": chosen} | _in_chinese(report),
    )


def _in_chinese(report: Report) -> dict[str, str]:
    """The same for pages in Chinese."""
    with spoken("zh"):
        return {"answer.zh": str(answer(report)), "verdict.zh": told_again(report).verdict}


def gate(figures: Report) -> Gate:
    """A comparison does not fail for what it finds; it warns where its own footing is weak."""
    return Gate(
        [
            check("held-out prompts", figures.prompts, should=HELD_OUT_PROMPTS, why=FEW),
            check("independent judges", len(figures.judges), should=JUDGES, why=NO_JUDGE),
            check("warnings in the report", len(figures.warnings), should=NONE, why="each is told in report.html"),
        ]
    )


def summary(manifest: Manifest, run: Run) -> str:
    return (
        closing(manifest, run, ("prompts",), f"open {run.folder('compare') / named('report.html')}")
        + f"\n{noted(manifest, 'answer')}\n{noted(manifest, 'verdict')}"
    )


def _open_parents(tokenizer: Any, config: Config, run: Run) -> dict[str, Manifest]:
    """The manifests of all stages that are compared or judge, checked. Raises ArtifactError."""
    template = fingerprint(tokenizer)
    return {
        name: run.require(name, tokenizer=None if name == "reward" else template, force=config.force)
        for name in parents("compare", config)
    }


def _held_out(config: Config, run: Run, models: Sequence[Contender]) -> tuple[list[Prompt], dict[str, str]]:
    """The prompts that every model is asked; and, for the provenance, why they are fewer than wanted, if they are."""
    wanted = prompts(run, "eval")[: config.compare.prompts]
    held_out = common_prompts(config, run, wanted)
    check_prompts(models, held_out)
    check_rows(config, held_out, "compare")
    if len(held_out) == len(wanted):
        return held_out, {}
    told = f"all models on {len(held_out)} of {len(wanted)} held-out prompts, those of stage best_of_n; for more raise best_of_n.prompts"
    if run.main_process:
        print(f"compare: {told}", flush=True)
    return held_out, {"prompts": told}


def _further(tokenizer: Any, config: Config, run: Run) -> list[seeds.Sibling]:
    """The models of further training seeds that belong to those that are compared, checked; those that do not are told."""
    if run.main_process and (left := seeds.strays(run, config)):
        print(f"compare: without {', '.join(left)}: made with other settings or from other models than now", flush=True)
    further = seeds.further(run, config)
    for sibling in further:
        run.require(
            sibling.folder, tokenizer=fingerprint(tokenizer), force=True
        )  # whatever its gate said, see seeds.siblings
    return further


def _of_other_runs(others: Mapping[str, Manifest], run: Run) -> dict[str, str]:
    """For the provenance: when the models of other runs were made, and by what they are known."""
    told = [f"{name}, made {manifest.finished}, {run.identity(name)[:12]}" for name, manifest in others.items()]
    return {"models of other runs": "; ".join(told)} if told else {}


def _failed(further: Sequence[seeds.Sibling]) -> list[str]:
    return [
        phrase("{folder} failed its gate, and counts among the seeds.", folder=one.folder)
        for one in further
        if one.gate == "fail"
    ]


@dataclass(frozen=True)
class Judged:
    """What the judges said: their opinions, a sentence for each that failed, the scores over ppo's training where it is compared,
    and how far training seeds are apart by the judges that score."""

    opinions: list[Opinion]
    problems: list[str]
    training: dict[str, Any] | None
    seeds: dict[str, dict[str, Any]]


def _judge(
    samples: Samples,
    of_other_seeds: Samples,
    information: dict[str, Any],
    config: Config,
    run: Run,
    called: Sequence[Judge],
    device: torch.device,
) -> Judged:
    """Have every judge judge; working columns go from the rows."""
    score = scores(config, run, device)

    def in_parts(asked: Sequence[PromptText], said: Sequence[str]) -> list[float]:
        values: list[float] = []
        with bar(len(said), "compare: reward", "sample") as progress:
            for start in range(0, len(said), 256):
                values += score(list(asked[start : start + 256]), list(said[start : start + 256])).tolist()
                progress.update(len(said[start : start + 256]))
        return values

    judges, absent = panel.seated(config, in_parts, called, samples, as_published(config, device), device, run)
    opinions, problems = panel.opinions(samples, judges, information)
    scored, more = panel.scored(of_other_seeds, judges, opinions)
    references = {name: reference_of(information, name) for name in information}
    trained = seed_spread.trained(run, references, samples, of_other_seeds)
    between = seed_spread.block(trained, scored, seed=config.seed)
    for row in [*samples, *of_other_seeds]:
        del row["_prompt"]
        row.pop("_completion", None)
    training = None
    if "ppo" in information:
        sitting = {one.name for one in opinions}
        able = [judge for judge in judges if judge.name in sitting]
        training = over_training(run.folder("ppo"), prompts(run, "eval"), able, seed=config.seed)
    counted = {"reward": seen(score.functions.values())} | {one.name: one.summary for one in opinions}
    return Judged(opinions, absent + problems + more + panel.cut(counted), training, between)


def _provenance(
    manifests: Mapping[str, Manifest],
    further: Sequence[seeds.Sibling],
    config: Config,
    run: Run,
    over_training: bool,
) -> dict[str, Any]:
    """How the comparison came about; libraries, machine and commit are those of the last stage that it reads."""
    last = list(manifests.values())[-1]
    return {
        "run": {"name": run.name, "data": _data_name(config), "model": Path(config.model).name},
        **_command(manifests, further, config, run),
        "made": now(),
        "data": {kind: manifests["data"].data[kind]["sha256"] for kind in ("prompts.eval", "demonstrations.eval")},
        "seed": config.seed,
        "decoding": _decoding(config, over_training),
        "score that was optimised": ", ".join(config.ppo.reward_funcs),
        "libraries": last.libraries,
        "hardware": last.machine,
        "git commit": last.git_commit,
    }


def _data_name(config: Config) -> str:
    """What the run's data are called: a file or folder by its own name, a Hub id as it is."""
    names = [part.source for part in config.data.parts()]
    return ", ".join(Path(name).name if Path(name).exists() else name for name in names[:2]) + (
        " …" if names[2:] else ""
    )


def _command(
    manifests: Mapping[str, Manifest], further: Sequence[seeds.Sibling], config: Config, run: Run
) -> dict[str, str]:
    """How the comparison and the stages that it reads were made; nothing where no command line was there."""
    if run.call is None:
        return {}
    given = run.call.given()
    gold = run.manifest("gold") if "gold" in read_by(run, "compare", config) else None
    made: dict[str, tuple[dict[str, Any], int]] = {}
    for stage, manifest in (dict(manifests) | ({} if gold is None else {"gold": gold})).items():
        count = max((one.seed - manifest.seed + 1 for one in further if one.stage == stage), default=1)
        made[stage] = ((manifest.command or given) | {"seeds": count}, manifest.world_size)
    return {"command": commands.commands(run.name, made | {"compare": (given, run.world_size)})}


def _decoding(config: Config, over_training: bool) -> dict[str, Any]:
    """How all models were decoded: in words, every setting that acted, and what the figures beside the texts are of."""
    how = answers.decoding(config)
    told: dict[str, Any] = {"in words": how.words(), **how.acting(), "sampled by": config.compare.engine}
    told["KL and entropy"] = f"of the whole distribution at temperature {how.temperature}, at the tokens that were said"
    in_training = Decoding().resolved(config.ppo.temperature, config.ppo.response_length).words()
    if over_training and in_training != how.words():
        told["over training"] = f"otherwise, as the trainer evaluates: {in_training}"
    return told


def _metrics(report: Report) -> dict[str, float]:
    """Every model's figures and every pair's win rates, by names with slashes."""
    metrics = {"prompts": float(report.prompts)}
    for name, figures in report.models.items():
        own = vars(figures)
        metrics |= {f"{name}/{key}": float(value) for key, value in own.items() if isinstance(value, int | float)}
    for pair, by_judge in report.pairs.items():
        metrics |= {f"{pair}/{judge}/win_rate": outcome["win_rate"] for judge, outcome in by_judge.items()}
    for judge, own in report.passes.items():
        for task, found in own["tasks"].items():
            for name, tries in found["models"].items():
                metrics |= {f"{name}/{judge}/{task}/{k}": float(one["mean"]) for k, one in tries.items()}
    return metrics
