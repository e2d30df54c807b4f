"""Is what a stage published complete or absent, and is a parent that is not what it claims refused with a remedy?"""

import ast
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import publish as publishing
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import sha256, write_json
from pipeline.artifacts.freshness import finished, function_files, parents, section_values
from pipeline.artifacts.gate import Gate, check, check_gain
from pipeline.artifacts.manifest import CONTRACT, Manifest
from pipeline.artifacts.publish import publish, working_folder
from pipeline.artifacts.run import Run
from pipeline.graph import STAGES
from pipeline.settings.config import PPO, Compare, Config, Data, Reward
from pipeline.settings.recipe import fields

ROOT = Path(__file__).resolve().parents[2]
GOOD = Gate([check("rows", 3.0, "at least 1")])
BAD = Gate([check("rows", 3.0, "at least 1"), check("loss", 2.5, "below 2", fail=True)])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run("demo")


def prepare(run: Run, stage: str = "data", config: Config | None = None, text: str = "rows\n") -> Path:
    """The folder of a stage's two small files, not yet published."""
    made = working_folder(run, stage, config or Config()) / "made"
    (made / "inner").mkdir(parents=True, exist_ok=True)
    (made / "rows.jsonl").write_text(text)
    (made / "inner" / "weights.bin").write_bytes(bytes(range(9)))
    return made


def published(run: Run, made: Path, stage: str = "data", config: Config | None = None, **more: Any) -> Manifest:
    settings: dict[str, Any] = {
        "tokenizer": "f" * 64, "model": {"base": "tiny", "revision": None}, "dtype": "float32",
        "metrics": {"loss": 0.5}, "gate": GOOD,
    }  # fmt: skip
    return publish(run, stage, config or Config(), made, **{**settings, **more})


def make(run: Run, stage: str = "data", config: Config | None = None, text: str = "rows\n", **more: Any) -> Manifest:
    return published(run, prepare(run, stage, config, text), stage, config, **more)


def refused(call: Any, *parts: str) -> str:
    """The message of the ArtifactError, one line that holds all `parts`."""
    with pytest.raises(ArtifactError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


def test_what_is_published_can_be_required(run: Run) -> None:
    made = make(run)
    found = run.require("data", tokenizer="f" * 64)
    assert found == made
    folder = Path("runs/demo/data")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "inner/weights.bin", "manifest.json", "rows.jsonl",
    ]  # fmt: skip
    assert os.listdir("runs/demo") == ["data"]  # neither partial nor old
    # printf 'rows\n' | sha256sum; printf '\\0\\1\\2\\3\\4\\5\\6\\7\\10' | sha256sum
    by_path = {item["path"]: (item["size"], item["sha256"][:16]) for item in found.files}
    assert by_path["rows.jsonl"] == (5, "9b71c268cf258d56")
    assert by_path["inner/weights.bin"] == (9, "f8348e0b1df00833")


def test_a_manifest_says_what_the_design_lists(run: Run) -> None:
    make(run)
    config = Config(seed=7, force=True)
    make(run, "sft", config, data={"counts": {"read": 9, "rejected": 1}}, dtype="torch.float32")
    raw = json.loads(Path("runs/demo/sft/manifest.json").read_text())
    assert raw["contract"] == CONTRACT and raw["stage"] == "sft" and raw["run"] == "demo"
    (parent,) = raw["parents"]
    assert parent == {"role": "data", "path": "../data", "sha256": run.identity("data")}
    assert all(set(item) == {"path", "size", "sha256"} for item in raw["files"])
    assert raw["config"]["settings"]["sft"] == config.sft.model_dump(mode="json")
    assert raw["config"]["settings"]["model"] == config.model and len(raw["config"]["sha256"]) == 64
    assert raw["model"]["revision"] is None and raw["tokenizer"] == "f" * 64
    assert (raw["seed"], raw["dtype"], raw["world_size"], raw["forced"]) == (7, "torch.float32", 1, True)
    assert {"torch", "transformers", "trl", "peft", "accelerate", "python"} <= set(raw["libraries"])
    assert raw["git_commit"] is None or raw["git_commit"].split("-")[0].isalnum()
    assert raw["data"]["counts"] == {"read": 9, "rejected": 1} and raw["metrics"] == {"loss": 0.5}
    assert raw["gate"]["result"] == "pass" and raw["gate"]["checks"][0]["threshold"] == "at least 1"
    assert raw["started"] <= raw["finished"] and raw["finished"].endswith("+00:00")


