"""Does make push send what others need and nothing that is private to the run, with a card that the Hub takes? Against a stand-in."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_to_push_to import Hub, flaws, hub
from huggingface_hub import ModelCard
from peft import PeftModel
from resealed import rewritten
from safetensors.torch import load
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.artifacts.run import Run
from pipeline.settings.config import EMBEDDED_MODEL
from pipeline.settings.data import Data, Part
from pipeline.sharing import push as sharing
from pipeline.sharing.push import PushError, _sources, push
from pipeline.training.card import Base, base_of, card, datasets_of

ROOT = Path(__file__).resolve().parents[2]
LOADS = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
SHARED = LOADS | {"README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as state:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield state


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Base:
    """The tiny model as if the Hub had it."""
    base = Base("org/tiny", "mit")
    monkeypatch.setattr(sharing, "base_of", lambda model: base)
    return base


def send(model: str, **more: Any) -> None:
    push(
        Run("demo"),
        model,
        "kim/critic",
        **{"private": False, "dry": False, "report": True, "license": None, "force": True, **more},
    )


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("sft", {"generation_config.json", "report.html"}),
        ("reward", {"scoring.json", "report.html"}),
        ("ppo", {"generation_config.json", "report.html"}),
    ],
)
def test_what_others_need_is_sent_and_nothing_else(
    model: str, own: set[str], there: Path, server: Hub, known: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    send(model)
    assert set(server.files) == SHARED | own
    assert server.files["model.safetensors"] == (there / "runs/demo" / model / "model.safetensors").read_bytes()
    for name in server.files.keys() - {"model.safetensors", "adapter/adapter_model.safetensors"}:
        assert str(there).encode() not in server.files[name] and str(Path.home()).encode() not in server.files[name], (
            name
        )
    rows = [json.loads(line) for line in (there / "runs/demo/data/rankings.train.jsonl").read_text().splitlines()]
    asked = [row["prompt"][0]["content"] for row in rows]
    text = b"".join(content for name, content in server.files.items() if not name.endswith("safetensors")).decode()
    assert asked and [prompt for prompt in asked if prompt in text] == []
    assert f"are at {server.address}/kim/critic" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["sft", "reward", "ppo"])
def test_cards_pass_the_hubs_checks(model: str, there: Path, server: Hub, known: Base) -> None:
    send(model)
    text = server.files["README.md"].decode()
    ModelCard(text).validate()
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.library_name) == ("mit", "org/tiny", "transformers")
    assert data.language == ["en"] and "rlhf" in (data.tags or ())
    assert data.pipeline_tag == ("text-classification" if model == "reward" else "text-generation")
    assert "kim/critic" in text and not re.search(r"\blr\b|time/|grad_norm|runs/|loss/", text)
    assert re.search(r"\| .+ \| [\d.e-]+ \|", text)
    ModelCard.load(there / "runs/demo" / model / "README.md").validate()


def test_the_stand_in_refuses_what_the_hub_refuses(server: Hub) -> None:
    bad = card("ppo", "x", "kim/x", Base("org/x", "free"), {}, languages=["English"])
    assert len(flaws(bad)) == 2
    with pytest.raises(ValueError, match="license"):
        ModelCard(bad).validate()


def test_the_adapter_of_ppo_goes_onto_the_base_that_the_hub_knows(there: Path, server: Hub, known: Base) -> None:
    """Joined with sft's: on the base model it gives what the merged model gives."""
    send("ppo")
    Path("joined").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (Path("joined") / name).write_bytes(server.files[f"adapter/{name}"])
    assert json.loads(server.files["adapter/adapter_config.json"])["base_model_name_or_path"] == "org/tiny"
    base = AutoModelForCausalLM.from_pretrained("runs/.cache/tiny-random").eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained("runs/demo/ppo")("When the new neighbour knocked")["input_ids"]])
    with torch.no_grad():
        without = base(ids).logits
        found = PeftModel.from_pretrained(base, "joined").eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained("runs/demo/ppo").eval()(ids).logits
        sft = AutoModelForCausalLM.from_pretrained("runs/demo/sft").eval()(ids).logits
    torch.testing.assert_close(found, merged, atol=1e-4, rtol=0)
    assert min((merged - without).abs().max(), (merged - sft).abs().max()) > 1e-3
    shutil.rmtree("joined")


def test_the_adapter_of_a_reward_model_keeps_its_score_head(there: Path, server: Hub, known: Base) -> None:
    send("reward")
    Path("joined").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (Path("joined") / name).write_bytes(server.files[f"adapter/{name}"])
    assert any("score" in name for name in load(server.files["adapter/adapter_model.safetensors"]))
    tokenizer = AutoTokenizer.from_pretrained("runs/demo/reward")
    base = AutoModelForSequenceClassification.from_pretrained("runs/.cache/tiny-random", num_labels=1)
    base.config.pad_token_id = tokenizer.pad_token_id
    ids = torch.tensor([tokenizer("When the new neighbour knocked")["input_ids"]])
    with torch.no_grad():
        found = PeftModel.from_pretrained(base, "joined").eval()(ids).logits
        merged = AutoModelForSequenceClassification.from_pretrained("runs/demo/reward").eval()(ids).logits
    torch.testing.assert_close(found, merged, atol=1e-4, rtol=0)
    shutil.rmtree("joined")


