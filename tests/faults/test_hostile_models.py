"""Does a stranger's model do harm, hang or end in a traceback? Each hostile folder is loaded as the stages load it."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hostile_folders import CANARY, FOLDERS
from strangers import commanded, forked, refused, rewritten

from policies.backbone import load_causal, new_classifier
from policies.blueprint import readable
from policies.tokenizers import load_tokenizer
from policies.trials import check_numbers
from reward.model import load_scorer

ROOT = Path(__file__).resolve().parents[2]
QUICK = (  # one of each way in which a folder is refused that is told soon; `make faults` tries all
    *("auto_map of a model", "auto_map of a tokenizer", "a folder custom_generate", "custom_generate of a config"),
    *(
        "a kernel as attention",
        "an adapter in place of a model",
        "a quantisation that names code",
        "a template that is another file",
    ),
    *("a pipe as config", "an index that leads up", "a header of absurd size", "offsets on top of each other"),
    *(
        "whole numbers as weights",
        "NaN in one row of the embedding",
        "vocab_size 1000000000",
        "num_hidden_layers 1000000000",
    ),
    *("num_labels 1000000000", "brackets without end", "a config that is cut"),
)


def as_base(folder: Path) -> Callable[[], object]:
    def work() -> object:
        tokenizer = load_tokenizer(folder)
        readable(folder)
        return load_causal(folder, tokenizer, torch.float32)

    return work


def as_judge(folder: Path) -> Callable[[], object]:
    return lambda: load_scorer(folder, torch.float32, torch.device("cpu"), 4)


def as_base_of_a_reward_model(folder: Path) -> Callable[[], object]:
    return lambda: new_classifier(folder, load_tokenizer(folder, scores=True, foreign=True), torch.float32, 1)


def made(name: str, base: Path, place: Path) -> Path:
    folder = place / "model"
    shutil.rmtree(folder, ignore_errors=True)
    (place / CANARY).unlink(missing_ok=True)
    shutil.copytree(base, folder)
    FOLDERS[name][0](folder)
    return folder


def tried(cases: Any, names: Any, base: Path, place: Path, load: Callable[[Path], Callable[[], object]]) -> None:
    shutil.copytree(base, place / "base")  # what links and indices lead to
    for name in names:
        with cases(f"{load.__name__}: {name}"):
            folder = made(name, base, place)
            ended = forked(load(folder))
            assert not (place / CANARY).exists(), "its code was run"
            refused(ended, *FOLDERS[name][1])


def test_no_folder_of_a_base_model_does_harm(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, QUICK, tiny_folder, tmp_path, as_base)


@pytest.mark.slow
def test_nor_does_any_other(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with tally("hostile") as cases:
        tried(cases, [name for name in FOLDERS if name not in QUICK], tiny_folder, tmp_path, as_base)


JUDGED = (
    "a weight of another shape",
    "a weight that is missing",
    "a weight too many",
    "no weight at all",
    "no dictionaries returned",
)


@pytest.mark.slow
@pytest.mark.parametrize("load", [as_judge, as_base_of_a_reward_model])
def test_nor_one_of_a_reward_model(
    tally: Any, tiny_folder: Path, tmp_path: Path, load: Callable[[Path], Callable[[], object]]
) -> None:
    with tally("hostile") as cases:
        tried(cases, [name for name in QUICK if name not in JUDGED], tiny_folder, tmp_path, load)


def test_a_sound_folder_is_loaded(tally: Any, tiny_folder: Path, tmp_path: Path) -> None:
    """What was made harder for strangers is still possible: shards by an index, a snapshot of the Hub's cache, an architecture of transformers
    that brings its own code too, which is left alone."""
    with tally("hostile") as cases:
        with cases("shards"):
            folder = tmp_path / "shards"
            shutil.copytree(tiny_folder, folder)
            FOLDERS["an index to nothing"][0](folder)
            rewritten_index = folder / "model.safetensors.index.json"
            rewritten_index.write_text(rewritten_index.read_text().replace("model-2", "model-1"))
            assert forked(as_base(folder)).code == 0
        with cases("a snapshot of links"):
            blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0"
            shutil.copytree(tiny_folder, blobs)
            snapshot.mkdir(parents=True)
            for file in blobs.iterdir():
                (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
            ended = forked(as_base(snapshot))
            assert ended.code == 0, ended.said
        with cases("code beside an architecture that is known"):
            folder = tmp_path / "known"
            shutil.copytree(tiny_folder, folder)
            (folder / "evil.py").write_text(f"open({str(tmp_path / CANARY)!r}, 'w')")
            rewritten(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
            ended = forked(as_base(folder))
            assert ended.code == 0 and not (tmp_path / CANARY).exists(), ended.said


@pytest.mark.slow
def test_commands_say_so_in_a_sentence(
    tally: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages and the check that load a model that a recipe names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "base")
    smoke, rows = str(ROOT / "recipes" / "smoke.yaml"), str(ROOT / "data" / "smoke.jsonl")
    short = [f"data.source={rows}", "sft.max_steps=2", "reward.max_steps=2"]
    monkeypatch.setenv("PIPELINE_RUN", "strangers")
    for stage in ("data", "sft"):
        ended = commanded(300, stage, smoke, *short)
        assert ended.code == 0, ended.said
    commands: dict[str, list[str]] = {
        "data": ["data", smoke, *short, "model=model"],
        "reward": ["reward", smoke, *short, "reward.model=model"],
        "inspect": ["inspect", smoke, *short, "--model", "model"],
    }
    with tally("hostile") as cases:
        for name in (
            "auto_map of a model",
            "a pickle",
            "a template that is another file",
            "vocab_size 1000000000",
            "a header of absurd size",
        ):
            for command, arguments in commands.items():
                with cases(f"{command}: {name}"):
                    made(name, tiny_folder, tmp_path)
                    other = ["--run", f"other {name}"] if command == "data" else []
                    ended = commanded(120, *arguments, *other)
                    assert not (tmp_path / CANARY).exists(), "its code was run"
                    if command == "data" and name == "a pickle":  # this stage reads the tokenizer alone
                        assert ended.code == 0, ended.said
                        ended = commanded(120, "sft", *arguments[1:], *other)
                    refused(ended)


def loads(source: str) -> list[tuple[int, str]]:
    """Lines of a module that load what a stranger may have written without saying that no code of it is run, and the call."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            said = [
                k.value.value
                for k in node.keywords
                if k.arg == "trust_remote_code" and isinstance(k.value, ast.Constant)
            ]
            loading = name.endswith((".from_pretrained", ".from_config")) and not name.startswith("PeftModel.")
            only = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if (loading and said != [False]) or name in ("pipeline", "pickle.load", "pickle.loads"):
                found.append((node.lineno, name))
            if name == "torch.load" and not only:  # with it nothing but tensors is read
                found.append((node.lineno, name))
    return found


def test_every_load_says_that_no_code_is_run() -> None:
    """peft takes no such argument and runs none: a PeftModel is what a model of ours was given."""
    rooms = [file for room in ("data", "policies", "reward", "pipeline") for file in (ROOT / room).rglob("*.py")]
    assert {str(file.relative_to(ROOT)): loads(file.read_text()) for file in rooms if loads(file.read_text())} == {}
    assert loads("AutoConfig.from_pretrained(x)\nkind.from_config(x, trust_remote_code=None)\ntorch.load(x)") != []
    assert len(loads("AutoModel.from_pretrained(x, trust_remote_code=True)\ntorch.load(x, weights_only=False)")) == 2
    assert loads("torch.load(x, weights_only=True)") == []
    assert (
        int(datasets.__version__.split(".")[0]) >= 4
    )  # which has no data sets that are programs, and no argument for them


def test_eight_bits_are_looked_at_too() -> None:
    module = torch.nn.Linear(2, 2)
    module.weight = torch.nn.Parameter(torch.full((2, 2), float("nan")).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(Exception, match="weight holds NaN"):
        check_numbers(module, "here")
