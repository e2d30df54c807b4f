"""How does a run go on from what people say? In rounds of rank → reward → ppo, each a run of its own that begins at the last one's policy.

    make iterate RUN=demo ROUNDS=2                                  # asks people; the same command goes on when they have ranked
    make iterate RUN=demo ROUNDS=2 PERSON=runs/taste/reward         # a simulated person: a reward model, or module:function

Round n asks about answers of the policy that is there (K to each of PROMPTS training prompts), writes what people of all rounds
said as one file, and makes data, sft (the policy as it is), reward and ppo of RUN-round-n from it. What is finished is not made again.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows, write_json, write_text
from pipeline.artifacts.run import Run
from pipeline.commands import Call, opening
from pipeline.ending import Ending, ended
from pipeline.language import LANGUAGES, named, spoken
from pipeline.pages.common import page_template
from pipeline.people import export
from pipeline.people.choosing import Desk
from pipeline.people.store import open_store, path_of
from pipeline.running import chain, guarded, in_a_process
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load

STAGES = ("data", "sft", "reward", "ppo")
FOLDER, FIGURES, PAGE = "rounds", "rounds.json", "rounds.html"
HELD_OUT = 100  # prompts on which a simulated person says what was gained


@dataclass(frozen=True)
class Asked:
    """What `make iterate` was asked: so many rounds, K answers to each of so many prompts, and who ranks them ("": people)."""

    call: Call
    rounds: int
    k: int
    prompts: int
    person: str = ""

    def run(self, number: int) -> Run:
        """The run of a round; that of round 0 is the one that the rounds begin from."""
        name = self.call.run if number == 0 else f"{self.call.run}-round-{number}"
        return Run(name, call=replace(self.call, run=name, overrides=tuple(self.settings(number))))

    def settings(self, number: int) -> list[str]:
        """The settings of a round's run: the recipe's, what the round begins from, and what it learns."""
        if number == 0:
            return list(self.call.overrides)
        root, before = Path("runs") / self.call.run, Path("runs") / self.run(number - 1).name
        own = {
            "model": before / "ppo",
            "revision": "null",
            "sft.max_steps": 0,
            "data.mixture": "[]",
            "data.source": self.rankings(number),
            "data.format": "ranking",
            "data.demonstrations": root / "data" / "demonstrations.train.jsonl",
            "data.prompts": root / "data" / "prompts.train.jsonl",
            "data.eval_prompts": root / "data" / "prompts.eval.jsonl",
        }
        return [*self.call.overrides, *(f"{name}={value}" for name, value in own.items())]

    def rankings(self, number: int) -> Path:
        """The file of what people said in all rounds up to this one."""
        return path_of(Run(self.call.run)).parent / FOLDER / f"round-{number}.jsonl"


def iterate(asked: Asked) -> None:
    """Go on as far as it goes: to the end of the last round, or to where people have to rank. Raises ArtifactError and ConfigError for
    what a user can mend; ends with the code of a stage that fails."""
    if asked.rounds < 1:
        raise ConfigError(f"ROUNDS={asked.rounds}: give one or more, such as ROUNDS=2")
    first = asked.run(0)
    for stage in STAGES:
        first.require(stage, force=load(asked.call.recipe, asked.call.overrides).force)
    for number in range(1, asked.rounds + 1):
        if not _said(asked, number):
            return
        made, call = asked.run(number), asked.run(number).call
        assert call is not None
        print(f"round {number}: runs/{made.name} from {asked.rankings(number)}", flush=True)
        chain(STAGES, call, load(call.recipe, call.overrides))
        _show(asked, number)


def _said(asked: Asked, number: int) -> bool:
    """Whether the file of what people said is there for a round; where it is not, ask them, and write it once nothing is left to rank."""
    path, before = asked.rankings(number), asked.run(number - 1)
    if path.is_file():
        return True
    store = open_store(before)
    if not any(item.kind == "rank" for item in store.items()):
        _in_a_process(_ask, asked, number)
    if asked.person:
        _in_a_process(_simulate, asked, number)
    left = Desk(store.items(), store.events(), "", datetime.now(UTC)).left()
    if open_items := left.items - left.ranked - left.reported:
        print(
            f"round {number}: {open_items} of {left.items} items are not ranked yet; rank them, then the same command goes on; "
            f"next: {opening(before.name)}"
        )
        return False
    rows = list(read_rows(asked.rankings(number - 1))) if number > 1 else []
    rows += export.export(before).rankings
    if not rows:
        raise ArtifactError(
            f"{store.path}: nobody put one answer above another, so there is nothing to learn; rank more"
        )
    path.parent.mkdir(mode=0o700, exist_ok=True)
    export.write_lines(path, rows)
    return True


def _in_a_process(work: Any, *arguments: Any) -> None:
    """What needs models, in a process that gives their memory back; ends as it does."""
    if code := ended("the process that asks models", in_a_process(work, *arguments)):
        raise Ending(code)


def _ask(asked: Asked, number: int) -> None:
    """Fill the queue with answers of the policy that the round begins from."""

    def work() -> None:
        from pipeline.people import sampling
        from pipeline.training.context import quiet

        quiet()
        before = asked.run(number - 1)
        config = load(asked.call.recipe, [*asked.settings(number - 1), "compare.models=[ppo]"])
        print(sampling.from_models(config, before, asked.k, asked.prompts), flush=True)

    guarded(work)


def _simulate(asked: Asked, number: int) -> None:
    def work() -> None:
        from pipeline.people import taste
        from pipeline.training.context import quiet

        quiet()
        count = taste.answer_queue(_by_taste(asked), asked.run(number - 1))
        print(f"round {number}: {asked.person} ranked {count} items", flush=True)

    guarded(work)


def _by_taste(asked: Asked) -> Any:
    """The recipe whose score is the simulated person's taste."""
    own = [f"ppo.reward_funcs=[{json.dumps(asked.person)}]", "ppo.reward_weights=null"]
    return load(asked.call.recipe, [*asked.call.overrides, *own])


