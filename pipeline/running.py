"""When is a stage made, and in which processes? One process a stage, so that each gives its memory back; several through
accelerate or torchrun. Imports a stage only when it runs."""

import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pipeline import ending, nodes, waiting
from pipeline.artifacts import lineage
from pipeline.artifacts.changes import Step, announcement
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import finished, models_read, own_base, parents, read_by, read_now
from pipeline.artifacts.kept import check_room, settled, taken_back
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refusals import sentence
from pipeline.artifacts.run import Run
from pipeline.artifacts.seeds import with_seed
from pipeline.artifacts.unchanged import unchanged
from pipeline.commands import Call
from pipeline.ending import ENDS, FAULT, INTERRUPTED, MISTAKE
from pipeline.graph import BASELINES, PRETRAINED, STAGES, WALK, command_name
from pipeline.language import language_now, named, spoken
from pipeline.pages.progress import never_silent
from pipeline.ranks import ASKED, FURTHER_SEED, environment, launch
from pipeline.redaction import redacted, watch_terminal
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.outside import check_outside
from pipeline.settings.recipe import load
from pipeline.training.launcher import check_started


def user_errors() -> tuple[type[Exception], ...]:
    """What a user can mend: shown as one sentence each, exit code 2. Anything else keeps its traceback."""
    found: list[type[Exception]] = [ArtifactError, ConfigError]
    for module, name in (
        ("data.schema", "DataError"),
        ("pipeline.artifacts.embedded", "FetchError"),
        ("pipeline.judges.judge", "JudgeError"),
        ("pipeline.sharing.push", "PushError"),
        ("policies.errors", "BackboneError"),
        ("reward.functions", "RewardError"),
        ("reward.rendering", "ScoringError"),
    ):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def guarded(work: Callable[[], None]) -> None:
    """Run `work` and turn a user's mistakes into sentences and exit code 2, an interruption into a line and its signal's code, and an
    end that a user's function asks for into a mistake."""
    watch_terminal()
    try:
        with ending.guarding():
            work()
        ending.done()
    except ending.Ending:
        raise
    except KeyboardInterrupt as error:
        from_within = f"interrupted by {ending.culprit(error.__traceback__)}, which raised KeyboardInterrupt; the same command goes on"
        _leave(INTERRUPTED, ending.sentence() if ending.asked() else from_within, ending.code())
    except SystemExit as error:
        place = ending.culprit(error.__traceback__)
        _leave(
            MISTAKE,
            f"error: {place}: it ended the program (SystemExit: {error.code}) before its work was done; let it raise an error, or return",
            2,
        )
    except Exception as error:
        told = str(error) if isinstance(error, user_errors()) else sentence(error)
        if told is not None:
            _leave(MISTAKE, f"error: {told}", 2)
        if ENDS not in os.environ:
            raise
        _leave(FAULT, traceback.format_exc(), 1)


def _leave(kind: str, text: str, code: int) -> NoReturn:
    with suppress(OSError):  # the terminal may be a file on a full disk
        ending.say(kind, redacted(text))
    if "RANK" not in os.environ and not (kind == INTERRUPTED and ending.alone()):
        raise ending.Ending(code)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # the others may wait for this process, and it for them; and an interpreter's end takes seconds


def due(stage: str, config: Config, run: Run) -> bool:
    """Whether the stage is to be made: it is not up to date, and no former result of it is what it would be. One that is is taken
    back here. What is missing is told before anything heavy is imported or started."""
    if run.main_process:
        settled(run, stage)
    lineage.check(run, stage, config)
    # before a look at what is finished: the main process may move it between the two
    kept = None if run.main_process else taken_back(run, stage, config)
    done = finished(run, stage, config) or kept
    if done is None and run.main_process:
        done = taken_back(run, stage, config)
    if done is not None:
        with spoken(config.report.language):
            _tell_up_to_date(stage, run, done)
        return False
    if not STAGES[stage].one_process:
        config.check_stage(stage, run.world_size)
    if stage == "gold" and not config.data.gold_fraction:
        remedy = run.remedy("data", "sft", "reward", "gold", adding=["data.gold_fraction=0.5"])
        raise ConfigError(f"data.gold_fraction: it is 0, so no rankings are set aside for a gold model; {remedy}")
    for parent in read_by(run, stage, config):
        run.identity(parent)
    return True


def _tell_up_to_date(stage: str, run: Run, done: Manifest) -> None:
    if run.main_process:
        page = run.folder(stage) / named("report.html")
        told = f"; open {page}" if language_now() != "en" and page.is_file() else ""
        print(f"{stage}: {run.folder(stage)} is up to date (gate {done.gate['result']}){told}")
        _write_index(run)  # it may have been taken back


def due_seed(config: Config, call: Call, stage: str, further: int) -> bool:
    """Whether the stage is to be made with the seed `further` after the recipe's."""
    world = 1 if STAGES[stage].one_process else call.nproc
    return due(stage, *with_seed(stage, config, Run(call.run, world_size=world, call=call), further))