def test_dry_sends_nothing_and_shows_files_and_card(
    there: Path, server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a base that is not on the Hub, so that its adapter stays and no licence is known."""
    send("ppo", dry=True)
    told = capsys.readouterr().out
    assert server.asked == [] and "license:" not in told
    for said in (
        "model.safetensors",
        "report.html",
        "library_name: transformers",
        "REPORT=0",
        "LICENSE=",
        "adapter stays",
    ):
        assert said in told
    send("ppo", dry=True, report=False, license="mit")
    told = capsys.readouterr().out
    assert "report.html" not in told.partition("would hold")[2] and "license: mit" in told


def test_a_model_whose_gate_failed_goes_only_by_force_and_says_so(there: Path, server: Hub) -> None:
    path = there / "runs/demo/sft/manifest.json"
    before = path.read_text()
    told = json.loads(before)
    told["gate"] = {
        "result": "fail",
        "checks": [{"name": "x", "figure": 0.1, "threshold": "above 0.5", "result": "fail"}],
    }
    rewritten(path, told)
    try:
        with pytest.raises(
            PushError,
            match=r"its gate failed: x 0.1 \(above 0.5\); train it better first, or push it anyway with FORCE=1",
        ):
            send("sft", force=False)
        assert server.asked == []
        send("sft")
    finally:
        path.write_text(before)
    assert "**Its gate failed:** x 0.1 (above 0.5)." in server.files["README.md"].decode()


def test_a_report_of_another_model_does_not_go(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = there / "runs/demo/compare/manifest.json"
    before = path.read_text()
    rewritten(path, json.loads(before.replace(Run("demo").identity("ppo"), "0" * 64)))
    send("ppo", dry=True)
    path.write_text(before)
    assert "no report of this model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("create", 401, "you are not logged in.*hf auth login"),
        ("create", 403, "the token may not write there"),
        ("create", 500, "the Hub answered 500"),
        ("preupload", 404, "it is not there"),
        ("/commit/", 409, "run the same command again"),
        ("/commit/", 412, "run the same command again"),
        ("validate-yaml", 400, "does not take the card: .*not like this"),
    ],
)
def test_a_refusal_is_one_sentence(where: str, status: int, said: str, there: Path, server: Hub) -> None:
    server.refuse[where] = status
    with pytest.raises(PushError, match=f"(?s)^kim/critic: .*{said}"):
        send("sft")
    assert server.files == {}


def test_a_repository_that_is_there_is_written_again_but_no_public_one_with_private(there: Path, server: Hub) -> None:
    server.repos["kim/critic"] = False
    send("sft")
    assert server.files
    server.files.clear()
    with pytest.raises(PushError, match="it is there and public, and PRIVATE was asked for"):
        send("sft", private=True)
    assert server.files == {}
    server.repos.clear()
    send("sft", private=True)
    assert server.repos == {"kim/critic": True}


def test_nobody_answers(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushError, match="no answer from http://127.0.0.1:9"):
        send("sft")


def test_mistakes_are_told_before_anything_is_read(there: Path) -> None:
    for to in ("critic", "kim/critic/x", "kim/a critic", ""):
        with pytest.raises(PushError, match="write name/repo"):
            push(Run("demo"), "ppo", to, private=False, dry=True, report=True, license=None, force=True)
    with pytest.raises(PushError, match="no stage that makes a model; choose among ppo, reward, sft"):
        send("compare")


def test_make_says_what_it_would_call() -> None:
    make = ["make", "-o", ".venv/ready", "-C", str(ROOT), "push"]  # nothing is installed
    given = ["RUN=my run", "TO=kim/critic", "PRIVATE=1", "DRY=0", "REPORT=0", "MODEL=sft"]
    done = subprocess.run([*make, "-n", *given], capture_output=True, text=True, check=True).stdout
    assert "push --run 'my run' --model 'sft' --to 'kim/critic' --private" in done
    assert "--no-report" in done and "--dry" not in done and "--force" not in done
    told = subprocess.run([*make, "RUN=x"], capture_output=True, text=True)
    assert told.returncode == 2 and "make push RUN=x MODEL=ppo TO=name/repo DRY=1" in told.stderr


def test_what_the_hub_knows_of_bases_and_data_sets(there: Path) -> None:
    assert base_of(EMBEDDED_MODEL) == Base("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert (
        base_of("org/name").hub == "org/name"
        and base_of("runs/demo").hub is None
        and base_of("tiny-random").hub is None
    )
    sources = ["Anthropic/hh-rlhf#train", "org/name:config@main#test", "mine.jsonl", "data/mine.jsonl", "data/*.jsonl"]
    sources += ["mine.adapters:rows", "film_reviews", "/abs/x", "../up/x", "runs/demo#train"]
    assert datasets_of(sources) == ["Anthropic/hh-rlhf", "org/name"]


def test_sources_are_those_of_the_settings_and_a_former_versions_too() -> None:
    for settings in (
        Data(source="a.jsonl", demonstrations="d.jsonl", eval_prompts="e.jsonl"),
        Data(mixture=[Part(source="a.jsonl", weight=1), Part(source="b.jsonl", weight=2)]),
    ):
        recorded = settings.model_dump(mode="json") | {"annotators": "separate"}
        assert sorted(_sources(recorded)) == sorted(settings.sources())
