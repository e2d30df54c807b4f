"""Does vLLM itself sample the policy, in the trainer's process and as a server? `make test-engines` runs this with vLLM's CPU build.

The name keeps it out of the default suite, whose environment has no vLLM.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "policies")]

import pytest  # noqa: E402
import torch  # noqa: E402
from saying import ALONE, LIMIT, PROMPTS, say, trained_logprobs  # noqa: E402
from tiny import EOS, PAD, STOP, make_roles, randomise, save_tiny  # noqa: E402

from pipeline.settings.sections import Decoding  # noqa: E402
from policies.asking import Machine, answering  # noqa: E402
from policies.backbone import load_causal  # noqa: E402
from policies.decoding import warpers  # noqa: E402
from policies.drawing import noise  # noqa: E402
from policies.engines import Engine, make_engine  # noqa: E402
from policies.errors import BackboneError  # noqa: E402
from policies.roles import POLICY, Roles  # noqa: E402
from policies.tokenizers import load_tokenizer  # noqa: E402

NEAR = 1e-4  # nats a token, in float32
SMOKE = (
    *("force=true", "sft.max_steps=4", "reward.max_steps=4", "ppo.total_episodes=64", "ppo.batch_size=16"),
    *("ppo.response_length=12", "ppo.eval_prompts=6", "ppo.eval_steps=2", "reward.normalise_samples=16"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' tokenizer and a model with heads of 32, which vLLM has kernels for, its output layer tied to the embedding."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    return save_tiny(tmp_path_factory.mktemp("heads_of_32"), **sizes, tie_word_embeddings=True)


def settings(address: str = "") -> Any:
    return SimpleNamespace(temperature=0.7, vllm_gpu_memory_utilization=0.05, vllm_server=address)


def move(roles: Roles, seed: int) -> None:
    """Take the policy elsewhere, the tied embedding too in full fine-tuning."""
    if roles.lora:
        randomise(roles, POLICY, std=0.1 * seed)
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in roles.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def check_follows(engine: Engine, roles: Roles) -> None:
    """Three rollouts, the policy elsewhere in each: vLLM's log-probabilities are the policy's, its ends ours."""
    seen = []
    for seed in (1, 2, 3):
        move(roles, seed)
        found = say(engine)
        seen.append([c.tokens for c in found])
        for prompt, c in zip(PROMPTS, found, strict=True):
            assert len(c.tokens) == LIMIT or c.tokens[-1] in (EOS, STOP)
            assert c.logprobs == pytest.approx(trained_logprobs(roles, prompt, c.tokens, 0.7), abs=NEAR)
    assert seen[0] != seen[1] != seen[2]


@pytest.fixture(scope="module")
def inside(folder: Path) -> Engine:
    """vLLM in this process, once: it keeps its model. The tests hand it their own roles."""
    roles = make_roles(folder, load_tokenizer(folder), tuning="full")
    return make_engine("vllm", roles, folder, settings(), ALONE, folder)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_in_this_process_it_follows_the_policy(inside: Engine, folder: Path, tuning: str) -> None:
    roles = make_roles(folder, load_tokenizer(folder), tuning=tuning)
    own = replace(inside.run.func.__self__, roles=roles)  # type: ignore[attr-defined]
    check_follows(Engine(own.run, exact=False, follow=own.follow), roles)


def run(stage: str, model: Path, cwd: Path, *more: str, nproc: int = 1) -> subprocess.CompletedProcess[str]:
    source = f"data.source={ROOT / 'data' / 'smoke.jsonl'}"
    given = [f"model={model}", source, *SMOKE, *more, "--run", "engines", "--nproc", str(nproc)]
    command = [sys.executable, "-m", "pipeline", stage, str(ROOT / "recipes" / "smoke.yaml"), *given]
    env = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env, timeout=900)


@pytest.fixture(scope="module")
def walked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that ppo reads."""
    place = tmp_path_factory.mktemp("walk")
    for stage in ("data", "sft", "reward"):
        done = run(stage, folder, place)
        assert done.returncode == 0, done.stderr
    return place


