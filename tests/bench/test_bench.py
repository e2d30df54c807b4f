"""Do the processes of the bench take turns, is the report what it says, and is the counted work what pencil and paper
give?"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from pipeline.bench import against_trl, scale
from pipeline.bench.machine import Shape, Work, decode_bytes, iteration_flops
from pipeline.bench.ours import fixed_prompts, placed, play, unending
from pipeline.bench.rates import best
from pipeline.bench.turns import Died, Player, Spec, Turns, take_turns
from policies.backbone import load_causal
from policies.episodes import prompt_order
from policies.template import encode_prompt
from policies.tokenizers import eos_ids, load_tokenizer

SHAPE = Shape(layers=2, hidden=4, intermediate=6, heads=2, kv_heads=1, head_dim=2, vocab=10)
FAKE = """
import os, sys, time
from pathlib import Path
from pipeline.bench.turns import Turns
name, record, dies, iterations = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def note(what):
    with record.open("a") as file:
        file.write(f"{name} {what}\\n")

turns = Turns()
print("a library speaks", flush=True)
os.system("echo a program speaks")
note(f"pid {os.getpid()}")
time.sleep(0.1)
note("built")
turns.ready(name=name)
for i in range(1, iterations + 1):
    note(f"begins {i}")
    time.sleep(0.05)
    if i == dies:
        sys.exit("no more")
    note(f"ends {i}")
    if not turns.done(number=i):
        break
