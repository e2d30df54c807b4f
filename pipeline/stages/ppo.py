"""Stage ppo: the sft model is improved against the score with PPO, a KL penalty holding it near where it started.

    python -m pipeline ppo recipes/film_reviews.yaml

Publishes merged weights that `AutoModelForCausalLM` (or `AutoModelForSeq2SeqLM`) loads by `from_pretrained`, the policy's adapter, and the critic. Interrupted, the same
command goes on from the last state; on CPU it ends with the same bits as a run that was never interrupted.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from pipeline import ending
from pipeline.artifacts.files import permitted, read_rows, write_text
from pipeline.artifacts.freshness import parents
from pipeline.artifacts.gate import NONE, Gate, at_least, between, check, check_gain
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import begun_from
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.pages.progress import bar, shown
from pipeline.rows.published import demonstrations, prompts
from pipeline.settings.config import PPO, Config
from pipeline.statistics import mean_interval
from pipeline.training import merging, preflight, sizes
from pipeline.training.checked import check_rows
from pipeline.training.context import closing, make_accelerator
from pipeline.training.drift import MORE, check_kl, check_length
from pipeline.training.holding import as_published, shares, to_train
from pipeline.training.lengths import check_fits, prompt_rows
from pipeline.training.model_folder import Published, save_policy, write_card
from pipeline.training.seen import check_cut, check_seen, models_that_score, seen
from pipeline.training.trackers import Trackers, open_trackers
from policies.backbone import load_causal
from policies.engines import make_engine
from policies.episodes import Episode, PromptRow
from policies.loop import Result
from policies.quick.moving import read_back
from policies.roles import POLICY, VALUE, Roles
from policies.sharding import gathered
from policies.template import Turn, encode_completion, encode_prompt, fingerprint, read_at_once, show_prompt
from policies.tokenizers import load_tokenizer
from policies.trainer import train
from reward.functions import Counted, WeightedScore, figures_of

FIRST = ("objective/kl", "objective/scores", "completions/mean_length", "policy/entropy_avg", "val/ratio")
"""Figures of the first iteration that are published beside the last ones."""

SHOWN = ("objective/scores", "objective/kl", "completions/mean_length")  # beside the bar
SAME = between(-0.001, 0.001)  # KL at step 0, nats: policy and sft model are still the same weights
ENTROPY = at_least(0.3)  # of what it was at step 0
UPDATED = at_least(1)
COUNTS = "counts.json"  # in a state: what reward functions and models were given


def run(config: Config, run: Run) -> Manifest | None:
    from pipeline.training.roles import build, with_learned

    section = config.ppo
    accelerator = make_accelerator()
    tokenizer = _open_parents(config, run)
    shown: list[PromptRow] = [{"id": p.id, "prompt": p.prompt} for p in prompts(run, "train")]
    held_out: list[PromptRow] = [{"id": p.id, "prompt": p.prompt} for p in prompts(run, "eval")]
    widest, longest = _check_lengths(tokenizer, config, run)
    asked = [*prompts(run, "train"), *prompts(run, "eval")[: section.eval_prompts]]
    check_rows(config, asked, "ppo")
    check_seen("ppo", config, asked, models_that_score(config, run))
    section, chosen = sizes.of_ppo(config, run, widest)
    line = preflight.line(config.model_copy(update={"ppo": section}), run, widest)
    if accelerator.is_main_process:
        print(line, flush=True)
    folder = working_folder(run, "ppo", config)
    accelerator.wait_for_everyone()
    trackers = open_trackers("ppo", config, run)
    roles, score = build(config, run, tokenizer, accelerator.device, section.sharding)
    roles.share_out(section.sharding, "ppo.sharding", section.gradient_checkpointing)
    held = shares(section.sharding, roles)
    watch = Watching(accelerator, section, folder, trackers, score)
    started = time.monotonic()
    result = train(
        accelerator,
        roles,
        tokenizer,
        shown,
        held_out,
        score,
        section,
        state=folder / "state",
        of=begun_from(folder),
        seed=config.seed,
        watch=watch,
        demonstrations=[(prompt, completion) for _, prompt, completion in _mixed(tokenizer, config, run)],
        engine=make_engine(
            *(section.engine, roles, run.folder("sft"), section, accelerator, folder / "sampler"),
            longest=longest + section.response_length,
        ),
    )
    watch.end(result)
    learned = gathered(roles.trainable(), accelerator.is_main_process) if roles.sharded else {}  # by all processes
    if not accelerator.is_main_process:
        return None  # the main process publishes alone: nobody waits in a collective, whose time ends
    made = folder / "made"
    if roles.sharded:
        roles = with_learned(config, run, tokenizer, to_train(config, accelerator.device, section.tuning), learned)
    roles = accelerator.unwrap_model(roles)
    dtype = roles.causal.dtype
    turns = _said(tokenizer, held_out, watch.evaluations)
    parent = partial(load_causal, run.folder("sft"), tokenizer, as_published(config, accelerator.device))
    saved = _save(made, folder, roles, tokenizer, watch.evaluations, turns, parent)
    metrics = _metrics(result) | saved.figures | seen(score.functions.values())
    metrics["seconds"] = time.monotonic() - started
    metrics["sampled_tokens"] = _sampled_tokens(watch.log_file, section.batch_size)
    write_card(made, config, "ppo", "Policy aligned with PPO", metrics, run.folder("ppo"))
    return publish(
        run,
        "ppo",
        config,
        made,
        tokenizer=fingerprint(tokenizer),
        model={
            "base": config.model,
            "value": section.value,
            "tuning": section.tuning,
            "stored": str(saved.dtype),
        },
        dtype=str(dtype),
        metrics=metrics,
        gate=gate(metrics, result.halted, watch.evaluations.gain(), section.max_kl),
        notes={"halted": result.halted, "evaluations": result.evals, "chosen": chosen, **held},
    )


def gate(figures: Mapping[str, float], halted: str | None, gain: Mapping[str, float] | None, max_kl: float) -> Gate:
    """figures: the stage's metrics, of the last iteration and, under "first/", of the first. `halted` names the limit that ended
    training early; `gain` is the interval of the gain in held-out score, where there were evaluations."""
    if "objective/kl" not in figures:
        return Gate([check("finished updates", 0.0, must=UPDATED, why=halted or "")])
    length, entropy = (
        figures[k] / max(figures[f"first/{k}"], 1e-9) for k in ("completions/mean_length", "policy/entropy_avg")
    )
    checks = [
        check("halted by a limit", float(halted is not None), must=NONE, why=halted or ""),
        check(
            "KL at step 0",
            figures["first/objective/kl"],
            must=SAME,
            why="policy and reference are not run alike, which is a fault of ours: please report it",
        ),
        check_kl("KL", figures["objective/kl"], max_kl),
        check_length("length against the start", length),
        check("entropy against the start", entropy, should=ENTROPY, why="raise ppo.kl_coef"),
        *check_cut(figures),
    ]
    if gain is not None:
        checks.append(check_gain("gain in held-out score", gain["mean"], gain["low"], gain["high"], why=MORE))
    return Gate([*checks, *merging.checks(figures)])


def summary(manifest: Manifest, run: Run) -> str:
    halted = f" HALTED: {manifest.notes['halted']};" if manifest.notes.get("halted") else ""
    figures = ("eval/scores", "objective/kl", "completions/mean_length", "completions/eos_rate")
    *doubts, last = closing(manifest, run, figures, run.following("compare")).splitlines()
    return "\n".join([*doubts, last.replace("; gate", f";{halted} gate", 1)])


class Watching:
    """Writes what the loop tells into the stage's folder, on the first process, and shows how far it is."""

    def __init__(self, accelerator: Any, section: PPO, folder: Path, trackers: Trackers, score: WeightedScore):
        self.accelerator, self.section, self.trackers = accelerator, section, trackers
        self.state = folder / "state"
        self.log_file, self.evaluations = folder / "metrics.jsonl", Evaluations(folder / "samples.jsonl")
        self.score, self.of_functions = score, dict[str, float]()
        self.bar: Any = None
        self.asked = 0  # the signal that ends training before its last iteration

    def begin(self, step: int) -> None:
        """The logs and counts are those that came with the state: a resumed run repeats what the interrupted one did after it."""
        self.bar = bar(self.section.iterations(), "ppo", "iteration", start=step)
        ending.reached(step, self.section.iterations())
        self.trackers.begin(step)
        if step and self.accelerator.is_main_process:
            self.score.count_on(json.loads((self.state / COUNTS).read_text(encoding="utf-8")))
        for path in (self.log_file, self.evaluations.path) if self.accelerator.is_main_process else ():
            path.unlink(missing_ok=True)
            if step and (self.state / path.name).is_file():
                shutil.copyfile(self.state / path.name, path)

    def keep(self, folder: Path) -> None:
        """Of the process that writes the state: its counts are those that are published."""
        for path in (self.log_file, self.evaluations.path):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        (folder / COUNTS).write_text(json.dumps(self.score.counts()), encoding="utf-8")

    def scored(self) -> None:
        """Figures of each reward function over this iteration's completions, of all processes."""
        every: list[dict[str, Counted]] = gather_object([self.score.taken()])
        names = dict.fromkeys(name for one in every for name in one)
        self.of_functions = figures_of({n: sum((one.get(n, Counted()) for one in every), Counted()) for n in names})

    def log(self, figures: dict[str, float]) -> None:
        figures = figures | self.of_functions
        if self.accelerator.is_main_process:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(figures, allow_nan=False) + "\n")
        self.trackers.log({name: value for name, value in figures.items() if name != "step"}, int(figures["step"]))
        self.bar.set_postfix(shown(figures, SHOWN))

    def show(self, step: int, episodes: list[Episode]) -> None:
        self.score.taken()  # figures of the functions are those of training
        if self.accelerator.is_main_process:
            self.evaluations.add(step, episodes)

    def stopping(self) -> bool:
        self.asked = max(gather_object([ending.asked()]))  # of any process
        self._count_together()
        return bool(self.asked)

    def _count_together(self) -> None:
        """Have the first process count the texts that reward models were given on all of them."""
        every = gather_object([self.score.counts()["texts"]])
        for name, counts in self.score.texts().items():
            counts.clear()
            for one in every if self.accelerator.is_main_process else ():
                counts.update(one[name])

    def progress(self, done: int) -> None:
        if self.accelerator.is_main_process:
            permitted(self.log_file.parent)
        self.bar.update(done - self.bar.n)
        ending.reached(done, self.section.iterations())
        if self.asked:
            self.bar.close()
            self.trackers.end()
            ending.leave(self.asked)

    def end(self, result: Result) -> None:
        ending.reached(None)
        self._count_together()
        self.bar.close()
        if result.halted is not None:
            self.trackers.alert(result.halted, int(result.last.get("step", 0)))
        self.trackers.end()


