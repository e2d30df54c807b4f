"""The command line: python -m pipeline STAGE RECIPE [key=value …], and nothing else. Imports a stage only when it runs."""

import os
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated

from pipeline import ending

if __name__ == "__main__":  # before more is imported: from here on every end is told
    ending.begin()

import typer

import pipeline.training.quiet_imports  # noqa: F401  (first: libraries talk while they are imported)
from pipeline import waiting, with_people
from pipeline.arguments import Demo, Language, Name, Overrides, Recipe, called
from pipeline.artifacts import overview
from pipeline.artifacts.run import Run
from pipeline.commands import CALLER, Call
from pipeline.graph import STAGES, Stage, command_name
from pipeline.ranks import FURTHER_SEED
from pipeline.redaction import watch_terminal
from pipeline.running import guarded, make, make_all, make_share
from pipeline.settings import listing
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load

app = typer.Typer(
    help="RLHF in stages: data, sft, reward, ppo, compare. Each takes a recipe and key=value settings, and hands its result to the next through runs/NAME/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Processes = Annotated[
    int, typer.Option("--nproc", min=1, help="processes, started by accelerate launch (torchrun on CPU)")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="training seeds: the recipe's, and those that follow it")]
Verify = Annotated[bool, typer.Option("--verify", help="read every file again before a stage is told to be up to date")]


def command(record: Stage) -> None:
    """Put a stage on the command line."""
    stage = record.name

    def start(call: Call) -> None:
        guarded(lambda: make_share(stage, call) if FURTHER_SEED in os.environ else make(stage, call))

    def entry(
        recipe: Recipe,
        overrides: Overrides = None,
        run: Name = None,
        nproc: Processes = 1,
        verify: Verify = False,
        lang: Language = None,
    ) -> None:
        start(called(stage, recipe, overrides, run, lang, nproc=nproc, verify=verify))

    def seeded(
        recipe: Recipe,
        overrides: Overrides = None,
        run: Name = None,
        nproc: Processes = 1,
        seeds: Seeds = 1,
        verify: Verify = False,
        lang: Language = None,
    ) -> None:
        start(called(stage, recipe, overrides, run, lang, nproc=nproc, seeds=seeds, verify=verify))

    # a short help that is given is not cut
    app.command(command_name(stage), help=record.help, short_help=record.help)(seeded if record.seeded else entry)


for record in STAGES.values():
    command(record)


ALL = "All stages, one after another; those up to date are passed over."


@app.command("all", help=ALL, short_help=ALL)
def everything(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Name = None,
    nproc: Processes = 1,
    seeds: Seeds = 1,
    verify: Verify = False,
    lang: Language = None,
) -> None:
    guarded(lambda: make_all(called("all", recipe, overrides, run, lang, nproc=nproc, seeds=seeds, verify=verify)))


CHECK = "What is in a source of data and what is wrong with it; nothing trains."


@app.command("data-check", help=CHECK, short_help=CHECK)
def data_check(
    source: Annotated[
        str,
        typer.Argument(
            help="a file, pattern, folder, Hub id or module:function; or a recipe, for its own", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="settings of the data section, such as format=shp or reverse=true", show_default=False),
    ] = None,
    model: Annotated[str | None, typer.Option(help="whose tokenizer counts; default: the embedded model's")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    page: Annotated[Path | None, typer.Option(help="write a page to this file")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="judge as a run of this recipe would, by its max_length and the like")
    ] = None,
    lang: Language = None,
) -> None:
    def work() -> None:
        from pipeline.data_check import check as data_check

        waiting.allow(waiting.LIMIT)
        if not data_check.run(source, overrides or [], model, to, page, recipe, lang):
            raise ending.Ending(2)

    guarded(work)


app.add_typer(with_people.app)


PUSH = "Put a model of a run on the Hub, with a card and its report, and without what is private to the run."


@app.command("push", help=PUSH, short_help=PUSH)
def to_the_hub(
    to: Annotated[str, typer.Option(help="the repository, as name/repo", show_default=False)],
    run: Demo = "demo",
    model: Annotated[
        str, typer.Option(help="sft, reward, ppo, a baseline, or a further seed such as ppo_seed_1")
    ] = "ppo",
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="show files and card, send nothing")] = False,
    report: Annotated[bool, typer.Option(help="with the report, which shows held-out prompts and answers")] = True,
    license: Annotated[
        str | None, typer.Option(help="of the model; default: the base model's, where the Hub knows it")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="though its gate failed")] = False,
) -> None:
    def work() -> None:
        made = Run(run).as_made()  # first: what is no name of a run is told before the libraries are loaded
        from pipeline.sharing.push import push

        push(made, model, to, private=private, dry=dry, report=report, license=license, force=force)

    guarded(work)


