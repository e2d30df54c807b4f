"""The commands with which people watch, rank, vote and talk to models. Imports what a command needs only when it runs."""

from dataclasses import replace
from typing import Annotated

import typer

from pipeline.arguments import Demo, Language, Name, Overrides, Recipe, called
from pipeline.artifacts.run import Run
from pipeline.running import guarded
from pipeline.settings.recipe import load

app = typer.Typer()

WEB = "Watch runs, rank answers, vote blind and chat, in a browser on this machine."


@app.command("web", help=WEB, short_help=WEB)
def in_a_browser(
    run: Demo = "demo",
    host: Annotated[
        str, typer.Option(help="where to answer; another address lets others on the network ask")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="default: 8377, or another where it is taken", show_default=False),
    ] = None,
    lang: Language = None,
) -> None:
    def work() -> None:
        from pipeline.web import serve

        serve.serve(Run(run), host, port, lang)

    guarded(work)


WATCH = "A run on the terminal as it goes on: stages, gates, steps, time left; without a terminal one line a minute."


@app.command("watch", help=WATCH, short_help=WATCH)
def on_the_terminal(run: Demo = "demo") -> None:
    def work() -> None:
        from pipeline.web.terminal import watch

        watch(run)

    guarded(work)


RANK = "Put answers into the queue that people order at /rank: K to each training prompt, sampled from models, or those of a file."


@app.command("rank", help=RANK, short_help=RANK)
def ask_people(
    recipe: Recipe,
    overrides: Overrides = None,
    model: Annotated[str, typer.Option(help="one model or several, as compare.models names them")] = "sft ppo",
    k: Annotated[int, typer.Option("--k", help="answers to a prompt, the models by turns")] = 4,
    prompts: Annotated[int, typer.Option(help="how many training prompts; held-out ones are never asked")] = 50,
    source: Annotated[
        str | None, typer.Option("--from", help='instead: a file of rows {"prompt": …, "completions": […]}')
    ] = None,
    run: Name = None,
) -> None:
    def work() -> None:
        given = [("MODEL", model), ("K", str(k)), ("PROMPTS", str(prompts))] if source is None else [("FROM", source)]
        call = replace(called("rank", recipe, overrides, run), options=tuple(given))
        config = load(recipe, [*call.overrides, f"compare.models=[{','.join(model.split())}]"])
        made = Run(call.run, call=call)
        from pipeline.training.context import quiet

        quiet()
        from pipeline.people import sampling

        print(sampling.queued(config, made, k, prompts, source))

    guarded(work)


RANKINGS = "Write what people said as files that the pipeline reads: people/rankings.jsonl, people/votes.jsonl."


@app.command("rankings", help=RANKINGS, short_help=RANKINGS)
def what_people_said(run: Demo = "demo") -> None:
    def work() -> None:
        from pipeline.people import export

        print(export.told(export.export(Run(run))))

    guarded(work)


ITERATE = (
    "Rounds of rank, reward and ppo, each beginning at the last one's policy: goes on as far as people have ranked."
)


@app.command("iterate", help=ITERATE, short_help=ITERATE)
def in_rounds(
    recipe: Recipe,
    overrides: Overrides = None,
    run: Name = None,
    rounds: Annotated[int, typer.Option(help="how many rounds in all")] = 1,
    k: Annotated[int, typer.Option("--k", help="answers to a prompt")] = 4,
    prompts: Annotated[int, typer.Option(help="training prompts that are asked about in a round")] = 50,
    person: Annotated[
        str,
        typer.Option(help="a simulated person in place of people: a reward model's path or Hub id, or module:function"),
    ] = "",
    lang: Language = None,
) -> None:
    def work() -> None:
        from pipeline.rounds import Asked, iterate

        given = [
            ("ROUNDS", str(rounds)),
            ("K", str(k)),
            ("PROMPTS", str(prompts)),
            *([("PERSON", person)] if person else []),
        ]
        call = replace(called("iterate", recipe, overrides, run, lang), options=tuple(given))
        iterate(Asked(call, rounds, k, prompts, person))

    guarded(work)


SERVE = "Answer programs as a model of the run: transformers' own server, OpenAI-compatible."


@app.command("serve", help=SERVE, short_help=SERVE)
def for_programs(
    run: Demo = "demo",
    model: Annotated[str, typer.Option(help="a model of the run that speaks, such as sft or ppo_seed_1")] = "ppo",
    port: Annotated[int, typer.Option(min=1, max=65535, help="where it answers, on this machine alone")] = 8000,
) -> None:
    def work() -> None:
        from pipeline.sharing.serving import serve

        serve(Run(run), model, port)

    guarded(work)
