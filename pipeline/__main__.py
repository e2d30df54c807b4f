"""The command line: python -m pipeline STAGE RECIPE [key=value …]. Imports a stage only when it runs."""

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.artifacts.freshness import finished, parents
from pipeline.artifacts.ownership import ArtifactError
from pipeline.artifacts.reproduce import given
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import settled
from pipeline.graph import BASELINES, STAGES, WALK, Stage, command_name
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.recipe import fields, load

app = typer.Typer(
    help="RLHF in stages: data, sft, reward, ppo, compare. Each takes a recipe and key=value settings, and hands its result to the next through runs/NAME/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Recipe = Annotated[Path, typer.Argument(help="a YAML recipe, such as recipes/film_reviews.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings that replace the recipe's, such as ppo.kl_coef=0.1", show_default=False),
]
Name = Annotated[
    str | None, typer.Option("--run", envvar="PIPELINE_RUN", help="folder under runs/; default: the recipe's name")
]
Processes = Annotated[
    int, typer.Option("--nproc", min=1, help="processes, started by accelerate launch (torchrun on CPU)")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="training seeds: the recipe's, and those that follow it")]
Further = Annotated[int, typer.Option("--further-seed", min=0, hidden=True, envvar="PIPELINE_FURTHER_SEED")]


def user_errors() -> tuple[type[Exception], ...]:
    """What a user can mend: shown as one sentence each, exit code 2. Anything else keeps its traceback."""
    found: list[type[Exception]] = [ArtifactError, ConfigError]
    for module, name in (
        ("data.schema", "DataError"),
        ("pipeline.artifacts.embedded", "FetchError"),
        ("pipeline.judges.judge", "JudgeError"),
        ("policies.backbone", "BackboneError"),
        ("reward.functions", "RewardError"),
        ("reward.model", "ScoringError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def guarded(work: Any) -> None:
    """Run `work` and turn a user's mistakes into sentences and exit code 2, an interruption into 130."""
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last state", file=sys.stderr)
        os._exit(130) if "RANK" in os.environ else sys.exit(130)
    except Exception as error:
        if not isinstance(error, user_errors()):
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def due(stage: str, config: Config, run: Run) -> bool:
    """Whether the stage is to be made: it is not up to date. What is missing is told before anything heavy is imported or started."""
    if (done := finished(run, stage, config)) is not None:
        if run.main_process:
            print(f"{stage}: {run.folder(stage)} is up to date (gate {done.gate['result']})")
        return False
    if not STAGES[stage].one_process:
        config.check_stage(stage, run.world_size)
    for parent in parents(stage, config):
        run.identity(parent)
    return True


def due_seed(config: Config, name: str, nproc: int, stage: str, further: int) -> bool:
    """Whether the stage is to be made with the seed `further` after the recipe's."""
    return due(stage, *settled(stage, config, Run(name, world_size=1 if STAGES[stage].one_process else nproc), further))


def missing_baselines(config: Config, name: str) -> list[str]:
    """The baselines that compare.models names and the run does not have yet."""
    return [stage for stage in parents("compare", config) if stage in BASELINES and Run(name).manifest(stage) is None]


def run_stage(stage: str, config: Config, name: str, command: dict[str, Any] | None = None, further: int = 0) -> None:
    """Make one stage, unless it is up to date. `command` is what its manifest keeps of the command line; `further` seeds
    after the recipe's, it is made beside its own folder."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    expected = int(os.environ.get("PIPELINE_NPROC", str(world)))
    if world != expected:
        raise ConfigError(
            f"{expected} processes were asked for and {world} started; check --nproc and the launcher's settings"
        )
    if world > 1 and STAGES[stage].one_process:
        raise ConfigError(f"{stage} is the work of one process, and {world} were started; start it without a launcher")
    run = Run(name, main_process=os.environ.get("RANK", "0") == "0", world_size=world, command=command)
    config, run = settled(stage, config, run, further)
    if not due(stage, config, run):
        return
    with run.held(stage):
        if due(stage, config, run):  # another process may have made it meanwhile
            _make(stage, config, run)


def _make(stage: str, config: Config, run: Run) -> None:
    module = importlib.import_module(f"pipeline.stages.{stage}")
    importlib.import_module("pipeline.training.context").quiet()
    manifest = module.run(config, run)
    if run.main_process:
        print(module.summary(manifest, run), flush=True)


def command(record: Stage) -> None:
    """Put a stage on the command line."""
    stage = record.name

    def start(
        recipe: Path, overrides: list[str] | None, run: str | None, nproc: int, seeds: int = 1, further: int = 0
    ) -> None:
        def work() -> None:
            config = load(recipe, overrides or [])
            if nproc > 1 and stage == "rloo":
                raise ConfigError(f"rloo is the work of one process, and {nproc} were asked for; leave out NPROC")
            first = missing_baselines(config, run or recipe.stem) if stage == "compare" else []
            if first:
                print(f"compare: first {', '.join(map(command_name, first))}, to be compared with", flush=True)
            if first or seeds > 1:
                from pipeline.running import chain

                due_with = partial(due_seed, config, run or recipe.stem, nproc)
                chain([*first, stage], recipe, overrides or [], run or recipe.stem, nproc, seeds, due_with)
            elif nproc > 1 and not STAGES[stage].one_process:
                from pipeline.running import launch

                if due_seed(config, run or recipe.stem, nproc, stage, further):
                    launch(stage, recipe, overrides or [], run or recipe.stem, nproc, further)
            else:
                run_stage(stage, config, run or recipe.stem, given(recipe, overrides or []), further)

        guarded(work)

    def entry(recipe: Recipe, overrides: Overrides = None, run: Name = None, nproc: Processes = 1) -> None:
        start(recipe, overrides, run, nproc)

    def seeded(
        recipe: Recipe,
        overrides: Overrides = None,
        run: Name = None,
        nproc: Processes = 1,
        seeds: Seeds = 1,
        further: Further = 0,
    ) -> None:
        start(recipe, overrides, run, nproc, seeds, further)

    # a short help that is given is not cut
    app.command(command_name(stage), help=record.help, short_help=record.help)(seeded if record.seeded else entry)


for record in STAGES.values():
    command(record)


ALL = "All stages, one after another; those up to date are passed over."


@app.command("all", help=ALL, short_help=ALL)
def everything(
    recipe: Recipe, overrides: Overrides = None, run: Name = None, nproc: Processes = 1, seeds: Seeds = 1
) -> None:
    def work() -> None:
        from pipeline.running import chain

        config = load(recipe, overrides or [])
        stages = [stage for stage in WALK if stage != "reward" or "reward" in parents("ppo", config)]
        if config.data.gold_fraction and config.compare.gold is None:
            stages.insert(stages.index("compare"), "gold")
        due_with = partial(due_seed, config, run or recipe.stem, nproc)
        chain(stages, recipe, overrides or [], run or recipe.stem, nproc, seeds, due_with)

    guarded(work)


CHECK = "What is in a source of data and what is wrong with it; nothing trains."


@app.command("data-check", help=CHECK, short_help=CHECK)
def data_check(
    source: Annotated[
        str, typer.Argument(help="a file, pattern, folder, Hub id or module:function", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="settings of the data section, such as format=shp or reverse=true", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="whose tokenizer counts; default: the embedded model's")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    page: Annotated[Path | None, typer.Option(help="write a page to this file")] = None,
) -> None:
    def work() -> None:
        from pipeline.data_check import check as data_check

        if not data_check.run(source, overrides or [], model, to, page):
            sys.exit(2)

    guarded(work)


INSIDE = "One completion from the inside, token by token; writes a page."


@app.command("inspect", help=INSIDE, short_help=INSIDE)  # a short help that is given is not cut
def look_inside(
    recipe: Recipe,
    overrides: Overrides = None,
    prompt: Annotated[str, typer.Option(help="a text, or the id of a held-out prompt")] = "",
    completion: Annotated[str | None, typer.Option(help="what to look at; default: sample it")] = None,
    model: Annotated[str, typer.Option(help="ppo, sft, base, a folder or a Hub id")] = "ppo",
    seed: Annotated[int | None, typer.Option(min=0, help="of the sampling; default: the run's")] = None,
    run: Name = None,
) -> None:
    def work() -> None:
        config = load(recipe, overrides or [])
        from pipeline.inspect import look as inspect
        from pipeline.training.context import quiet

        quiet()
        print(f"inspect: {inspect.run(config, Run(run or recipe.stem), prompt, completion, model, seed)}")

    guarded(work)


@app.command("settings", help="Every setting with its default and meaning.")
def settings() -> None:
    for name, info in fields().items():
        default = json.dumps(info.get_default(call_default_factory=True), ensure_ascii=False)  # JSON is YAML
        print(f"{name} = {default}" + (f"    # {info.description}" if info.description else ""))


if __name__ == "__main__":
    app(prog_name="python -m pipeline")