INSIDE = "One completion from the inside: tokens, layers, heads, reward, sampling; writes a page."


@app.command("inspect", help=INSIDE, short_help=INSIDE)  # a short help that is given is not cut
def look_inside(
    recipe: Recipe,
    overrides: Overrides = None,
    prompt: Annotated[str, typer.Option(help="a text, or the id of a held-out prompt")] = "",
    completion: Annotated[str | None, typer.Option(help="what to look at; default: sample it")] = None,
    model: Annotated[str, typer.Option(help="ppo, sft, base, a folder or a Hub id")] = "ppo",
    seed: Annotated[int | None, typer.Option(min=0, help="of the sampling; default: the run's")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="send the text through the chat template, as a user's message")
    ] = False,
    run: Name = None,
    lang: Language = None,
) -> None:
    def work() -> None:
        given = [
            ("MODEL", model if model != "ppo" else ""),
            ("PROMPT", prompt if prompt.strip() else "A funny"),
            ("COMPLETION", completion or ""),
            ("CHAT", "1" if chat else ""),
        ]
        call = replace(called("inspect", recipe, overrides, run, lang), options=tuple(one for one in given if one[1]))
        config = load(recipe, call.overrides)
        if not prompt.strip():
            raise ConfigError(f"the prompt is empty; give a text, or the id of a held-out prompt; run: {call.again()}")
        made = Run(call.run, call=call)
        from pipeline.training.context import quiet

        quiet()  # first: libraries talk while they are imported
        from pipeline.inspect import look as inspect

        print(f"inspect: {inspect.run(config, made, prompt, completion, model, seed, chat)}")

    guarded(work)


PLAN = "What a run of PPO would need and how fast it would be, on how many of which GPUs; from the config, without weights."


@app.command("plan", help=PLAN, short_help=PLAN)
def plan_ahead(
    recipe: Recipe,
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="a folder, a Hub id, or a size such as 7B; default: the recipe's model")
    ] = None,
    gpus: Annotated[int, typer.Option(help="how many")] = 1,
    gpu: Annotated[str, typer.Option(help="h200, a100-80, 4090, cpu, or here: this machine, measured")] = "h200",
    price: Annotated[float | None, typer.Option(help="dollars an hour for one, to count episodes a dollar")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="of each prompt; default: data.max_length less ppo.response_length")
    ] = None,
) -> None:
    def work() -> None:
        config = load(recipe, overrides or [])
        from pipeline.training.context import quiet

        quiet()
        from pipeline.plan.plan import plan

        print("\n".join(plan(config, model, gpus, gpu, price, prompt_tokens)))

    guarded(work)


RUNS = "What lies in runs/: stages, gates, sizes, settings that differ, what is kept."
PRUNE = "Remove what runs keep of former results (runs/NAME/.kept), once you say yes."
OneRun = Annotated[str | None, typer.Option("--run", envvar="PIPELINE_RUN", help="this run alone; default: all")]


@app.command("runs", help=RUNS, short_help=RUNS)
def list_runs(run: OneRun = None) -> None:
    guarded(lambda: print("\n".join(overview.listing(only=run))))


@app.command("prune", help=PRUNE, short_help=PRUNE)
def prune(
    run: OneRun = None, yes: Annotated[bool, typer.Option("--yes", help="remove without asking")] = False
) -> None:
    guarded(lambda: overview.prune_asked(run, yes))


SERVER = "Become a vLLM server of the run's sft model, which samples for stage ppo (ppo.engine=vllm_server)."


@app.command("vllm-server", help=SERVER, short_help=SERVER)
def vllm_server(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Name = None,
    python: Annotated[Path, typer.Option(help="of an environment with vLLM and this package")] = Path(sys.executable),
) -> None:
    def work() -> None:
        from pipeline.sharing.vllm_server import serve

        call = called("vllm-server", recipe, overrides, run)
        serve(load(recipe, call.overrides), Run(call.run, call=call), python)

    guarded(work)


SETTINGS = "Every setting with its default and meaning, or those of one section."


@app.command("settings", help=SETTINGS, short_help=SETTINGS)
def settings(
    section: Annotated[str, typer.Argument(help="such as ppo or compare.generation", show_default=False)] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="all, as the page docs/settings.md")] = False,
) -> None:
    def work() -> None:
        print(listing.markdown() if markdown else "\n".join(listing.lines(section)), end="" if markdown else "\n")

    guarded(work)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rlhf-pipeline {metadata.version('rlhf-pipeline')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="say which version this is", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def rlhf() -> None:
    """The console script of that name; what it starts, and the commands in its messages, go by it."""
    os.environ.setdefault(CALLER, "rlhf")
    ending.begin()
    watch_terminal()
    app(prog_name="rlhf")


if __name__ == "__main__":
    watch_terminal()
    app(prog_name="python -m pipeline")