def run_stage(
    stage: str, config: Config, name: str, call: Call | None = None, further: int = 0, told: bool = False
) -> None:
    """Make one stage, unless it is up to date. `call` is the command line that asked for it, if one did; `further` seeds after
    the recipe's, it is made beside its own folder. `told`: what it replaces was said by who called it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    expected = int(os.environ.get("PIPELINE_NPROC", str(world)))
    if world != expected:
        raise ConfigError(
            f"{expected} processes were asked for and {world} started; check --nproc and the launcher's settings"
        )
    if world > 1 and STAGES[stage].one_process:
        remedy = Run(name, call=call).remedy(stage)
        raise ConfigError(f"{stage} is the work of one process, and a launcher started {world}; without it, {remedy}")
    if ENDS not in os.environ:  # else it was started by `launch`
        check_started(STAGES[stage].one_process)
        if world > 1 and nodes.several():
            _check_shared(Run.root)
    run = Run(name, main_process=os.environ.get("RANK", "0") == "0", world_size=world, call=call)
    config, run = with_seed(stage, config, run, further)
    if not due(stage, config, run):
        return
    if run.main_process and not told and (world == 1 or "PIPELINE_NPROC" not in os.environ):
        _tell_what_is_replaced([(stage, config, run)], call)
    with run.held(stage):
        done = finished(run, stage, config)  # another process may have made it meanwhile
        if done is None:
            _make(stage, config, run)
        elif world > 1:  # the others have begun, and would wait for this one without end
            raise ArtifactError(
                f"{run.folder(stage)} was made by another process meanwhile; the same command is up to date now"
            )
        else:
            _tell_up_to_date(stage, run, done)


def _check_shared(root: Path) -> None:
    """Raise ArtifactError where processes of several machines do not see one folder of runs. Every process is to ask, before anything else."""
    if (why := nodes.apart(root)) is not None:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise ending.Ending(2)  # the first process of each machine says it
        raise ArtifactError(why)


def _tell_what_is_replaced(steps: Sequence[Step], call: Call | None) -> None:
    if (sentence := announcement(steps, None if call is None else call.given())) is not None:
        print(sentence, flush=True)


def _make(stage: str, config: Config, run: Run) -> None:
    context = importlib.import_module("pipeline.training.context")
    waiting.allow(config.function_timeout)
    context.quiet()  # first: libraries talk while they are imported
    module = importlib.import_module(f"pipeline.stages.{stage}")
    check_room(run, stage)
    if "model" in models_read(stage, config):
        context.base_model(config)  # one of ours is made when it is missing, and what it is counts from here on
    run = replace(run, begun=read_now(run, stage, config))  # before the stage reads anything
    with (
        unchanged(run, stage, read_by(run, stage, config), after=False),  # publishing looks itself
        never_silent(stage),
    ):
        manifest = module.run(config, run)
    if run.main_process:
        with spoken(config.report.language):
            print(module.summary(manifest, run), flush=True)
            _write_index(run)


def _write_index(run: Run) -> None:
    importlib.import_module("pipeline.pages.index").write(run)


def make(stage: str, call: Call) -> None:
    """Make a stage as the command line asks: with the baselines that a comparison lacks before it, with several training seeds,
    in several processes. Exits with the code of what failed."""
    config = load(call.recipe, call.overrides)
    _check_alone(call)
    first = lineage.baselines_to_make(Run(call.run, call=call), config) if stage == "compare" else []
    check_outside(config, [*first, stage])
    if first:
        lineage.check(Run(call.run, call=call), stage, config, without=first)
    if first:
        print(f"compare: first {', '.join(map(command_name, first))}, to be compared with", flush=True)
    if first or call.seeds > 1:
        _check_alone(call, many=True)
        chain([*first, stage], call, config)
    else:
        make_one(stage, call, 0)


def make_one(stage: str, call: Call, further: int, told: bool = False) -> None:
    """Make one stage with the seed `further` after the recipe's, in as many processes as `call` has; what it replaces is said first,
    unless it was `told`."""
    config = load(call.recipe, call.overrides)
    before = _manifest(stage, config, call, further)
    if call.nproc == 1 or STAGES[stage].one_process:
        run_stage(stage, config, call.run, call, further, told)
    elif due_seed(config, call, stage, further):
        if not told:
            _tell_what_is_replaced([(stage, *with_seed(stage, config, Run(call.run), further))], call)
        if code := launch(stage, call, further):
            raise ending.Ending(code)
        _check_made(stage, config, call, further, before)
    made = _manifest(stage, config, call, further)
    if made is not None and made != before and made.notes.get("halted"):
        raise ending.Ending(2)  # it was told; a run that was halted is not what was asked for


def _check_alone(call: Call, many: bool = False) -> None:
    """Raise ConfigError where a launcher started several processes, of which each would start processes itself: several, or one a stage
    of `many`."""
    world = int(os.environ.get("WORLD_SIZE") or 1)
    if world > 1 and (many or call.nproc > 1):
        what = (
            f"{call.asked} starts the processes of each stage itself"
            if many
            else f"--nproc {call.nproc} starts processes itself"
        )
        raise ConfigError(
            f"{what}, and a launcher started {world}; leave out the launcher, or start one stage with it and without --nproc"
        )


def _manifest(stage: str, config: Config, call: Call, further: int) -> Manifest | None:
    _, run = with_seed(stage, config, Run(call.run, call=call), further)
    return run.manifest(stage)


def _check_made(stage: str, config: Config, call: Call, further: int, before: Manifest | None) -> None:
    """Raise ArtifactError where a process said that all went well, and the stage is what it was before."""
    if (made := _manifest(stage, config, call, further)) is None or made == before:
        raise ArtifactError(
            f"{stage}: its process ended without publishing anything and said that all went well; look for what ends the program in "
            f"a function of yours or in what it imports, such as os._exit; then run it again: {call.again()}"
        )


def make_share(stage: str, call: Call) -> None:
    """What one process among those of `launch` does: by the environment it is told how many they are, which seed is its own, and
    what was asked for in the first place."""
    asked, _, seeds = os.environ.get(ASKED, f"{stage} 1").rpartition(" ")
    call = replace(call, nproc=int(os.environ.get("PIPELINE_NPROC", "1")), asked=asked, seeds=int(seeds))
    run_stage(stage, load(call.recipe, call.overrides), call.run, call, int(os.environ[FURTHER_SEED]))


def make_guarded(*arguments: Any) -> None:
    """`make_one`, a user's mistakes as sentences."""
    guarded(lambda: make_one(*arguments))


