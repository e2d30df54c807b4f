"""Is a typical mistake told in one sentence with its remedy, with exit code 2, before anything is made?

Thirty and more, as people type them: first on the command line, then for make. The sentence is held whole, so that this file is
also the list of what users read.
"""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.artifacts import cleaning
from pipeline.artifacts.errors import ArtifactError
from pipeline.commands import CALLER
from pipeline.settings.listing import lines
from pipeline.words import flaw

ROOT = Path(__file__).resolve().parents[1]
S = "smoke.yaml"
MISTAKES = {
    # the recipe
    "data none.yaml": "none.yaml: no such recipe; shipped: recipes/film_reviews.yaml",
    "data ppo.kl_coef=0.1": "ppo.kl_coef=0.1: a setting where the recipe belongs; write the recipe first, such as recipes/own_data.yaml ppo.kl_coef=0.1",
    "data tab.yaml": "tab.yaml:2: not valid YAML: found character '\\t' that cannot start any token; mend the syntax",
    "data list.yaml": "list.yaml:1: a recipe is a mapping of settings, such as 'seed: 0'",
    "data twice.yaml": "twice.yaml:2: seed: given twice; keep one",
    "data words.yaml": "words.yaml:2: compare.models: takes a list, not 'base, sft'; write models: [base,sft]",
    # settings
    f"ppo {S} ppo.kl_coeff=0.1": "ppo.kl_coeff=0.1: ppo.kl_coeff: no such setting; did you mean ppo.kl_coef?",
    f"ppo {S} kl_coef=0.1": "kl_coef=0.1: kl_coef: no such setting; did you mean ppo.kl_coef?",
    f"ppo {S} seed": "seed: not key=value; write for instance ppo.kl_coef=0.1",
    f"ppo {S} ppo.kl_coef=abc": "ppo.kl_coef=abc: ppo.kl_coef: takes a number, not 'abc'; write SET=ppo.kl_coef=0.05",
    f"ppo {S} seed=1.5": "seed=1.5: seed: takes a whole number, not 1.5; write SET=seed=0",
    f"ppo {S} force=maybe": "force=maybe: force: takes true or false, not 'maybe'; write SET=force=false",
    f"ppo {S} ppo.lora=8": "ppo.lora=8: ppo.lora: takes a section, not 8; write SET=ppo.lora.r=16",
    f"ppo {S} ppo.lora.r=0": "ppo.lora.r=0: ppo.lora.r: is 0; set it to at least 1",
    f"ppo {S} dtype=bfloat": "dtype=bfloat: dtype: takes 'auto', 'float32' or 'bfloat16', not 'bfloat'; did you mean bfloat16?",
    f"ppo {S} quantization=int4": "quantization=int4: quantization: takes 'nf4', 'fp4' or 'int8', not 'int4'; did you mean int8?",
    f"compare {S} compare.models=base,sft": "compare.models=base,sft: compare.models: takes a list, not 'base,sft'; write SET=\"'compare.models=[base,sft]'\"",
    f"compare {S} compare.models=[base,ppoo]": 'compare.models=[base,ppoo]: compare.models: "ppoo" is no model of this project; did you mean ppo?',
    f"data {S} chat_template_kwargs=enable_thinking:false": "chat_template_kwargs=enable_thinking:false: chat_template_kwargs: takes a mapping, not 'enable_thinking:false'; "
    "write SET=\"'chat_template_kwargs={enable_thinking: false}'\"",
    f"ppo {S} ppo.total_episodes=100": "ppo.total_episodes=100: ppo: total_episodes: 100 is no multiple of batch_size 32; use 96 or 128",
    f"ppo {S} ppo.num_mini_batches=5": "ppo.num_mini_batches=5: ppo: num_mini_batches: 5 does not divide batch_size 32; use 4 or 8",
    f"ppo {S} --nproc 3": "ppo.batch_size: a minibatch of 32 episodes cannot be shared by 3 processes; use 30 or 33",
    # what is not there, told by `all` before anything trains
    f"all {S} model=./nope": "model: ./nope: no such folder; give a folder that holds a model, or a Hub id",
    f"all {S} reward.model=models/of/mine": "reward.model: models/of/mine: no such folder; give a folder that holds a model, or a Hub id",
    f"all {S} compare.judges=[nope]": "compare.judges: no judge is called 'nope'; use \"vader\", \"chinese_sentiment\", or \"module:function\" for your own",
    f"all {S} compare.judges=[my.judges:kind]": "compare.judges: my.judges:kind: no module my.judges in {here} or installed; give its name without .py, folders parted by dots",
    f"all {S} ppo.reward_funcs=[mine:f]": "ppo.reward_funcs: mine:f: no module mine in {here} or installed; give its name without .py, folders parted by dots",
    f"all {S} compare.votes=[votes.csv]": "compare.votes: votes.csv: no such file; mend the path or leave it out",
    f"all {S} compare.gold=./other/reward": "compare.gold: ./other/reward: no such folder; give a folder that holds a model, or a Hub id",
    f"gold {S}": "data.gold_fraction: it is 0, so no rankings are set aside for a gold model; run: make data sft reward gold RECIPE=smoke.yaml RUN=smoke SET=data.gold_fraction=0.5",
    # data and runs
    f"data {S} data.source=demo.jsonl": 'demo.jsonl: file: there is no such file; did you mean "demos.jsonl"?',
    f"data {S} data.source=empty.jsonl": "empty.jsonl: file: it is empty; add rows or leave the file out",
    f"data {S} --run a/b": "run name 'a/b': a run is one folder below runs/, named with letters, digits, '.', '_', '-' and spaces, not beginning with '.' or '-', "
    "at most 200 bytes; write for instance RUN=demo (--run demo)",
    f"ppo {S}": "no finished data in runs/smoke; run: make data RECIPE=smoke.yaml RUN=smoke",
    f"inspect {S}": "the prompt is empty; give a text, or the id of a held-out prompt; run: make inspect RECIPE=smoke.yaml RUN=smoke PROMPT='A funny'",
    "settings ppoo": "settings: ppoo: no such section or setting; did you mean ppo?",
    "push --to repo": 'TO="repo": no name of a repository; write name/repo, such as TO=kim/film-critic',
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few files of a user, asked from make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CALLER, "make")
    shutil.copy(ROOT / "recipes" / S, tmp_path)
    Path("recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "film_reviews.yaml", "recipes")
    Path("tab.yaml").write_text("ppo:\n\tkl_coef: 0.1\n")
    Path("list.yaml").write_text("- seed: 0\n")
    Path("twice.yaml").write_text("seed: 0\nseed: 1\n")
    Path("words.yaml").write_text("compare:\n  models: base, sft\n")
    Path("demos.jsonl").write_text("".join(f'{{"prompt": "Hi {n}", "completion": "Ho {n}"}}\n' for n in range(30)))
    Path("empty.jsonl").touch()
    return tmp_path


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_with_its_remedy(line: str, here: Path) -> None:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 2 and done.stderr == f"error: {MISTAKES[line].replace('{here}', str(here))}\n"
    assert not list(here.rglob("manifest.json"))


TARGETS, VARIABLES = ["all", "data", "ppo", "push", "clean-runs"], ["DATA", "FORCE", "MODEL", "RECIPE", "RUN", "SET"]


@pytest.mark.parametrize(
    ("goals", "given", "sentence"),
    [
        (["ppo"], {"RUN": "x", "ppo.kl_coef": "0.1"}, "ppo.kl_coef=0.1: a setting stands in SET; run: make ppo RUN=x SET=ppo.kl_coef=0.1"),
        (["ppo"], {"force": "true", "seed": "1"}, "force=true, seed=1: settings stand in SET; run: make ppo SET='force=true seed=1'"),
        (["push"], {"force": "1"}, "force is no variable of this Makefile, did you mean FORCE?; run: make push FORCE=1"),
        (["all"], {"RECEIPE": "r.yaml"}, "RECEIPE is no variable of this Makefile, did you mean RECIPE?; run: make all RECIPE=r.yaml"),
        (["all"], {"run": "x"}, "run is no variable of this Makefile, did you mean RUN?; run: make all RUN=x"),
        (["pppo"], {}, "pppo is no target, did you mean ppo?; run: make ppo"),
        (["clean_runs"], {"RUN": "x"}, "clean_runs is no target, did you mean clean-runs?; run: make clean-runs RUN=x"),
        (["ppo", "run"], {"RUN": "my"}, "run is no target, and a value with spaces needs quotes; run: make ppo RUN='my run'"),
        (["all", "r.yaml"], {}, "r.yaml is no target, and a file is named with RECIPE=; run: make all RECIPE=r.yaml"),
        (["all", "mine.jsonl"], {}, "mine.jsonl is no target, and a file is named with DATA=; run: make all DATA=mine.jsonl"),
        (["ppo"], {"RUN": "x", "SET": "seed=1"}, None),
    ],
)  # fmt: skip
def test_a_word_that_make_does_not_know(goals: list[str], given: dict[str, str], sentence: str | None) -> None:
    assert flaw(goals, TARGETS, VARIABLES, given) == sentence


@pytest.mark.parametrize("words", ["ppo RUN=x ppo.kl_coef=0.1", "all RECEIPE=r.yaml", "ppoo", "ppo RUN=my run"])
def test_make_starts_nothing_then(words: str, here: Path) -> None:
    call = ["make", "-C", str(ROOT), *words.split(), "PYTHON=python3"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing was started" in done.stderr and "; run: make " in done.stderr
    assert "pipeline all" not in done.stdout and "pipeline ppo" not in done.stdout


def test_what_is_removed_is_said_and_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Downloads stay; without a terminal nothing goes unless it is asked for in the command."""
    for name in ("runs/a/sft", "runs/b/sft", "runs/.cache", ".ruff_cache"):
        Path(name).mkdir(parents=True)
        (Path(name) / "manifest.json").write_text('{"inputs": "' + "0" * 64 + '"}')
    with pytest.raises(ArtifactError, match=r"nothing was removed; run: make clean YES=1$"):
        cleaning.clean(cleaning.everything(), "make clean YES=1", yes=False)
    assert "runs/a (78 bytes), runs/b (78 bytes), 1 caches of tools; runs/.cache stays" in capsys.readouterr().out
    cleaning.main(["--run", "a", "--yes"])
    assert sorted(path.name for path in Path("runs").iterdir()) == [".cache", "b"]
    for arguments, told in (
        (["--run", "c", "--yes"], "runs/c: no such run; there are b"),
        (["--no-run"], "RUN names none"),
    ):
        with pytest.raises(SystemExit) as ended:
            cleaning.main(arguments)
        assert ended.value.code == 2 and told in capsys.readouterr().err
    cleaning.main(["--yes"])
    assert [path.name for path in Path("runs").iterdir()] == [".cache"] and not Path(".ruff_cache").exists()


def test_one_section_of_the_settings() -> None:
    whole, part = (CliRunner().invoke(app, ["settings", *section]) for section in ([], ["ppo"]))
    assert whole.output.splitlines() == list(lines()) and part.exit_code == 0
    assert "ppo.kl_coef" in part.output and "sft.learning_rate" not in part.output


def test_the_version_and_the_console_script() -> None:
    found = CliRunner().invoke(app, ["--version"])
    assert found.exit_code == 0 and version("rlhf-pipeline") in found.output