class Evaluations:
    """Sampled completions of the held-out prompts over training, kept in samples.jsonl."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, step: int, episodes: list[Episode]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            for e in sorted(episodes, key=lambda e: e.prompt_id):
                row = {
                    "step": step,
                    "prompt_id": e.prompt_id,
                    "prompt": show_prompt(e.prompt),
                    "completion": e.text,
                    "score": e.raw_score,
                    "length": len(e.completion.tokens),
                    "eos": e.completion.finished,
                }
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path) if self.path.is_file() else []

    def gain(self) -> dict[str, float] | None:
        """Mean score of the last evaluation less the first, prompt by prompt, with its 95% interval."""
        rows = self.rows()
        steps = sorted({row["step"] for row in rows})
        if len(steps) < 2:
            return None
        first, last = (
            {r["prompt_id"]: r["score"] for r in rows if r["step"] == step} for step in (steps[0], steps[-1])
        )
        names = sorted(first)
        return mean_interval([last[n] - first[n] for n in names], names)

    def table(self) -> str:
        """The first and last completions side by side, as Markdown."""
        rows = self.rows()
        steps = sorted({row["step"] for row in rows})
        by = {(r["step"], r["prompt_id"]): r for r in rows}

        def cell(text: str) -> str:
            return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

        lines = (
            [f"| prompt | step {steps[0]} | score | step {steps[-1]} | score |", "|---|---|---|---|---|"]
            if steps
            else ["No evaluation."]
        )
        for name in dict.fromkeys(r["prompt_id"] for r in rows):
            a, b = by[steps[0], name], by[steps[-1], name]
            lines.append(
                f"| {cell(a['prompt'])} | {cell(a['completion'])} | {a['score']:.2f} | {cell(b['completion'])} | {b['score']:.2f} |"
            )
        return "\n".join(lines) + "\n"


def _open_parents(config: Config, run: Run) -> Any:
    """The sft model's tokenizer, every parent checked. Raises ArtifactError."""
    tokenizer = load_tokenizer(run.folder("sft"))
    for parent in ("data", "sft"):
        run.require(parent, tokenizer=fingerprint(tokenizer), force=config.force)
    if "reward" in parents("ppo", config):
        run.require("reward", force=config.force)  # it may have another tokenizer
    return tokenizer


