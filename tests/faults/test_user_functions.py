"""Can a user's function end the program in silence, or keep it for ever? Reward functions, judges, adapters, and what they import."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import REWARDS, SETTINGS, SMOKE, copied, forked, resumed, start

from pipeline.commands import Call
from pipeline.running import make
from pipeline.stages import compare  # noqa: F401  (before anything is forked)

ENDS = {
    "sys.exit(0)": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: 0\) .*"),
    "os._exit(0)": (2, r"error: the command was ended from within .*"),
    "raise SystemExit": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: None\) .*"),
    "exit('done')": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: done\) .*"),
    "ctypes.CDLL(None)._exit(0)": (2, r"error: the command was ended from within .*"),
    "raise KeyboardInterrupt": (130, r"interrupted by .*/mine\.py:\d+, in {where}, which raised KeyboardInterrupt; .*"),
    "os.kill(os.getpid(), 9)": (137, r"error: the command was ended by SIGKILL, .*"),
    "time.sleep(60)": (2, r"error: {what} .*has not returned for 0.5 s; mend it, or set function_timeout to more .*"),
}
HEAD = "import ctypes, os, sys, time\n"
SCORES = "def score(prompts, completions):\n    {0}\n    return [0.0] * len(prompts)\n"
ROWS = "def score():\n    yield {{'prompt': 'a', 'completion': 'b'}}\n    {0}\n"
PLACES = {  # of the function: stage, settings, module, what is named
    "reward": ("ppo", ["ppo.reward_funcs=[mine:score]"], SCORES, "score()", "reward function mine:score"),
    "judge": ("compare", ["compare.judges=[mine:score]"], SCORES, "score()", "judge mine:score"),
    "adapter": ("data", ["data.source=mine:score"], ROWS, "score()", "function mine:score"),
    "import": ("ppo", ["ppo.reward_funcs=[mine:score]"], "{0}\n" + SCORES, "the module", "the import of reward function"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "rewards.py").write_text(REWARDS)
    resumed(folder, "data", "sft", "ppo")
    return folder


def check(folder: Path, prepared: Path, place: str, act: str) -> None:
    stage, settings, text, where, what = PLACES[place]
    copied(prepared, folder, without="ppo" if stage == "ppo" else "")
    (folder / "mine.py").write_text(HEAD + text.format(act, "pass"))
    overrides = [*SETTINGS, *settings, "force=true", f"function_timeout={0.5 if 'sleep' in act else 60}"]
    run = "r" if stage != "data" else "own"
    one = forked(folder, lambda: make(stage, Call.of(SMOKE, run, overrides, asked=stage)))
    code, told = ENDS[act]
    assert one.wait(30) == code, one.told
    assert re.fullmatch(told.format(where=re.escape(where), what=what) + "\n", one.told), one.told
    assert not (folder / "runs" / run / stage).exists()


@pytest.mark.parametrize(
    "place", ["adapter", *(pytest.param(one, marks=pytest.mark.slow) for one in PLACES if one != "adapter")]
)
def test_no_function_ends_the_program_in_silence(tmp_path: Path, prepared: Path, tally: Callable, place: str) -> None:  # type: ignore[type-arg]
    with tally("signals") as cases:
        for number, act in enumerate(list(ENDS)[:: 1 if place in ("adapter", "reward") else 2]):
            with cases(f"{place}: {act}"):
                check(tmp_path / str(number), prepared, place, act)


RANKS = """
import os, sys, time
def of(rank, act):
    def score(prompts, completions):
        if os.environ["RANK"] == str(rank):
            act()
        return [0.0] * len(prompts)
    return score
def fail():
    raise LookupError("a fault of mine")
quiet, left, fault, stuck = of(1, lambda: os._exit(0)), of(1, lambda: sys.exit(0)), of(1, fail), of(1, lambda: time.sleep(60))
def mistaken(prompts, completions):
    return [0.0] * len(prompts) if os.environ["RANK"] == "0" else ["?"] * len(prompts)
def both(prompts, completions):
    os._exit(0)
"""
OF_RANKS = {
    "left": (2, r"error: .*/mine\.py:\d+, in <lambda>\(\): it ended the program .*\n"),
    "fault": (1, r"Traceback .*LookupError: a fault of mine\nerror: that was process 1 of ppo.*\n"),
    "stuck": (2, r"(reward function .* has not returned .*\n)?error: reward function mine:stuck has not returned for 3 s; .*\n"),
    "mistaken": (2, r"error: reward function mine:mistaken returned '\?' at index 0, .*\n"),
    "both": (2, r"error: ppo: its process ended without publishing anything .*\n"),
}  # fmt: skip


def check_ranks(name: str, folder: Path, prepared: Path) -> None:
    copied(prepared, folder, without="ppo")
    (folder / "mine.py").write_text(RANKS)
    more = [f"ppo.reward_funcs=[mine:{name}]", f"function_timeout={3 if name == 'stuck' else 60}"]
    one = start(folder, "ppo", *more, "--nproc", "2")
    code, told = OF_RANKS[name]
    try:
        assert one.wait(90) == code, one.told
        assert re.fullmatch(told, one.told, re.DOTALL) and one.told.count("Traceback") <= 1, one.told
        one.gone()
    finally:
        one.end()


def check_chain(folder: Path, prepared: Path) -> None:
    copied(prepared, folder, without="ppo")
    (folder / "mine.py").write_text("import os\ndef score(prompts, completions):\n    os._exit(0)\n")
    one = start(folder, "all", "ppo.reward_funcs=[mine:score]")
    assert one.wait(90) == 2, one.told
    assert re.fullmatch(r"error: ppo: its process ended without publishing .*\n", one.told), one.told


def check_halted(folder: Path, prepared: Path) -> None:
    copied(prepared, folder, without="ppo")
    one = start(folder, "all", "ppo.min_entropy=1000.0")
    assert one.wait(90) == 2 and "HALTED" in one.out and one.told == "", one.told
    assert (folder / "runs/r/ppo/manifest.json").is_file() and not (folder / "runs/r/compare").exists()


@pytest.mark.slow
def test_whichever_process_it_is_its_own_sentence_is_read(tmp_path: Path, prepared: Path, tally: Callable) -> None:  # type: ignore[type-arg]
    with ThreadPoolExecutor(4) as pool, tally("signals") as cases:
        done = {f"--nproc 2: {n}": pool.submit(check_ranks, n, tmp_path / n, prepared) for n in OF_RANKS}
        done["all: os._exit(0)"] = pool.submit(check_chain, tmp_path / "all", prepared)
        done["all: halted by a limit"] = pool.submit(check_halted, tmp_path / "halted", prepared)
        for name, end in done.items():
            with cases(name):
                end.result()