def make_all(call: Call) -> None:
    """Make every stage of the walk that is due, before it the base model where one is to be made from nothing, the baselines that are compared, and stage gold where rankings are set aside for it."""
    _check_alone(call, many=True)
    config = load(call.recipe, call.overrides)
    stages = [stage for stage in WALK if stage != "reward" or "reward" in parents("ppo", config)]
    also = [stage for stage in parents("compare", config) if stage in BASELINES]
    also += ["gold"] if config.data.gold_fraction and config.compare.gold is None else []
    stages[stages.index("compare") : stages.index("compare")] = also
    also = [] if config.reward_encoder.model != "encoder" or config.reward.model == "encoder" else ["reward_encoder"]
    if "reward" in stages and config.encoder_wanted():
        stages[stages.index("ppo") : stages.index("ppo")] = also
    from_nothing = {config.model} | {own_base(stage, config) for stage in stages}
    stages = [one for one in PRETRAINED if one in from_nothing] + stages
    check_outside(config, stages)
    chain(stages, call, config)


def chain(stages: Sequence[str], call: Call, config: Config) -> None:
    """Make the stages that are due, each in a process of its own, those that are seeded once a seed; what they replace is said before
    the first of them starts. Exits with the code of the first that fails."""
    todo = [(stage, further) for stage in stages for further in range(call.seeds if STAGES[stage].seeded else 1)]
    told = False
    for number, (stage, further) in enumerate(todo):
        if stage not in (*PRETRAINED, "data") and "reward" in stages:
            _check_rankings(call)
        if due_seed(config, call, stage, further):
            if not told:
                steps = [(stage, *with_seed(stage, config, Run(call.run), further)) for stage, further in todo[number:]]
                _tell_what_is_replaced(steps, call)
            told = True
            before = _manifest(stage, config, call, further)
            returned = in_a_process(make_guarded, stage, call, further, told)
            if code := ending.ended(f"the process of {stage}", returned):
                raise ending.Ending(code)
            _check_made(stage, config, call, further, before)


def _check_rankings(call: Call) -> None:
    """Raise ConfigError where the run's data holds no rankings, before hours are spent on the stages that come before reward."""
    run = Run(call.run, call=call)
    made = run.manifest("data")
    if made is not None and not made.metrics.get("rankings_train", 1):
        raise ConfigError(
            f"{run.folder('data')}: it has no rankings, from which reward learns; add rankings to the data, set ppo.reward_funcs, "
            f"or stop after sft; {run.remedy('data', 'sft')}"
        )


def in_a_process(work: Callable[..., None], *arguments: Any) -> int:
    """A function of this module in a process of its own: its exit code, or minus the signal that ended it.

    The process is forked from one that has imported the libraries and done nothing else, so that they are imported once and
    not by every stage.
    """
    os.environ.update(environment(1))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["pipeline.training.warm", "pipeline.training.quiet_imports", "pipeline.stages.compare", "pipeline.stages.ppo"]
    )
    process = forks.Process(target=_child, args=(work, *arguments))
    process.start()
    assert process.pid is not None
    with ending.passing_on(process.pid):
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _child(work: Callable[..., None], *arguments: Any) -> None:
    ending.heed_signals()
    ending.with_parent(os.getppid())  # the process it is forked from, which ends with the one that asked for it
    started_by = multiprocessing.parent_process()
    assert started_by is not None
    if not started_by.is_alive():
        os._exit(128 + signal.SIGKILL)
    work(*arguments)