def test_a_gate_is_as_good_as_the_worst_of_its_checks() -> None:
    ok, warn, fail = check("a", 1, "x"), check("b", 1, "x", warn=True), check("c", None, "x", warn=True, fail=True)
    assert [Gate(c).result for c in ([], [ok], [ok, warn], [warn, fail, ok])] == ["pass", "pass", "warn", "fail"]


def test_an_absent_stage_names_the_command_that_makes_it(run: Run) -> None:
    for call in (lambda: run.require("sft"), lambda: run.identity("sft")):
        assert refused(call) == 'no finished sft in runs/demo: run "make sft RUN=demo"'


@pytest.mark.parametrize(("low", "high", "says"), [(0.1, 0.3, "pass"), (-0.1, 0.3, "warn"), (-0.3, -0.1, "fail")])
def test_a_gain_fails_only_where_it_is_surely_a_loss(low: float, high: float, says: str) -> None:
    assert check_gain("gain", 0.0, low, high).result == says


def test_a_changed_byte_is_refused(run: Run) -> None:
    make(run)
    path = Path("runs/demo/data/inner/weights.bin")
    path.write_bytes(b"\x01" + path.read_bytes()[1:])  # the same size
    refused(lambda: run.require("data"), str(path), "changed", "remove runs/demo/data", "make data RUN=demo")
    refused(lambda: run.require("data", force=True), "changed")  # force is for gates


def test_a_missing_file_is_refused(run: Run) -> None:
    make(run)
    Path("runs/demo/data/rows.jsonl").unlink()
    refused(lambda: run.require("data"), "runs/demo/data/rows.jsonl", "missing", "make data RUN=demo")
    assert finished(run, "data", Config()) is None


def test_another_tokenizer_is_refused(run: Run) -> None:
    make(run)
    refused(
        lambda: run.require("data", tokenizer="e" * 64),
        "runs/demo/data", "ffffffffffff", "eeeeeeeeeeee", "remove runs/demo/data", "make data RUN=demo",
    )  # fmt: skip
    assert run.require("data").tokenizer == "f" * 64  # who renders no text need not ask


def test_a_failed_gate_is_refused_unless_forced(run: Run) -> None:
    make(run, gate=BAD)
    message = refused(lambda: run.require("data"), "runs/demo/data", "loss 2.5 (below 2)", "mend data", "force=true")
    assert "rows" not in message.partition("gate:")[2]  # only what failed
    assert run.require("data", force=True).gate["result"] == "fail"
    make(run, gate=Gate([check("loss", 2.5, "below 2", warn=True)]))
    assert run.require("data").gate["result"] == "warn"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda raw: json.dumps(raw | {"contract": 99}), ["contract 99"]),
        (lambda raw: json.dumps(raw | {"surprise": 1}), ["surprise"]),
        (lambda raw: json.dumps({k: v for k, v in raw.items() if k != "files"}), ["files"]),
        (lambda raw: json.dumps(raw | {"files": None}), ["files"]),
        (lambda raw: json.dumps(raw | {"gate": {}}), ["gate"]),
        (lambda raw: json.dumps([raw]), ["not a manifest"]),
        (lambda raw: json.dumps(raw)[:100], ["not a manifest"]),
        (lambda raw: "", ["not a manifest"]),
        (lambda raw: b"\xff\xfe\x00", ["not a manifest"]),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused_and_its_remedy_works(run: Run, damage: Any, parts: list[str]) -> None:
    """Nothing that asks for the stage may go on, and what the message says to do must mend it."""
    make(run)
    path = Path("runs/demo/data/manifest.json")
    text = damage(json.loads(path.read_text()))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for call in (lambda: run.require("data"), lambda: finished(run, "data", Config()), lambda: run.identity("data")):
        refused(call, str(path), *parts, "remove runs/demo/data", 'run "make data RUN=demo"')
    for inside in sorted(path.parent.rglob("*"), reverse=True):
        inside.rmdir() if inside.is_dir() else inside.unlink()
    path.parent.rmdir()
    assert finished(run, "data", Config()) is None
    make(run)
    run.require("data")


