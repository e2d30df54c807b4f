"""Does PPO end as in one process where its weights are shared out among several, and is what cannot be shared out refused?"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from sharded_processes import CASES, STOPPED, roles_of, train
from tiny import furthest, make_roles, settings, weights
from torch import nn
from zoo.build import save

from pipeline.settings.config import Config
from pipeline.settings.sections import ConfigError
from policies.backbone import BackboneError
from policies.roles import Roles
from policies.sharding import bytes_here, layers_of

CLOSE = 1e-6  # weights and figures
SHARED_WEIGHTS = {"frozen": 37_120, "frozen-shared": 37_120, "frozen-trunk": 37_120, "ddp": 0}
"""Bytes that each of two processes has less, where the base's layers are shared out: half of 74,240."""


def started(folder: Path, out: Path, processes: int, cases: list[str]) -> dict[str, Any]:
    """What several processes tell of `cases`."""
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root.parent), str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*call, str(root / "sharded_processes.py"), str(folder), str(out), *cases],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads((out / "told.json").read_text())
    return told


@pytest.mark.parametrize(
    ("processes", "cases"),
    [
        (2, ["frozen", "full"]),
        pytest.param(2, sorted(CASES.keys() - {"frozen", "full", "frozen-bf16", "ddp-bf16"}), marks=pytest.mark.slow),
        pytest.param(4, ["frozen-trunk", "full"], marks=pytest.mark.slow),
    ],
)
def test_shared_out_equals_one_process(
    tiny_folder: Path, tiny_tokenizer: Any, tmp_path: Path, processes: int, cases: list[str]
) -> None:
    """Weights, figures and evaluations; gone on with from the state of one process, and one process from theirs; and halted, with the
    weights of the last rollout within the limits."""
    alone = {}
    for case in cases:
        roles = roles_of(case, tiny_folder, "none")
        alone[case] = (*train(case, tiny_folder, tmp_path / f"{case}.one", roles), weights(roles), bytes_here(roles))
        train(case, tiny_folder, tmp_path / f"{case}.alone", roles_of(case, tiny_folder, "none"), STOPPED)
    told = started(tiny_folder, tmp_path, processes, cases)
    for case, (result, logged, expected, whole) in alone.items():
        assert furthest(expected, load_file(tmp_path / f"{case}.safetensors")) < CLOSE, case
        assert furthest(expected, load_file(tmp_path / f"{case}.alone.safetensors")) < CLOSE, case
        assert len(logged) == 3 and told[case]["halted"] is None
        for several, one in zip(told[case]["logged"], logged, strict=True):
            assert several.keys() == one.keys()
            for name in (name for name in one if not name.startswith("time/")):
                assert several[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), (case, name)
        assert [e["step"] for e in told[case]["evals"]] == [0, 2, 3]
        for several, one in zip(told[case]["evals"], result.evals, strict=True):
            assert several == pytest.approx(one, abs=CLOSE), case
        roles = roles_of(case, tiny_folder, "none")
        train(case, tiny_folder, tmp_path / f"{case}.left", roles)
        assert furthest(expected, weights(roles)) < CLOSE, case
        began = weights(roles_of(case, tiny_folder, "none"))
        assert "above max_kl" in told[f"{case}.halted"]["halted"], case
        assert furthest(began, load_file(tmp_path / f"{case}.halted.safetensors")) == 0.0, case
        if processes == 2 and case in SHARED_WEIGHTS:
            assert whole - told[case]["bytes"] == SHARED_WEIGHTS[case]
        elif case != "ddp":
            assert told[case]["bytes"] < whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_other_architectures_shared_out_equal_one_process(name: str, tmp_path: Path) -> None:
    """gpt2, whose matrices are the other way round, and gemma3, with layers of two kinds; four processes, two layers."""
    folder, cases = save(name, tmp_path / "base"), ["frozen", "full"]
    told = started(folder, tmp_path, 4, cases)
    for case in cases:
        roles = roles_of(case, folder, "none")
        _, logged = train(case, folder, tmp_path / f"{case}.one", roles)
        assert furthest(weights(roles), load_file(tmp_path / f"{case}.safetensors")) < CLOSE, case
        assert len(logged) == len(told[case]["logged"]) == 3
        for several, one in zip(told[case]["logged"], logged, strict=True):
            for figure in (figure for figure in one if not figure.startswith("time/")):
                assert several[figure] == pytest.approx(one[figure], rel=1e-5, abs=1e-5), (case, figure)


@pytest.mark.slow
def test_in_bfloat16_shared_out_equals_ddp(tiny_folder: Path, tmp_path: Path) -> None:
    """The adapter stays attached while the policy speaks. Not held against one process: rows beside a row sway what it says in bfloat16."""
    for case in ("frozen-bf16", "ddp-bf16"):
        train(case, tiny_folder, tmp_path / f"{case}.alone", roles_of(case, tiny_folder, "none"), STOPPED)
    told = started(tiny_folder, tmp_path, 2, ["frozen-bf16", "ddp-bf16"])
    frozen, ddp = (load_file(tmp_path / f"{case}.safetensors") for case in ("frozen-bf16", "ddp-bf16"))
    assert furthest(frozen, ddp) < CLOSE
    assert told["frozen-bf16"]["evals"] == told["ddp-bf16"]["evals"]


def test_what_cannot_be_shared_out_is_refused(tiny_folder: Path, tiny_tokenizer: Any) -> None:
    base = make_roles(tiny_folder, tiny_tokenizer, "full", "shared").policy
    beyond: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj", "lm_head"]), adapter_name="policy")
    with pytest.raises(BackboneError, match=r"^ppo.sharding: lm_head has an adapter and is in no decoder layer"):
        Roles(beyond, nn.Linear(32, 1), "shared").share_out("frozen", "ppo.sharding")
    roles = make_roles(tiny_folder, tiny_tokenizer)
    with pytest.raises(BackboneError, match=r"^ppo.sharding: there is one process"):
        roles.share_out("frozen", "ppo.sharding")
    with pytest.raises(BackboneError, match=r"^ppo.sharding: full shares out what is trained"):
        roles.share_out("full", "ppo.sharding")
    layers: Any = layers_of(roles.policy, "ppo.sharding")
    assert len(layers) == 2
    layers[1].mlp = layers[0].mlp
    with pytest.raises(BackboneError, match="LlamaForCausalLM has layers that share weights; set ppo.sharding=none"):
        layers_of(roles.policy, "ppo.sharding")
    roles.causal.config.num_hidden_layers = 3
    with pytest.raises(BackboneError, match="LlamaForCausalLM has no lists of 3 decoder layers"):
        layers_of(roles.policy, "ppo.sharding")


@pytest.mark.parametrize(
    ("ppo", "world", "quantization", "message"),
    [
        ({}, 1, None, "ppo.sharding: frozen shares weights out among processes, and there is one; start more"),
        ({}, 2, "nf4", "set quantization=null"),
        ({"engine": "vllm"}, 2, None, "set ppo.engine=transformers, or ppo.sharding=none"),
    ],
)
def test_a_recipe_that_cannot_be_followed(ppo: dict[str, Any], world: int, quantization: Any, message: str) -> None:
    config = Config.model_construct(ppo=settings(sharding="frozen", **ppo), quantization=quantization)
    with pytest.raises(ConfigError, match=message):
        config.ppo.check_sharding("ppo", world, quantization)


def test_full_with_an_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="set sharding: frozen"):
        settings(sharding="full")
