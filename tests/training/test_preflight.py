"""Does the estimate of memory count what there is, and is a run that cannot fit refused with the remedy before anything is loaded?"""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from pipeline.artifacts import refusals
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.config import PPO, Config, ConfigError
from pipeline.settings.recipe import load
from pipeline.settings.sections import Lora
from pipeline.training import limits, preflight, room
from pipeline.training.preflight import Rows, check, needs, phases, trainer_needs
from policies.footprint import Footprint, footprint
from policies.precision import Held

ROOT = Path(__file__).resolve().parents[2]
SHAPE = LlamaConfig(
    vocab_size=1000,
    hidden_size=100,
    intermediate_size=300,
    num_hidden_layers=4,
    num_attention_heads=10,
    num_key_value_heads=5,
    tie_word_embeddings=True,
)
# By hand: q and o 100·100 each, k and v 100·50 each, gate, up, down 100·300 each, two norms of 100: 120,200 a layer; 4 layers, a norm,
# and 1000·100 embeddings.
LAYER, MODEL = 120_000, 4 * 120_200 + 100 + 100_000
WHOLE: Footprint = footprint(SHAPE, Held(torch.float32), None)
ADAPTED: Footprint = footprint(SHAPE, Held(torch.float32), Lora())
NARROW: Footprint = footprint(SHAPE, Held(torch.bfloat16), Lora())


def parts(model: Footprint = ADAPTED, beside: float = 0.0, processes: int = 1, **ppo: object) -> dict[str, float]:
    return needs(Config(ppo=PPO(**ppo)), model, beside, 20, 5e8, processes)  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    """LoRA: the base. Full: the reference; what is trained counts as training. Reward models of their own stand beside."""
    assert parts()["process"] == pytest.approx(0.5)
    assert parts()["weights"] * 1e9 == pytest.approx(MODEL * 4)
    assert parts(NARROW)["weights"] * 1e9 == pytest.approx(MODEL * 2)
    assert parts(WHOLE, beside=7e6, tuning="full")["weights"] * 1e9 == pytest.approx(MODEL * 4 + 7e6)


def test_what_is_shared_out_by_hand() -> None:
    """Half of four layers' weights is elsewhere; while it samples, a process has them all, and merges into them."""
    few: Any = {"micro_batch_tokens": 1, "keep_activations": 0.0, "processes": 2}
    layers, alone = 4 * 120_200 + 100, parts(**few)
    frozen = parts(**few, sharding="frozen")
    assert (alone["weights"] - frozen["weights"]) * 1e9 == pytest.approx(layers * 4 / 2)
    assert frozen["gathered layers"] * 1e9 == pytest.approx(layers * 4) and frozen["merged copy"] == 0.0
    learning = phases(Config(ppo=PPO(sharding="frozen")), ADAPTED, 0.0, 20, 5e8, 2)["learning"]
    assert learning["gathered layers"] * 1e9 == pytest.approx(layers * 4 / 2)  # two of four
    full = parts(WHOLE, **few, tuning="full", sharding="full")
    whole = parts(WHOLE, **few, tuning="full")
    assert (whole["training"] - full["training"]) * 1e9 == pytest.approx(2 * layers / 2 * 4 * 4)