def check_ppo(place: Path) -> dict[str, Any]:
    """The stage is there, its gate failed in nothing but what four steps of a random model cannot learn, and the sampler is the policy."""
    manifest: dict[str, Any] = json.loads((place / "runs" / "engines" / "ppo" / "manifest.json").read_text())
    rows = [json.loads(line) for line in (place / "runs/engines/ppo/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert max(row["sampler/kl"] for row in rows) < 1e-6
    assert max(row["sampler/capped"] for row in rows) == 0
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 1e-3 for row in rows)
    assert not [c for c in manifest["gate"]["checks"] if c["result"] == "fail" and "gain" not in c["name"]]
    return manifest


def test_ppo_with_vllm_in_its_process(walked: Path, folder: Path) -> None:
    done = run("ppo", folder, walked, "ppo.engine=vllm", "ppo.vllm_gpu_memory_utilization=0.05")
    assert done.returncode == 0, done.stderr
    check_ppo(walked)


@pytest.fixture(scope="module")
def server(walked: Path, folder: Path) -> Iterator[str]:
    """`python -m pipeline vllm-server`, as make vllm-server starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    given = [f"ppo.vllm_server={address}", "ppo.vllm_gpu_memory_utilization=0.05", "--run", "engines"]
    command = [sys.executable, "-m", "pipeline", "vllm-server", str(ROOT / "recipes" / "smoke.yaml"), *given]
    log = walked / "server.log"
    with log.open("w") as file:
        started = subprocess.Popen(
            command,
            cwd=walked,
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    try:
        for _ in range(300):
            assert started.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(address + "/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(60)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_as_a_server_it_follows_the_policy(server: str, folder: Path, tmp_path: Path, tuning: str) -> None:
    roles = make_roles(folder, load_tokenizer(folder), tuning=tuning)
    engine = make_engine("vllm_server", roles, folder, settings(server), ALONE, tmp_path / "exchange")
    check_follows(engine, roles)
    assert not (tmp_path / "exchange").exists()


def test_a_server_of_another_dtype_is_refused(server: str, folder: Path, tmp_path: Path) -> None:
    roles = make_roles(folder, load_tokenizer(folder), tuning="full")
    roles.policy.to(torch.bfloat16)
    with pytest.raises(BackboneError, match=r"has to be started with --dtype bfloat16 \(it has torch.float32\)"):
        make_engine("vllm_server", roles, folder, settings(server), ALONE, tmp_path)


@pytest.mark.parametrize("nproc", [1, 2])
def test_ppo_with_a_server(server: str, walked: Path, folder: Path, nproc: int) -> None:
    done = run(
        "ppo", folder, walked, "ppo.engine=vllm_server", f"ppo.vllm_server={server}", f"seed={nproc}", nproc=nproc
    )
    assert done.returncode == 0, done.stderr
    assert check_ppo(walked)["world_size"] == nproc
    assert not list((walked / "runs" / "engines").glob("ppo*/**/sampler"))


CUTS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_p": 0.5},
    {"min_p": 0.2},
    {"top_k": 4, "top_p": 0.8},
    {"do_sample": False},
]


@pytest.mark.parametrize("engine", ["vllm", "vllm_server"])
def test_a_model_that_does_not_learn_is_decoded_as_transformers_would(server: str, folder: Path, engine: str) -> None:
    """What is cut off is never said, and greedily the same is said; log-probabilities and entropies are ours."""
    model: Any = load_causal(folder, load_tokenizer(folder), torch.float32)
    given = SimpleNamespace(**vars(settings(server)), max_sampler_kl=1e-6)
    noises = [noise(0, 0, str(i), 0, LIMIT) for i in range(len(PROMPTS))]
    more: dict[str, Any] = {"eos_ids": [EOS, STOP], "pad_id": PAD, "batch_size": 8}
    with answering(Machine(engine, "compare.engine", given, ALONE, 64), model, folder) as say:  # type: ignore[arg-type]
        for cuts in CUTS:
            how = Decoding(**cuts).resolved(0.7, LIMIT)
            found = say(PROMPTS, noises, how, **more)
            for prompt, c in zip(PROMPTS, found, strict=True):
                z = model(input_ids=torch.tensor([prompt + c.tokens])).logits[0, len(prompt) - 1 : -1].float() / 0.7
                kept = (
                    warpers(how)(None, z) if how.do_sample else z.masked_fill(z < z.amax(-1, keepdim=True), -torch.inf)
                )  # type: ignore[arg-type]
                assert kept.gather(1, torch.tensor(c.tokens)[:, None]).isfinite().all()
                wanted = z.log_softmax(-1).gather(1, torch.tensor(c.tokens)[:, None])[:, 0]
                assert c.logprobs == pytest.approx(wanted.detach(), abs=NEAR) and len(c.entropies) == len(c.tokens)


@pytest.mark.parametrize("engine", ["vllm", "vllm_server"])
def test_a_comparison_and_best_of_n_by_vllm(server: str, walked: Path, folder: Path, engine: str) -> None:
    """Several models in one comparison, by two processes and by one; greedily vLLM says what transformers says."""
    more = [
        f"ppo.vllm_server={server}",
        "ppo.vllm_gpu_memory_utilization=0.05",
        "compare.prompts=12",
        "best_of_n.prompts=6",
    ]
    more += ["best_of_n.n=4", f"best_of_n.engine={engine}", f"compare.engine={engine}", "compare.models=[base,sft,ppo]"]
    asked = ("ppo", "best-of-n", "compare")
    for stage in asked:
        done = run(stage, folder, walked, *more, nproc=2 if stage == "compare" else 1)
        assert done.returncode == 0, done.stderr
    place = walked / "runs" / "engines"
    drawn = json.loads((place / "compare" / "report.json").read_text())
    assert drawn["provenance"]["decoding"]["sampled by"] == engine
    assert (
        json.loads((place / "best_of_n" / "manifest.json").read_text())["config"]["settings"]["best_of_n"]["engine"]
        == engine
    )
    said = {}
    for by in (engine, "transformers"):
        greedy = ["compare.generation.do_sample=false", f"compare.engine={by}", f"compare.name={by}"]
        done = run("compare", folder, walked, *more, *greedy)
        assert done.returncode == 0, done.stderr
        rows = (place / f"compare-{by}" / "samples.jsonl").read_text().splitlines()
        said[by] = [json.loads(row) for row in rows]
    alike = [a for a, b in zip(*said.values(), strict=True) if a["completion"] == b["completion"]]
    assert len(said[engine]) >= 30 and len(alike) >= 0.9 * len(said[engine]), "greedy, but for near ties"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_demo_with_vllm_passes_its_gates(tmp_path: Path, engine: str) -> None:
    """The embedded model and film reviews, 15 iterations; minutes."""
    (tmp_path / "runs").mkdir()
    if (ROOT / "runs" / ".cache").is_dir():
        (tmp_path / "runs" / ".cache").symlink_to(ROOT / "runs" / ".cache")
    command = [sys.executable, "-m", "pipeline"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    recipe = [str(ROOT / "recipes" / "film_reviews.yaml"), f"ppo.engine={engine}", "--run", "demo"]
    for stage in ("data", "sft", "reward", "ppo"):
        done = subprocess.run([*command, stage, *recipe], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "demo" / "ppo" / "manifest.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "runs/demo/ppo/metrics.jsonl").read_text().splitlines()]
    assert manifest["gate"]["result"] != "fail" and len(rows) == 15
    assert max(row.get("sampler/kl", 0.0) for row in rows) < 1e-6