class Fault(OSError):
    """The disk fails here."""


def fail(*_: Any, **__: Any) -> Any:
    raise Fault()


def break_at(where: str, patch: pytest.MonkeyPatch) -> None:
    """Let publish() fail at one of its steps."""
    rename, replace = Path.rename, Path.replace
    if where == "hash":
        patch.setattr(publishing, "sha256", fail)
    elif where == "flush":
        patch.setattr(os, "fsync", fail)
    elif where == "manifest":
        patch.setattr(publishing, "write_json", fail)
    elif where == "manifest's rename":
        patch.setattr(Path, "replace", lambda self, to: fail() if to.name == "manifest.json" else replace(self, to))
    else:
        moved = {"old one moved away": "data", "new one moved in": "made"}[where]
        patch.setattr(Path, "rename", lambda self, to: fail() if self.name == moved else rename(self, to))


STEPS = ["hash", "flush", "manifest", "manifest's rename", "new one moved in"]


@pytest.mark.parametrize(
    ("where", "older"), [(s, o) for s in STEPS for o in (False, True)] + [("old one moved away", True)]
)
def test_publishing_is_all_or_nothing(run: Run, where: str, older: bool) -> None:
    """Whatever fails, the stage is what it was before; the same publication afterwards succeeds and can be required."""
    if older:
        make(run, text="old\n")
    made = prepare(run, text="new\n")
    with pytest.MonkeyPatch.context() as patch:
        break_at(where, patch)
        with pytest.raises(Fault):
            published(run, made)
    if older:
        run.require("data")
        assert Path("runs/demo/data/rows.jsonl").read_text() == "old\n"
    else:
        assert not Path("runs/demo/data").exists()
    make(run, text="new\n")
    run.require("data")
    assert Path("runs/demo/data/rows.jsonl").read_text() == "new\n"
    assert os.listdir("runs/demo") == ["data"]


def test_leftovers_of_a_killed_publication_are_no_files_of_the_next(run: Run) -> None:
    """A kill while the manifest is written leaves manifest.json.tmp; listed, it would be missing from what is published."""
    made = working_folder(run, "data", Config()) / "made"
    made.mkdir()
    (made / "manifest.json.tmp").write_text("{")
    (made / "inner").mkdir()
    (made / "inner" / "manifest.json").write_text("{}")  # not ours: a file like any other
    make(run)
    found = run.require("data")
    assert [item["path"] for item in found.files] == ["inner/manifest.json", "inner/weights.bin", "rows.jsonl"]
    assert not Path("runs/demo/data/manifest.json.tmp").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_figures_that_are_not_finite_are_refused(run: Run, value: float) -> None:
    make(run, text="old\n")
    refused(
        lambda: make(run, metrics={"fine": 1.0, "loss": value}), "data: not finite: loss;", "runs/demo/data.partial"
    )
    # a NaN passes every comparison of a gate, so its own figures are looked at too
    refused(lambda: make(run, gate=Gate([check("held-out loss", value, "below 2")])), "not finite: held-out loss;")
    assert Path("runs/demo/data/rows.jsonl").read_text() == "old\n" and run.partial("data").is_dir()


def test_write_json_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"x": float("nan")})
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Fault):
        write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"ä": 1} and os.listdir(tmp_path) == ["a.json"]


def test_finished_while_nothing_changed(run: Run) -> None:
    made = make(run)
    assert finished(run, "data", Config()) == made
    again = Config(force=True)  # going on past a gate changes nothing that is made
    assert finished(run, "data", again) == made
    assert finished(run, "data", Config(reward=Reward(margin=1.0), dtype="float32")) == made  # not what data reads
    assert finished(run, "sft", Config()) is None


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"model": "tiny-random"}, {"revision": "x"}, {"data": {"max_length": 99}}]
)
def test_not_finished_when_a_setting_changed(run: Run, change: dict[str, Any]) -> None:
    make(run)
    assert finished(run, "data", Config(**change)) is None