note("closes")
time.sleep(0.05)
note("closed")
turns.close()
"""


def fakes(folder: Path, dies: dict[str, int], iterations: int = 2) -> tuple[dict[str, list[str]], Path]:
    script, record = folder / "fake.py", folder / "record"
    script.write_text(FAKE, encoding="utf-8")
    rest = {name: [str(script), name, str(record), str(at), str(iterations)] for name, at in dies.items()}
    return {name: [sys.executable, *arguments] for name, arguments in rest.items()}, record


def test_processes_build_compute_and_close_one_at_a_time(tmp_path: Path) -> None:
    """Each line of the record is written by a child when it begins or ends something; no other's line may stand between
    the two."""
    commands, record = fakes(tmp_path, {"a": 0, "b": 0})
    players = take_turns(commands, 2, tmp_path / "logs")
    lines = [line for line in record.read_text().splitlines() if "pid" not in line]
    turns = [f"{name} {what} {i}" for i in (1, 2) for name in "ab" for what in ("begins", "ends")]
    assert lines == ["a built", "b built", *turns, "a closes", "a closed", "b closes", "b closed"]
    for name, player in players.items():
        assert player.facts["name"] == name and [turn["number"] for turn in player.turns] == [1, 2]
        assert all(0.05 <= turn["seconds"] < 1 for turn in player.turns)
        assert 0.005 < player.closing["peak_gb"] < 0.2
        assert "a library speaks" in player.log.read_text() and "a program speaks" in player.log.read_text()


def test_one_process_has_a_turn_before_and_after_every_other(tmp_path: Path) -> None:
    """Two players of two iterations: four turns, five gaps."""
    commands, record = fakes(tmp_path, {"a": 0, "b": 0})
    commands |= {"rates": fakes(tmp_path, {"rates": 0}, iterations=5)[0]["rates"]}
    players = take_turns(commands, 2, tmp_path / "logs", between="rates")
    begun = [line.split() for line in record.read_text().splitlines() if " begins " in line]
    assert "".join(name[0] for name, *_ in begun) == "rarbrarbr"
    assert {name: len(player.turns) for name, player in players.items()} == {"a": 2, "b": 2, "rates": 5}


def test_the_process_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a process that goes on until it is told to end; a fake is what it measures between."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    commands, _ = fakes(tmp_path, {"a": 0}, iterations=1)
    commands = {"rates": [sys.executable, "-m", "pipeline.bench.rates", "float32"]} | commands
    players = take_turns(commands, 1, tmp_path / "logs", between="rates")
    found = best(players["rates"].turns, "float32")
    assert found["measured"] == 2 and found["gflops"] > 0 and found["read_gb_per_s"] > 0
    assert players["rates"].facts["dtype"] == "float32" and players["a"].turns[0]["number"] == 1


@pytest.mark.parametrize(("at", "told"), [(2, "b ended in iteration 2 with code 1"), (1, "b ended in iteration 1")])
def test_a_dead_process_is_told_and_the_others_are_ended(tmp_path: Path, at: int, told: str) -> None:
    commands, record = fakes(tmp_path, {"a": 0, "b": at})
    with pytest.raises(Died, match=told) as died:
        take_turns(commands, 2, tmp_path / "logs")
    assert "no more" in str(died.value)
    for pid in [int(line.split()[2]) for line in record.read_text().splitlines() if " pid " in line]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_whose_driver_is_gone_ends() -> None:
    code = "from pipeline.bench.turns import Turns\nTurns().ready()\nprint('went on')"
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1 and "driver is gone" in done.stderr and "went on" not in done.stderr


def test_peak_memory_is_of_this_process_alone() -> None:
    """300 MB are held and given back; the process that starts this one holds far more (torch), which ru_maxrss would
    tell."""
    code = "from pipeline.bench.machine import peak_gb\nx = bytearray(300_000_000)\ndel x\nprint(peak_gb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 < float(done.stdout) < 0.36


def test_work_of_a_small_model_counted_by_hand() -> None:
    """Layer: query and output 4·4, key and value 4·2, three of 4·6: 120 weights; adapters of rank 1: 8+6+6+8+3·10 = 58.
    Prompt 2, completion 3: 4 tokens are inputs, 5 are scored. A layer on 4 tokens: 2·4·120 = 960; adapter 2·4·58 = 464;
    attention 10 pairs · 4 dimensions · 4 = 160. On 5 tokens: 1200, 580, 240. Head: 3 tokens · 2·4·10 = 240. Three
    episodes.

    adapted 1 of 2 layers, critic an adapter, 2 epochs:
    rollout 2·(960+160)+240 = 2480; score 1200+580+240 = 2020; reference 960+160+240 = 1360; values 960+464+160 = 1584;
    update: 2·960+3·464+3·160 = 3792 for each of two adapters, 2·240 for the head, twice: 2·(7584+480) = 16128,
    of which the forward that gave the values is done: 14544.
    """
    work = Work(episodes=3, prompt=2, completion=3, epochs=2, critic="adapter", rank=1, adapted=1)
    assert SHAPE.layer_weights() == 120 and SHAPE.lora_weights(1) == 58 and SHAPE.parameters() == 280
    expected = {"rollout": 2480, "score": 2020, "reference": 1360, "values": 1584, "update": 14544}
    assert iteration_flops(SHAPE, work) == {name: 3 * flops for name, flops in expected.items()}


def test_work_with_other_critics_counted_by_hand() -> None:
    """As above. Head on the policy: one trunk, 2·(3792+480) = 8544. All weights, 2 layers: 2·3·(960+160) = 6720 for
    each of two models and 3·240 for the head, 2 epochs: 2·(13440+720) = 28320; score 2·(1200+240) = 2880, values 2·1120
    = 2240."""
    head = iteration_flops(SHAPE, Work(1, 2, 3, 2, "head", 1, 1))
    full = iteration_flops(SHAPE, Work(1, 2, 3, 2, "full", None, 2))
    assert (head["update"], head["values"]) == (8544, 0)
    assert (full["update"], full["score"], full["values"]) == (28320 - 2240, 2880, 2240)


def test_bytes_of_decoding_counted_by_hand() -> None:
    """Three steps read 2·120+40 = 280 weights each: 840. Keys and values, 2·1·2 numbers a token and layer: the second
    token looks at 3 tokens, the third at 4; 3 episodes · 7 · 4 · 2 layers = 168. Two bytes a number: 2016."""
    work = Work(episodes=3, prompt=2, completion=3, epochs=1, critic="head", rank=1, adapted=2)
    assert decode_bytes(SHAPE, work, longest=3, size=2) == 2016


def player(name: str, seconds: list[float], peak: float, **facts: Any) -> Player:
    turns = [{"seconds": s, **facts} for s in seconds]
    return Player(name, cast(Any, None), Path("log"), {"dtype": "bfloat16"}, turns, {"peak_gb": peak})


def test_a_row_of_the_report() -> None:
    """First iterations (100 s) are left out: medians 4 and 12, so 3 times as fast; 1.5 of 6 GB. At 1 GFLOP/s the update
    of the shape above, 3 → 32 episodes, takes its operations / 1e9 of 2 s. Decoding 32 · 24 tokens in 4 s: 192 a
    second."""
    phases = {"rollout": 1.0, "values": 0.5, "update": 2.0, "other": 0.5}
    facts = {"phases": phases, "mean_length": 24.0, "longest": 24}
    group = against_trl.Group("fixed", True, 1, 1, "bfloat16", ("head",))
    players = {
        f"{group.name}-trl": player("trl", [100.0, 12.0, 11.0, 13.0], 6.0),
        f"{group.name}-head": player("ours", [100.0, 4.0, 3.0, 5.0], 1.5, **facts),
    }
    players[f"{group.name}-rates"] = player("rates", [0.2], 0.1, gflops={"bfloat16": 1.0}, read_gb_per_s=1.0)
    row = against_trl.row(group, "head", players, 1, 16.0, SHAPE)
    keys = {"workload", "lora", "lora_layers", "critic", "epochs", "dtype", "ours", "trl", "speedup", "memory_ratio"}
    assert set(row) == keys
    named = [row[k] for k in ("workload", "lora", "lora_layers", "critic", "epochs", "dtype")]
    assert named == ["fixed", True, 1, "head", 1, "bfloat16"]
    assert {"s_per_iteration", "episodes_per_s", "peak_gb", "phases"} <= set(row["ours"])
    assert {"s_per_iteration", "episodes_per_s", "peak_gb"} <= set(row["trl"])
    assert row["speedup"] == 3.0 and row["memory_ratio"] == 0.25
    assert row["ours"]["s_per_iteration"] == 4.0 and row["ours"]["episodes_per_s"] == 8.0
    assert row["ours"]["phases"] == phases and row["ours"]["tokens_per_s"] == 192.0
    counted = iteration_flops(SHAPE, Work(32, 16, 24, 1, "head", 16, 1))
    learning = (counted["values"] + counted["update"]) / 2.5e9
    assert row["ours"]["share_of_peak"]["values+update"] == pytest.approx(learning)
    assert row["ours"]["share_of_peak"]["iteration"] == pytest.approx(sum(counted.values()) / 4e9)
    assert set(row["ours"]["share_of_peak"]) == {"rollout", "values+update", "iteration"}
    assert "3.00x" in against_trl.table({"rows": [row]}) and "last 1" in against_trl.table({"rows": [row]})


def test_the_groups_are_those_of_the_issue() -> None:
    full = against_trl.groups(False, ["float32", "bfloat16"], 10)
    kinds = [(g.workload, g.lora, g.lora_layers, g.epochs) for g in full if g.dtype == "bfloat16"]
    lora = [
        (workload, True, last, epochs) for workload, epochs in (("fixed", 1), ("natural", 4)) for last in (None, 10)
    ]
    assert kinds == [*lora, ("fixed", False, None, 1), ("natural", False, None, 4)]
    assert all(g.critics == (("adapter", "head") if g.lora else ("full",)) for g in full)
    assert len(full) == 12 == len({g.name for g in full})
    assert [(g.lora_layers, g.critics) for g in against_trl.groups(True, ["float32"], 10)] == [
        (None, ("head",)),
        (10, ("head",)),
    ]


def test_a_baseline_that_pip_cannot_install_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> Any:
        part = Path(command[command.index("--target") + 1])
        (part / "trl").mkdir(parents=True)
        return subprocess.CompletedProcess(command, code, "", "first\nno such index")

    monkeypatch.setattr(subprocess, "run", run)
    code = 1
    with pytest.raises(against_trl.BenchError, match="trl==1.12.0 could not be installed .no such index.; check"):
        against_trl.baseline(tmp_path / "trl-1.12.0")
    assert list(tmp_path.iterdir()) == []
    code = 0
    assert against_trl.baseline(tmp_path / "trl-1.12.0") == tmp_path / "trl-1.12.0"
    assert [p.name for p in tmp_path.iterdir()] == ["trl-1.12.0"]


@pytest.mark.parametrize(("error", "code"), [(against_trl.BenchError("mend it"), 2), (Died("tail\nit ended"), 1)])
def test_mistakes_and_deaths_are_sentences(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: Any) -> Any:
        raise error

    monkeypatch.setattr(against_trl, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit) as left:
        against_trl.main()
    assert left.value.code == code and str(error) in capsys.readouterr().err


def test_fixed_prompts_are_the_same_tokens_as_text(tiny_tokenizer: Any) -> None:
    rows = fixed_prompts(tiny_tokenizer, 20, 16)
    assert all(len(row["ids"]) == 16 and encode_prompt(tiny_tokenizer, row["prompt"]) == row["ids"] for row in rows)
    assert len({row["prompt"] for row in rows}) == 20 and len({row["id"] for row in rows}) == 20


def test_the_trainer_uses_prompts_in_the_order_given() -> None:
    rows = [{"id": str(i)} for i in range(12)]
    dealt = [placed(rows, 0)[i] for start in (0, 4, 8) for i in prompt_order(12, range(start, start + 4), 0)]
    assert dealt == rows and placed(rows, 0) != rows


def test_an_unending_tokenizer_has_an_end_of_its_own(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    model = load_causal(tiny_folder, tiny_tokenizer, torch.float32)
    never = unending(tiny_tokenizer, model, fixed_prompts(tiny_tokenizer, 4, 5))
    assert never.eos_token_id not in tiny_tokenizer.all_special_ids and tiny_tokenizer.eos_token_id == 1
    assert eos_ids(model, never) == [never.eos_token_id] and never.pad_token_id == tiny_tokenizer.pad_token_id


class Recorder(Turns):
    """Turns that are always ours."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def say(self, **facts: Any) -> None:
        self.told.append(facts)

    def wait(self) -> bool:
        self._started = 0.0
        return True