def _check_lengths(tokenizer: Any, config: Config, run: Run) -> tuple[int, int]:
    """Tokens of the longest training prompt, and of the longest that is asked at all. Raises ConfigError where a prompt and its completion are more than the sft model reads."""
    from pipeline.training.roles import reward_on_base

    section, rows = config.ppo, prompt_rows(tokenizer, prompts(run, "train"))
    held_out = prompt_rows(tokenizer, prompts(run, "eval")[: section.eval_prompts])
    # a score on the policy's own base reads a completion that was cut with its EOS, as do layers whose states are kept for it
    end = int(section.tuning == "lora" and (section.lora.layers is not None or reward_on_base(config, run)))
    check_fits("ppo", run.folder("sft"), [*rows, *held_out], "ppo.response_length", section.response_length, end=end)
    mixed = [(f"demonstration {name}", read_at_once([*p, *c])) for name, p, c in _mixed(tokenizer, config, run)]
    check_fits("ppo", run.folder("sft"), mixed, "data.max_length")
    return max(length for _, length in rows), max(length for _, length in [*rows, *held_out])


def _mixed(tokenizer: Any, config: Config, run: Run) -> list[tuple[str, list[int], list[int]]]:
    """Ids, prompts and completions of the demonstrations that ppo.ptx_coef mixes in, as tokens; none where it is 0."""
    found = []
    for d in demonstrations(run, "train") if config.ppo.ptx_coef else ():
        prompt = encode_prompt(tokenizer, d.prompt)
        room = config.data.max_length - len(prompt)
        found.append((d.id, prompt, encode_completion(tokenizer, d.prompt, d.completion, room)))
    return found