def test_not_finished_when_a_parent_changed(run: Run) -> None:
    make(run)
    made = make(run, "sft")
    assert finished(run, "sft", Config()) == made
    make(run)  # the same contents again, at another time
    assert finished(run, "sft", Config()) == made
    make(run, text="other rows\n")
    assert finished(run, "sft", Config()) is None


@pytest.mark.parametrize("field", ["source", "demonstrations", "prompts"])
@pytest.mark.parametrize("source", ["mine.jsonl", "folder", "folder#train"])
def test_not_finished_when_an_input_file_changed(run: Run, field: str, source: str) -> None:
    path = Path("folder/part.arrow") if "folder" in source else Path(source)
    path.parent.mkdir(exist_ok=True)
    path.write_text("one\n")
    settings: dict[str, Any] = {"source": "mine.jsonl", field: source}
    config = Config(data=Data(**settings))
    made = make(run, config=config)
    assert finished(run, "data", config) == made
    path.write_text("two\n")
    assert finished(run, "data", config) is None


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("data", {"data": {"source": "mine.rows:all"}}),
        ("data", {"data": {"source": "mine.jsonl", "map": "mine.rows:tidy"}}),
        ("data", {"data": {"mixture": [{"source": "a.jsonl"}, {"source": "b.jsonl", "map": "mine.rows:tidy"}]}}),
        ("compare", {"compare": {"judges": ["vader", "mine.rows:score"], "models": ["sft"]}}),
        ("ppo", {"ppo": {"reward_funcs": ["mine.rows:score", "reward"]}}),
        ("best_of_n", {"ppo": {"reward_funcs": ["mine.rows:score"]}}),
    ],
)
def test_a_function_of_the_users_decides_by_its_file(run: Run, stage: str, change: dict[str, Any]) -> None:
    """A change in the module makes the stages stale that call it, and no other; nothing of it runs to find out."""
    module = Path("mine/rows.py")
    module.parent.mkdir()
    module.write_text("raise SystemExit('imported')\n")
    config = Config(**change)
    before = {name: function_files(name, config) for name in STAGES}
    assert before[stage] == [Path.cwd() / module] and not before["sft"]
    for parent in parents(stage, config):
        make(run, parent, config)
    made = make(run, stage, config)
    assert finished(run, stage, config) == made
    module.write_text("raise SystemExit('imported again')\n")
    assert finished(run, stage, config) is None


def test_start_keeps_the_state_of_the_same_inputs_and_wipes_another(run: Run) -> None:
    partial = working_folder(run, "data", Config())
    assert partial == Path("runs/demo/data.partial")
    (partial / "state").write_text("step 5")
    started = json.loads((partial / "inputs.json").read_text())["started"]
    assert (working_folder(run, "data", Config()) / "state").read_text() == "step 5"
    assert json.loads((partial / "inputs.json").read_text())["started"] == started
    working_folder(run, "data", Config(seed=1))
    assert os.listdir(partial) == ["inputs.json"]
    (partial / "state").write_text("step 6")
    (partial / "inputs.json").unlink()  # of unknown origin
    refused(lambda: working_folder(run, "data", Config(seed=1)), str(partial), "neither replaced nor removed", "RUN")
    assert os.listdir(partial) == ["state"]


def test_only_the_main_process_touches_the_partial_folder(run: Run) -> None:
    other = dataclasses.replace(run, main_process=False)
    assert not working_folder(other, "data", Config()).exists()


