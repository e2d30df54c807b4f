"""Can a user's function end the program in silence, or keep it for ever? Reward functions, judges, adapters, and what they import."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import REWARDS, SETTINGS, SMOKE, copied, forked, resumed, start

from pipeline.commands import Call
from pipeline.running import make
from pipeline.stages import compare  # noqa: F401  (before anything is forked)

ENDS = {
    "sys.exit(0)": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: 0\) .*"),
    "raise SystemExit": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: None\) .*"),
    "exit('done')": (2, r"error: .*/mine\.py:\d+, in {where}: it ended the program \(SystemExit: done\) .*"),
    "os._exit(0)": (2, r"error: the command was ended from within .*"),
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
        for number, act in enumerate(ENDS):
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
    "fault": (1, r"Traceback .*LookupError: a fault of mine\n"),
    "stuck": (2, r"(reward function .* has not returned .*\n)?error: reward function mine:stuck has not returned for 3 s; .*\n"),
    "mistaken": (2, r"error: reward function mine:mistaken returned '\?' at index 0, .*\n"),
    "both": (2, r"error: ppo: its process ended without publishing anything .*\n"),
}  # fmt: skip


@pytest.mark.slow
def test_whichever_process_it_is_its_own_sentence_is_read(tmp_path: Path, prepared: Path, tally: Callable) -> None:  # type: ignore[type-arg]
    with tally("signals") as cases:
        for number, (name, (code, told)) in enumerate(OF_RANKS.items()):
            with cases(f"--nproc 2: {name}"):
                folder = copied(prepared, tmp_path / str(number), without="ppo")
                (folder / "mine.py").write_text(RANKS)
                more = [f"ppo.reward_funcs=[mine:{name}]", f"function_timeout={3 if name == 'stuck' else 60}"]
                one = start(folder, "ppo", *more, "--nproc", "2")
                assert one.wait(90) == code, one.told
                assert re.fullmatch(told, one.told, re.DOTALL) and one.told.count("Traceback") <= 1, one.told
                one.gone()
        with cases("all: os._exit(0)"):
            folder = copied(prepared, tmp_path / "all", without="ppo")
            (folder / "mine.py").write_text("import os\ndef score(prompts, completions):\n    os._exit(0)\n")
            one = start(folder, "all", "ppo.reward_funcs=[mine:score]")
            assert one.wait(90) == 2 and re.fullmatch(
                r"error: ppo: its process ended without publishing .*\n", one.told
            ), one.told
        with cases("all: halted by a limit"):
            folder = copied(prepared, tmp_path / "halted", without="ppo")
            one = start(folder, "all", "ppo.min_entropy=1000.0")
            assert one.wait(90) == 2 and "HALTED" in one.out and one.told == "", one.told
            assert (folder / "runs/r/ppo/manifest.json").is_file() and not (folder / "runs/r/compare").exists()