def test_sampling_or_learning_whichever_is_more() -> None:
    """A merged copy of the adapted matrices, and keys and values of 64 rows of 20 + 32 tokens: 2·4 layers·50 numbers a token.
    One micro-batch of 52 tokens needs less than those, one of 4,000 more."""
    few: Any = {"micro_batch_tokens": 1, "keep_activations": 0.0}
    assert parts(**few)["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 4)
    assert parts(**few)["cache"] * 1e9 == pytest.approx(2 * 4 * 50 * 64 * 52 * 4)
    assert parts(**few, batch_size=128) == parts(**few)  # 64 rows at a time
    last = footprint(SHAPE, Held(torch.float32), Lora(layers="last 1"))
    assert parts(last, **few)["merged copy"] * 1e9 == pytest.approx(LAYER * 4)
    kept: Any = {"micro_batch_tokens": 4000, "keep_activations": 0.25}
    for engine, model, more in (("transformers", ADAPTED, 0.0), ("transformers", NARROW, 0.25e9), ("continuous", ADAPTED, 0.25e9)):  # fmt: skip
        learning = parts(model, **kept, engine=engine)
        assert not {"merged copy", "cache"} & learning.keys() and {"activations", "logits"} <= learning.keys()
        assert learning["activations"] * 1e9 == pytest.approx(model.activations(4000, 52) + more)
    together = parts(processes=2, micro_batch_tokens=4000, keep_activations=0.0)
    assert together["activations"] * 1e9 == pytest.approx(2 * ADAPTED.activations(4000, 52))  # critic and policy
    long: Any = few | {"response_length": 200}
    attached = parts(NARROW, **long)
    assert attached["merged copy"] == 0 < attached["cache"]  # in bfloat16
    for engine in ("vllm", "vllm_server"):  # handed a merged copy, and its keys and values are no part of ours
        handed = phases(Config(ppo=PPO(**long, engine=engine)), NARROW, 0.0, 20, 5e8)["sampling"]
        assert handed["merged copy"] * 1e9 == pytest.approx(4 * LAYER * 2) and handed["cache"] == 0


def test_training_by_hand() -> None:
    """r 16 in seven matrices of a layer: 16·(2·(100+100) + 2·(100+50) + 3·(100+300)); four float32 numbers each; critic the same again."""
    lora = 16 * (400 + 300 + 1200) * 4
    assert parts(value="shared")["training"] * 1e9 == pytest.approx(lora * 16)
    assert parts(value="adapter")["training"] * 1e9 == pytest.approx(2 * lora * 16)
    assert parts(WHOLE, tuning="full", value="shared")["training"] * 1e9 == pytest.approx(MODEL * 16)
    assert parts(WHOLE, tuning="full", value="adapter")["training"] * 1e9 == pytest.approx(2 * MODEL * 16)


def test_what_is_trained_is_sent_at_the_start() -> None:
    """A copy of it, in float32, where there are others to send it to; 250 MiB at most. What is frozen is not sent."""
    assert "broadcast" not in parts()
    assert parts(processes=2, value="shared")["broadcast"] * 1e9 == pytest.approx(16 * 1900 * 4 * 4)
    large = replace(WHOLE, numbers=10**9)
    assert parts(large, processes=2, tuning="full", value="shared")["broadcast"] * 1e9 == pytest.approx(250 * 2**20)


def test_what_costs_less_is_less() -> None:
    assert parts(micro_batch_tokens=256)["activations"] < parts(micro_batch_tokens=1024)["activations"]
    assert parts(gradient_checkpointing=True)["activations"] < parts()["activations"]
    assert footprint(SHAPE, Held(torch.float32), Lora(layers="last 1")).kept < ADAPTED.kept / 3
    assert parts(num_ppo_epochs=1) == parts(num_ppo_epochs=8)


def test_a_stage_of_the_trainer_by_hand() -> None:
    """The heaviest micro-batch: 4 rows of like length, 40 + 30 + 30 + 20 tokens; logits in float32, so many times."""
    section = Config().sft.model_copy(update={"per_device_train_batch_size": 4})
    rows = Rows.of([5, 40, 30, 20, 30, 7], section)
    assert (rows.tokens, rows.longest) == (120, 40)
    found = trainer_needs(section, ADAPTED, 3e6, rows, 5e8)
    assert found["weights"] * 1e9 == pytest.approx(MODEL * 4 + 3e6)
    assert found["training"] * 1e9 == pytest.approx(16 * 1900 * 4 * 16)
    assert found["activations"] * 1e9 == pytest.approx(ADAPTED.activations(120, 40))
    assert found["logits"] * 1e9 == pytest.approx(120 * 1000 * preflight.LOGITS * 4)
    whole = trainer_needs(section.model_copy(update={"tuning": "full"}), WHOLE, 0.0, rows, 5e8)
    assert whole["weights"] == 0 and whole["training"] * 1e9 == pytest.approx(MODEL * 16)
    shared = trainer_needs(section.model_copy(update={"sharding": "frozen"}), ADAPTED, 0.0, rows, 5e8, processes=2)
    assert shared["weights"] * 1e9 == pytest.approx((MODEL - (4 * 120_200 + 100) / 2) * 4)
    full = section.model_copy(update={"tuning": "full", "sharding": "full"})
    learned = trainer_needs(full, WHOLE, 0.0, rows, 5e8, processes=2)
    assert learned["training"] * 1e9 == pytest.approx((MODEL - (4 * 120_200 + 100) / 2) * 16)
    sampling = trainer_needs(section, ADAPTED, 0.0, replace(rows, sampled=1000, length=50), 5e8)
    assert sampling["cache"] * 1e9 == pytest.approx(1000 * 50 * 2 * 4 * 50 * 4) and "logits" not in sampling
    gathered = trainer_needs(
        section.model_copy(update={"sharding": "frozen"}), ADAPTED, 0.0, replace(rows, sampled=1000, length=50), 5e8, 2
    )
    assert gathered["gathered layers"] * 1e9 == pytest.approx((4 * 120_200 + 100) * 4)


def test_refused_with_the_remedy() -> None:
    found = parts()
    need = sum(found.values()) - found["process"]
    assert check("ppo", found, need + 0.01, "here").startswith("ppo: needs about ")
    with pytest.raises(ConfigError, match=r"0\.001 GB are free here, most of it for .*; (lower|adapt|set) "):
        check("ppo", found, 0.001, "here")
    stage = {"process": 0.1, "weights": 1.0, "activations": 9.0}
    with pytest.raises(ConfigError, match="dpo: .*; lower dpo.per_device_train_batch_size, or set dpo.gradient_check"):
        check("dpo", stage, 1.0, "here")
    for asked, remedy in (
        ("compare", "lower compare.per_device_eval_batch_size"),
        ("best_of_n", "lower best_of_n.per"),
    ):
        with pytest.raises(ConfigError, match=f"{asked}: .*; {remedy}.* or ppo.response_length$"):
            check(asked, {"process": 0.1, "weights": 1.0, "cache": 9.0}, 1.0, "here")
    with pytest.raises(ConfigError, match="data: .*; give data.source fewer rows"):
        check("data", {"process": 0.1, "rows": 9.0}, 1.0, "here")
    with pytest.raises(ConfigError, match="gold: .*; lower reward.per_device_train_batch_size, or set reward"):
        check("gold", stage, 1.0, "here")


def test_sizes_are_plain_numbers() -> None:
    """No exponents, whatever the size."""
    with pytest.raises(ConfigError, match=r"needs about 594 GB \(weights 53, activations 541\) and 24 GB are free"):
        check("ppo", {"process": 0.0, "weights": 53.1, "activations": 540.9}, 24.2, "here")
    assert "needs about 0.052 GB" in check("ppo", {"process": 0.052}, 593.2, "here")


SHRUNK = [
    f"data.source={ROOT / 'data' / 'smoke.jsonl'}",
    *(f"{stage}.max_steps=1" for stage in ("sft", "reward", "dpo", "kto", "rft")),
    *("reward.normalise_samples=4", "ppo.total_episodes=32", "ppo.response_length=4", "rft.n=2"),
]


def test_every_stage_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And tells what it needs where it fits; or that nothing was counted, where the model cannot be built without weights."""
    monkeypatch.chdir(tmp_path)
    config = load(ROOT / "recipes" / "smoke.yaml", SHRUNK)
    run_stage("data", config, "r")
    stages = ("sft", "reward", "ppo", "dpo", "kto", "rloo", "rft")
    for stage in stages:
        with monkeypatch.context() as patch:
            patch.setattr(preflight, "available", lambda *_: (1e-6, "here"))
            patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
            with pytest.raises(ConfigError, match=f"^{stage}: needs about .* GB .* are free here, most of it for "):
                run_stage(stage, config, "r")
        if stage in ("sft", "reward"):  # parents of the others
            capfd.readouterr()
            run_stage(stage, config, "r")
            assert f"{stage}: needs about " in capfd.readouterr().out

    run_stage("ppo", config, "r")
    for stage in ("data", "best_of_n", "compare"):
        with monkeypatch.context() as patch:
            patch.setattr(preflight, "available", lambda *_: (1e-9, "here"))
            patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
            with pytest.raises(ConfigError, match=f"^{stage}: needs about .* GB .* are free here, most of it for "):
                run_stage(stage, config, "another" if stage == "data" else "r")

    def broken(*_: object) -> Footprint:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(preflight, "footprint", broken)
    run_stage("dpo", config, "r")
    assert "dpo: what it needs in memory was not counted, as its model" in capfd.readouterr().out


def test_what_is_free_on_the_disk_is_held_against_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, as above: all weights and 16·1900·4 of the adapter in float32, and two checkpoints of the adapter with Adam's moments.
    What an interrupted attempt left counts as written; where all are saved once, one checkpoint lies there."""
    config, run, lora = Config(), Run("r", tmp_path), 16 * 1900 * 4
    found = room.of_trainer(config.sft, ADAPTED)
    assert found["weights"] == (MODEL + lora) * 4 and found["checkpoints"] == 2 * 3 * lora * 4
    assert room.of_trainer(config.sft, ADAPTED, steps=config.sft.save_steps)["checkpoints"] == 3 * lora * 4
    whole = room.of_trainer(config.sft.model_copy(update={"tuning": "full"}), WHOLE)
    assert whole["weights"] == MODEL * 4 and whole["checkpoints"] == 2 * 3 * MODEL * 4
    need = sum(found.values())
    monkeypatch.setattr(refusals, "free", lambda _: need)
    assert room.check("sft", config, run, found).startswith("writes about ")
    monkeypatch.setattr(refusals, "free", lambda _: need - 1e5)
    with pytest.raises(ConfigError, match=r"^sft: writes about 7.7 MB to .*r/sft.partial \(weights 2.8 MB, .*\), and 7.6 MB are free on its disk; make room, or raise sft.save_steps, .* or lower sft.lora.r$"):  # fmt: skip
        room.check("sft", config, run, found)
    assert "make room" in room.check("data", config, run, room.of_rows(1e9), sure=False)
    run.partial("sft").mkdir(parents=True)
    (run.partial("sft") / "state").write_bytes(bytes(200_000))
    assert room.check("sft", config, run, found).startswith("writes about ")


@pytest.fixture
def on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose control groups are files below tmp_path."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    return tmp_path


def written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_files_that_were_read_take_no_memory_from_a_container(on_a_cpu: Path) -> None:
    """A control group counts the weights that were just read as used, and gives them back."""
    stat = "anon 50000000\ninactive_file 400000000"
    written(on_a_cpu, memory__max="500000000", memory__current="450000000", memory__stat=stat)
    where = "in this control group (memory.max is 0.5 GB)"
    assert limits.available() == (pytest.approx(0.45), where)
    (on_a_cpu / "memory.stat").unlink()
    assert limits.available() == (pytest.approx(0.05), where)
    assert limits.available(2) == (pytest.approx(0.025), f"{where}, for each of 2 processes")
    (on_a_cpu / "memory.max").write_text("max\n")
    assert limits.available()[1] == "here"


def test_the_least_of_all_control_groups_counts_by_both_versions(on_a_cpu: Path) -> None:
    """A group's own limit may be wider than that of one above it. Version 1 writes a large number where there is no limit."""
    written(on_a_cpu, own="4:cpu,memory:/a/b\n0::/user/job")
    written(on_a_cpu / "user/job", memory__max="300000000", memory__current="100000000")
    written(on_a_cpu / "user", memory__max="150000000", memory__current="100000000")
    assert limits.available() == (pytest.approx(0.05), "in this control group (memory.max is 0.15 GB)")
    first = on_a_cpu / "memory/a"
    written(first / "b", **{"memory__limit_in_bytes": str(2**63 - 4096), "memory__usage_in_bytes": "1"})
    written(first, **{"memory__limit_in_bytes": "40000000", "memory__usage_in_bytes": "20000000"})
    written(first, memory__stat="inactive_file 1\ntotal_inactive_file 10000000")
    assert limits.available() == (pytest.approx(0.03), "in this control group (memory.limit_in_bytes is 0.04 GB)")


@pytest.mark.parametrize(("kind", "option"), [(resource.RLIMIT_AS, "v"), (resource.RLIMIT_DATA, "d")])
def test_the_limits_of_the_shell_count(on_a_cpu: Path, monkeypatch: pytest.MonkeyPatch, kind: int, option: str) -> None:
    """They are of one process, however many there are."""
    right, memory = resource.getrlimit, psutil.Process().memory_info()
    used = memory.vms if option == "v" else memory.data
    limit = used + 20_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda one: (limit, limit) if one == kind else right(one))
    for processes in (1, 2):
        free, where = limits.available(processes)
        assert free < 0.025 and where == f"under ulimit -{option} ({limit / 1e9:.3g} GB)"