def test_hashes_are_sha256(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


READERS = {
    "data": ["stages/data"],
    "sft": ["stages/sft"],
    "reward": ["stages/reward"],
    "gold": ["stages/reward", "stages/gold"],
    "ppo": ["stages/ppo", "training/roles"],
    "compare": ["stages/compare", "comparison/contenders", "judges/panel"],
    "dpo": ["stages/dpo"],  # of training/baselines.py it takes what reads no settings of ppo
    "rloo": ["stages/rloo", "training/baselines"],
    "rft": ["stages/rft", "training/baselines"],
    "best_of_n": ["stages/best_of_n"],
}


@pytest.mark.parametrize("stage", READERS)
def test_every_setting_that_a_stage_reads_decides_whether_it_is_up_to_date(stage: str) -> None:
    """Else a changed setting would be answered with "up to date". Read off the modules' `config.a.b` by AST."""
    known, used = set(fields()), set()
    for module in READERS[stage]:
        for node in ast.walk(ast.parse((ROOT / "pipeline" / f"{module}.py").read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            parts = text.split(".")
            if parts[0] == "config" and text.replace(".", "").isidentifier() and len(parts) > 1:
                name = ".".join(parts[1:])
                used |= {name} if any(k == name or k.startswith(f"{name}.") for k in known) else set()
    used -= {"force"} | {name for name in used if name in ("data", "sft", "reward", "ppo", "compare") and name != stage}
    assert "seed" in used and len(used) >= 3
    missing = {n for n in used if not any(n == r or n.startswith(f"{r}.") for r in STAGES[stage].reads)}
    assert not missing


@pytest.mark.parametrize(
    ("functions", "stage", "expected"),
    [
        (["reward"], "ppo", ("data", "sft", "reward")),
        (["mine:length"], "ppo", ("data", "sft")),
        (["mine:length"], "compare", ("data", "sft", "ppo")),
        (["mine:length", "reward"], "compare", ("data", "sft", "reward", "ppo")),
        (["mine:length"], "reward", ("data", "sft")),
        (["mine:length"], "rloo", ("data", "sft")),
        (["mine:length", "reward"], "best_of_n", ("data", "sft", "reward")),
        (["reward"], "dpo", ("data", "sft")),
    ],
)
def test_the_reward_stage_is_a_parent_only_where_its_score_is_maximised(
    functions: list[str], stage: str, expected: tuple[str, ...]
) -> None:
    assert parents(stage, Config(ppo=PPO(reward_funcs=functions))) == expected


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["sft"], ("data", "sft", "reward")),
        (["base", "dpo", "rft"], ("data", "sft", "reward", "dpo", "rft")),
        (["best_of_4", "best_of_16", "ppo", "elsewhere/model"], ("data", "sft", "reward", "ppo", "best_of_n")),
    ],
)
def test_of_what_is_compared_only_what_is_named_is_a_parent(models: list[str], expected: tuple[str, ...]) -> None:
    assert parents("compare", Config(compare=Compare(models=models))) == expected


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("dpo", PPO(kl_coef=0.1)),  # DPO's beta, where it has none of its own
        ("rft", PPO(total_episodes=640)),  # how many completions it samples
        ("rloo", PPO(total_episodes=640)),
        ("rloo", PPO(kl_coef=0.1)),
        ("rloo", PPO(missing_eos_score=-2.0)),
        ("best_of_n", PPO(temperature=0.5)),
        ("best_of_n", PPO(response_length=5)),
    ],
)
def test_a_setting_of_ppo_that_a_baseline_takes_decides_too(stage: str, changed: PPO) -> None:
    """Some are read through methods of Config, where the search above does not see them."""
    before, after = (section_values(config, stage) for config in (Config(), Config(ppo=changed)))
    assert before != after
    assert before == section_values(Config(ppo=PPO(vf_coef=0.5)), stage)  # the critic's is none of theirs


def test_a_stage_of_two_words_is_told_as_make_has_it(run: Run) -> None:
    refused(lambda: run.require("best_of_n"), 'run "make best-of-n RUN=demo"')
    refused(lambda: run.identity("best_of_n"), 'run "make best-of-n RUN=demo"')


def test_another_model_of_a_comparison_is_an_input(run: Run) -> None:
    """A folder that is compared decides what compare makes, as the files of a data source decide what data makes."""
    for stage in ("data", "sft", "reward"):
        make(run, stage)
    folder = Path("theirs")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    config = Config(compare=Compare(models=["sft", "theirs"]))
    made = make(run, "compare", config)
    assert finished(run, "compare", config) == made
    (folder / "model.safetensors").write_bytes(b"2")
    assert finished(run, "compare", config) is None