def _show(asked: Asked, number: int) -> None:
    """Write what each round so far gained: figures, and a page of them in every language; say where the one of `report.language` is."""
    folder = asked.rankings(number).parent
    if asked.person:
        _in_a_process(_measure, asked, number)
    known = json.loads((folder / FIGURES).read_text(encoding="utf-8")) if asked.person else None
    rounds = [_figures(asked, one) for one in range(number + 1)]
    given = [(name, str(number + 1) if name == "ROUNDS" else value) for name, value in asked.call.options]
    command = replace(asked.call, caller="make").line("iterate", options=given)
    root = Path("runs") / asked.call.run
    for language in LANGUAGES:
        with spoken(language):
            page = page_template("rounds.html.j2").render(
                run=asked.call.run, rounds=rounds, taste=known, person=asked.person, command=command
            )
            write_text(root / named(PAGE), page)
    with spoken(load(asked.call.recipe, asked.call.overrides).report.language):
        print(f"round {number}: what each round gained: {root / named(PAGE)}", flush=True)


def _measure(asked: Asked, number: int) -> None:
    def work() -> None:
        from pipeline.people import taste
        from pipeline.training.context import quiet

        quiet()
        runs = [asked.run(one) for one in range(number + 1)]
        write_json(asked.rankings(number).parent / FIGURES, taste.gains(_by_taste(asked), runs, HELD_OUT))

    guarded(work)


def _figures(asked: Asked, number: int) -> dict[str, Any]:
    """What the manifests of a round's run say."""
    run = asked.run(number)
    reward, ppo = run.manifest("reward"), run.manifest("ppo")
    assert reward is not None and ppo is not None
    rows = list(read_rows(asked.rankings(number))) if number else []
    return {
        "name": run.name,
        "number": number,
        "rankings": len(rows),
        "people": len({row.get("annotator") for row in rows} - {None}),
        "accuracy": reward.metrics.get("pairwise_accuracy"),
        "pairs": reward.metrics.get("pairs"),
        "score": ppo.metrics.get("eval/scores"),
        "kl": ppo.metrics.get("objective/kl"),
        "length": ppo.metrics.get("eval/mean_length"),
        "gates": {stage: found.gate["result"] for stage in STAGES if (found := run.manifest(stage)) is not None},
    }