@pytest.mark.parametrize(
    ("lora", "layers", "critic", "stops"),
    [(True, None, "adapter", False), (True, 1, "head", False), (True, 1, "head", True), (False, None, "full", False)],
)
def test_ours_on_a_tiny_model(
    lora: bool, layers: int | None, critic: str, stops: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    """99 tokens of 32 numbers, in and out: 6336; two layers of 9216 (4·32·32 - 2·32·16 + 3·32·64); norms 5·32: 24,928.

    One iteration of 16 episodes: fixed runs to its 6 tokens exactly, natural ends somewhere before; phases fill the
    time.
    """
    tokenizer = load_tokenizer(tiny_folder)
    spec = Spec(str(tiny_folder), "", "float32", lora, layers, critic, 2, 1, 6, stops, batch=16)
    turns = Recorder()
    play(load_causal(tiny_folder, tokenizer, torch.float32), tokenizer, spec, fixed_prompts(tokenizer, 16, 5), turns)
    ready, done, closing = turns.told
    assert ready == {"parameters": 24_928, "dtype": "float32"} and closing["peak_gb"] > 0.1
    assert {"rollout", "score", "update"} <= set(done["phases"]) and done["longest"] <= 6
    assert done["mean_length"] < 6 if stops else done["mean_length"] == 6


def test_the_exponent_of_a_power_law() -> None:
    """3·x^1.5 is a straight line of slope 1.5 in logarithms."""
    x = [8.0, 16.0, 64.0]
    assert scale.exponent(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)
    assert scale.exponent([8.0], [1.0]) is None


def test_points_of_the_sweeps_and_what_they_need() -> None:
    points = scale.points(quick=False)
    by = {name: [getattr(p, name) for p in points if p.sweep == name] for name in scale.AXES}
    assert (
        by["batch"] == [8, 16, 32, 64, 128] and by["response"] == [16, 32, 64, 128, 256] and by["epochs"] == [1, 2, 4]
    )
    assert all(p.batch == 8 for p in points if p.sweep != "batch")
    shapes = {name: Shape.of(scale.model_config(name).to_dict()).parameters() for name in by["model"]}
    assert list(shapes.values()) == sorted(shapes.values()) and 134e6 < shapes["135M"] < 136e6


@pytest.mark.parametrize(
    ("point", "taken"),
    [
        (scale.Point("batch", batch=32), 2.03),
        (scale.Point("batch", batch=128), 2.10),
        (scale.Point("response", response=256), 1.96),
        (scale.Point("model", model="360M"), 3.54),
        (scale.Point("model", model="1.7B"), 14.9),
    ],
)
def test_what_a_point_is_said_to_need_is_about_what_it_took(point: Any, taken: float) -> None:
    """Peaks measured in float32 on two cores at 70ff471."""
    spec = scale.spec_of(point, Path("model"), Path("prompts"), "float32")
    assert scale.needed_gb(point, spec) == pytest.approx(taken, rel=0.1)


def test_the_plot_and_the_table_of_sweeps(tmp_path: Path) -> None:
    """Twice the tokens take twice the time and the same memory: exponents 1 and 0."""
    each = [
        {"sweep": "batch", "batch": n, "tokens": 40 * n, "parameters": 7, "s_per_iteration": n, "peak_gb": 2.0}
        for n in (8, 16)
    ]
    fits = scale.exponents(each)
    assert fits["batch"]["s_per_iteration"] == pytest.approx(1.0) and fits["batch"]["peak_gb"] == pytest.approx(0.0)
    scale.draw(each, fits, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").read_text().count("<svg") == 1
    shown = scale.table({"points": each, "exponents": fits, "left_out": {"model-7B": "may need 40 GB"}})
    assert "time 1.00" in shown and "left out: model-7B" in shown