def _metrics(result: Result) -> dict[str, float]:
    """The last iteration's figures, and some of the first one's under "first/"."""
    metrics = {key: value for key, value in result.last.items() if key not in ("step", "episode")}
    return metrics | {f"first/{key}": result.first[key] for key in FIRST if key in result.first}


def _sampled_tokens(metrics_file: Path, batch_size: int) -> float:
    """Tokens of all completions that training sampled, from the mean length of every iteration."""
    rows = read_rows(metrics_file) if metrics_file.is_file() else []
    return float(round(sum(row["completions/mean_length"] * batch_size for row in rows)))


def _said(tokenizer: Any, held_out: list[PromptRow], evaluations: Evaluations) -> list[Turn]:
    """Held-out prompts with what the policy said to them last, as tokens; with nothing but EOS where it was not asked."""
    last = {row["prompt_id"]: row["completion"] for row in evaluations.rows()}
    said = [(one["prompt"], last.get(one["id"], "")) for one in held_out]
    return [(encode_prompt(tokenizer, prompt), encode_completion(tokenizer, prompt, text)) for prompt, text in said]


def _save(
    made: Path,
    folder: Path,
    roles: Roles,
    tokenizer: Any,
    evaluations: Evaluations,
    turns: list[Turn],
    parent: Callable[[], Any],
) -> Published:
    """The critic first (merging changes the policy), then the policy merged and its adapter, which are held against each other on
    `turns` (`save_policy`); the logs of `folder` beside them."""
    from safetensors.torch import save_file

    made.mkdir(exist_ok=True)
    critic = {
        n: p for n, p in roles.trainable().items() if "value_head" in n or n.startswith("critic.") or f".{VALUE}." in n
    }
    (made / "critic").mkdir(exist_ok=True)
    save_file(read_back(critic), made / "critic" / "critic.safetensors")
    saved = save_policy(made, roles.policy, tokenizer, turns, parent, POLICY)
    for name in ("metrics.jsonl", "samples.jsonl"):
        if (folder / name).is_file():
            (made / name).write_bytes((folder / name).read_bytes())
    write_text(made / "samples.md", evaluations.table())
    return saved
