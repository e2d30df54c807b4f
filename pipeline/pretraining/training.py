"""How does a model that is made from nothing learn? transformers' Trainer on the rows of its objective, measured and heard as it goes."""

import json
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from pipeline.pretraining.objective import Rows
from pipeline.settings.pretrain import Pretrain
from pipeline.training.sharing import shared
from pipeline.training.trainers import OneDevice, Report, batched_order, check_recomputes, train, trainer_arguments
from policies.drawing import noise
from policies.rollout import sample
from policies.tokenizers import eos_ids

SAMPLES = "samples.jsonl"


class RowArguments(OneDevice, TrainingArguments):
    """transformers.TrainingArguments for one device a process."""


class Draws(Dataset[dict[str, Any]]):
    """The rows of all optimizer steps, in order."""

    def __init__(self, order: list[int], rows: Rows):
        self.order, self.rows = order, rows

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        return self.rows(self.order[draw], draw)


class RowTrainer(Trainer):
    """transformers.Trainer, whose log also has what was measured at a step, and the tokens that were read so far."""

    arguments: ClassVar[dict[str, Any]] = {}  # of TrainingArguments, that are not settings
    heard: "Heard"
    tokens_read: list[int]  # with how many steps, from 0 on

    def log(self, logs: dict[str, float], *more: Any, **others: Any) -> None:
        if "loss" in logs:
            logs |= {"num_tokens": float(self.tokens_read[self.state.global_step]), **self.heard.taken()}
        super().log(logs, *more, **others)


class Heard(TrainerCallback):
    """Every sample_steps, and at the last step, the held-out figures and samples. `ask` gives both, and is called by every process."""

    def __init__(
        self, section: Pretrain, folder: Path, ask: Callable[[Any], tuple[dict[str, float], list[dict[str, Any]]]]
    ):
        self.section, self.path, self.ask = section, folder / SAMPLES, ask
        self.figures: dict[str, float] = {}

    def taken(self) -> dict[str, float]:
        """What was measured since the last call."""
        figures, self.figures = self.figures, {}
        return {f"eval/{name}": value for name, value in figures.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = [row for row in read(self.path) if row["step"] <= state.global_step and state.global_step]
        self.path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.section.sample_steps and state.global_step < state.max_steps:
            return
        self.hear(state.global_step, model, state.is_world_process_zero)
        control.should_log = True

    def hear(self, step: int, model: Any, writes: bool) -> dict[str, float]:
        """Measure `model`, write its samples on the process that `writes`, and give the figures."""
        learning, caching = model.training, model.config.use_cache
        model.eval()
        self.figures, samples = self.ask(model)
        model.train(learning)
        model.config.use_cache = caching
        if writes:
            with self.path.open("a", encoding="utf-8") as file:
                for number, row in enumerate(samples):
                    file.write(json.dumps({"step": step, "prompt_id": str(number), **row}, ensure_ascii=False) + "\n")
        return self.figures


def read(path: Path) -> list[dict[str, Any]]:
    """The samples that were written whole."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:  # torn off by a kill
            break
    return found


def learn(
    section: Pretrain,
    model: Any,
    rows: tuple[Sequence[int], Rows],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    heard: Heard,
    folder: Path,
    accelerator: Any,
    seed: int,
    report: Report,
    kind: type[RowTrainer] = RowTrainer,
) -> tuple[Any, dict[str, float]]:
    """Learn the rows from the last state in `folder` on: (the trained model in eval mode, what was read and how fast)."""
    check_recomputes(model, section)
    lengths = rows[0]
    order = batched_order(lengths, section, seed)
    given = trainer_arguments(section, folder, accelerator.num_processes, seed) | kind.arguments
    arguments = RowArguments(**given)
    trainer = kind(model=model, args=arguments, train_dataset=Draws(order, rows[1]), data_collator=collate)
    read = [0, *accumulate(lengths[i] for i in order)][:: section.batch_size]
    trainer.heard, trainer.tokens_read = heard, read
    trainer.add_callback(heard)
    seconds, skipped = train(trainer, report, folder, section)
    steps = len(order) // section.batch_size
    done = read[steps] - read[skipped]
    figures = {
        "steps": float(steps),
        "train_rows": float(len(lengths)),
        "epochs": len(order) / len(lengths),
        "train_tokens": float(read[steps]),
        "tokens_per_second": done / seconds if seconds else 0.0,
    }
    return trainer.accelerator.unwrap_model(trainer.model).eval(), figures


def sampled(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], most: int, seed: int
) -> list[tuple[list[int], bool]]:
    """For each prompt of tokens what the model says at temperature 1, up to `most` tokens, without its end; and whether it ended by itself.
    The noise is the same whenever it is asked for. Every process is to ask."""

    def work(mine: Any) -> list[tuple[list[int], bool]]:
        found = sample(
            model,
            [prompts[number] for number in mine],
            [noise(seed, 0, f"pretrain {number}", 0, most) for number in mine],
            eos_ids=eos_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=1.0,
            batch_size=16,
        )
        return [(one.tokens[:-1] if one.finished else one.tokens, one.finished) for one in found]

    return shared(range(len(prompts)), work)


def as_page(rows: list[dict[str, Any]]) -> str:
    """Samples for people: what was said at each step, prompt by prompt."""
    parts = ["# What the model says as it learns\n"]
    for number in dict.fromkeys(row["prompt_id"] for row in rows):
        own = [row for row in rows if row["prompt_id"] == number]
        begun = json.dumps(own[0]["prompt"], ensure_ascii=False) if own[0]["prompt"] else "nothing"
        parts.append(f"\n## From {begun}\n")
        for row in own:
            end = "" if row.get("eos", True) else " …"
            parts.append(f"- step {row['step']}: {json.dumps(row['completion'], ensure_ascii=False)}{end}")
    return "\n".join(parts) + "\n"
