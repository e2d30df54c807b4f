"""Does a key come into anything that is written? Canaries in every place × every output: what is no place for a key is refused without
repeating it, and what a stranger sends back is taken out."""

import base64
import html
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from pipeline import redaction
from pipeline.__main__ import app
from pipeline.artifacts.files import write_json, write_text
from pipeline.artifacts.ownership import MARK, check_run_name
from pipeline.artifacts.run import Run
from pipeline.running import run_stage
from pipeline.settings.recipe import ConfigError, load
from pipeline.training.trackers import open_trackers
from pipeline.words import flaw

ROOT = Path(__file__).resolve().parents[2]
OWN = "Correct-horse/battery+staple=42"  # no service's shape: known by the variable that holds it
SHAPED = {  # made up here: none of them is anybody's
    "OpenAI": "sk-proj-CANARYcanary0123456789",
    "OpenAI, old": "sk-" + "c4n4ry" * 8,
    "Anthropic": "sk-ant-api03-CANARY-canary_0123456789",
    "Hugging Face": "hf_" + "CanaryCanaryCanaryCanary",
    "GitHub": "ghp_" + "CanaryCanary0123456789",
    "GitHub, fine": "github_pat_" + "11CANARY0_canary0123456789",
    "AWS": "AKIA" + "CANARY7CANARY7CA",
    "Google": "AIza" + "CanaryCanary-Canary_Canary0123456789",
    "Slack": "xoxb-" + "0123456789-canary",
    "Stripe": "sk_live_" + "canary0123456789",
    "JWT": "eyJjYW5hcnkiOjF9" + ".eyJjYW5hcnkiOjF9.Y2FuYXJ5",
    "Bearer": "Bearer c4n4ryc4n4ry",
    "password in an address": "https://me:c4n4ry@example.org/v1",
    "key in a query": "https://example.org/v1?api_key=c4n4ry",
    "token in a query": "https://example.org/v1?a=b&access_token=c4n4ry",
}
CANARIES = {**SHAPED, "HF_TOKEN": OWN}
MARKS = ("c4n4ry", "canary", OWN, OWN[:12])
WALK = "model: tiny-random\ndata:\n  source: {source}\n"

# where somebody may write a key: a recipe, or words of the command line
RECIPES = {
    "the address": "compare:\n  llm: {model: m, base_url: KEY}\n",
    "the model": "compare:\n  llm: {base_url: http://127.0.0.1/v1, model: KEY}\n",
    "api_key_env": "compare:\n  llm: {base_url: http://127.0.0.1/v1, model: m, api_key_env: KEY}\n",
    "an unknown field": "compare:\n  llm: {base_url: http://127.0.0.1/v1, model: m, api_key: KEY}\n",
    "a header": "compare:\n  llm: {base_url: http://127.0.0.1/v1, model: m, headers: {authorization: KEY}}\n",
    "the base model": "model: KEY\n",
    "a number": "seed: KEY\n",
    "a choice": "dtype: KEY\n",
    "a list": "compare:\n  models: [base, KEY]\n",
    "a source": "data:\n  source: KEY\n",
    "a mapping": "chat_template_kwargs: {a: KEY}\n",
    "a section": "sft: KEY\n",
    "a name": "KEY: 1\n",
    "a name twice": "KEY: 1\nKEY: 2\n",
    "all of it": "KEY\n",
    "broken YAML": "model: [KEY\nseed: 1\n",
    "a tag": "model: !KEY x\n",
    "an alias": "model: *KEY\n",
}
OVERRIDES = ["compare.llm.api_key_env=KEY", "compare.llm.api_key=KEY", "compare.llm={model: m, base_url: KEY}", "model=KEY", "seed=KEY", "KEY", "KEY=1", "sft=KEY", "compare.judges=[KEY]", "report_to=[KEY]", "data.source=KEY", "compare.name=KEY"]  # fmt: skip


def clean(text: str, where: str = "") -> None:
    lowered = text.lower()
    for mark in MARKS:
        assert mark.lower() not in lowered, f"{where}: {text[max(0, lowered.find(mark.lower()) - 80) :][:200]}"


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", OWN)
    before = set(redaction._kept)
    streams = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = streams
    redaction._kept.clear()
    redaction._kept.update(before)


def test_a_recipe_with_a_key_is_refused_without_it(tally: Callable[[str], Any]) -> None:
    with tally("hostile") as cases:
        for place, text in RECIPES.items():
            for name, key in CANARIES.items():
                with cases(f"{name} as {place}"):
                    quoted = key if place in ("broken YAML", "a tag", "an alias", "all of it") else json.dumps(key)
                    Path("r.yaml").write_text(text.replace("KEY", quoted))
                    with pytest.raises(ConfigError) as error:
                        load("r.yaml")
                    clean(redaction.redacted(str(error.value)), place)
                    assert str(error.value).startswith("r.yaml:")


def test_a_key_on_the_command_line_is_refused_without_it(tally: Callable[[str], Any]) -> None:
    Path("r.yaml").write_text("seed: 1\n")
    with tally("hostile") as cases:
        for override in OVERRIDES:
            for name, key in CANARIES.items():
                with cases(f"{name} in {override}"):
                    with pytest.raises(ConfigError) as error:
                        load("r.yaml", [override.replace("KEY", key)])
                    clean(str(error.value))
        for plain in ("compare.llm.api_key_env=[c4n4ry]", "compare.llm=c4n4ry", "api_key=c4n4ry", "OPENAI_API_KEY=c4n4ry", "password=c4n4ry", "compare.llm.token=c4n4ry"):  # fmt: skip
            with cases(plain):  # of no known shape: known by where it stands
                with pytest.raises(ConfigError) as error:
                    load("r.yaml", [plain])
                clean(str(error.value))


def test_commands_with_a_key_in_any_word(tally: Callable[[str], Any]) -> None:
    Path("r.yaml").write_text("seed: 1\n")
    words = [["data", "r.yaml", "--run", "KEY"], ["data", "KEY"], ["KEY"], ["data", "r.yaml", "--KEY"], ["all", "r.yaml", "model=KEY"], ["runs", "--run", "KEY"], ["push", "--to", "KEY"], ["data-check", "KEY"], ["data-check", "x.jsonl", "format=KEY"], ["settings", "KEY"], ["prune", "--run", "KEY", "--yes"], ["inspect", "r.yaml", "--prompt", "KEY", "--model", "KEY"]]  # fmt: skip
    with tally("hostile") as cases:
        for line in words:
            for name in ("OpenAI", "HF_TOKEN") if "r.yaml" in line else ("key in a query",):
                with cases(f"{name} in {' '.join(line)}"):
                    done = CliRunner().invoke(app, [word.replace("KEY", CANARIES[name]) for word in line])
                    clean(redaction.redacted(done.output), str(line))
                    assert done.exit_code != 0 or line[0] == "runs", done.output
                    assert not list(Path("runs").rglob("*")) if Path("runs").exists() else True
        for key in CANARIES.values():
            with cases(f"make with {key[:4]}"):
                clean(redaction.redacted(str(flaw([key], ["all"], ["RUN"], {"model": key}))))


WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in an address": lambda key: quote(key, safe=""),
    "half in an address": quote,
    "in JSON": json.dumps,
    "in JSON in JSON": lambda key: json.dumps(json.dumps({"a": key})),
    "in HTML": html.escape,
    "in entities": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "in escapes": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "as Python prints it": repr,
    "in bytes": lambda key: repr(key.encode()),
    "over two lines": lambda key: f"{key[:9]}\n    {key[9:]}",
    "over two lines, escaped": lambda key: rf"{key[:9]}\n{key[9:]}",
    "a character a line": "\n".join,
    "in base64": lambda key: base64.b64encode(key.encode()).decode(),
    "in base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "in base64 behind a name": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "in base64, wrapped": lambda key: base64.encodebytes(f"a long name:{key} and so on".encode()).decode(),
    "in hex": lambda key: key.encode().hex(),
    "in a header": lambda key: f"Authorization: Bearer {key}",
    "in a query": lambda key: f"GET /v1?api_key={quote(key)}&x=1",
}


def test_a_key_that_comes_back_is_found_however_it_is_written(tally: Callable[[str], Any]) -> None:
    """As an endpoint's error may quote it; what stands around it stays."""
    with tally("hostile") as cases:
        for key in (OWN, 'a"b\\c<d>&e f%g', "pässwörd-1234", "12345678"):
            redaction.keep(key)
            for way, written in WAYS.items():
                with cases(f"{key} {way}"):
                    said = redaction.redacted(f"before {written(key)} behind")
                    assert said.startswith("before ") and said.endswith(" behind") and redaction.HIDDEN in said
                    for part in (key, written(key)):
                        assert part not in said and part[3:-3] not in said, said


def test_what_is_no_secret_stays(tally: Callable[[str], Any]) -> None:
    redaction.keep(OWN)
    with tally("hostile") as cases:
        for text in ("/data/sk-learn-experiments-2026/model", "risk-averse-individuals-in-a-long-text", "hf_hub_download_something", "bearer of responsibility", "micro_batch_tokens=384", "max_tokens: 5", "https://example.org/page?lang=de&page=2", "me@example.org", "a?b=c", "eos_token=</s>", "api_key_env: OPENAI_API_KEY", "0123456789abcdef0123456789abcdef01234567", "sk-short"):  # fmt: skip
            with cases(text):
                assert redaction.redacted(text) == text and redaction.reason(text) is None


def test_every_writer_takes_them_out(tally: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of text and of JSON, names within it, the terminal, and a traceback."""
    said = " ".join(CANARIES.values())
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    with tally("hostile") as cases:
        with cases("text"):
            write_text(Path("a.md"), said)
            clean(Path("a.md").read_text())
        with cases("JSON"):
            write_json(Path("a.json"), {said: [said, {"a": said}], "b": 1})
            clean(Path("a.json").read_text())
            assert json.loads(Path("a.json").read_text())["b"] == 1
        with cases("terminal"):
            redaction.watch_terminal()
            redaction.watch_terminal()  # twice is once
            print(said, end="", flush=True)
            sys.stdout.writelines([said])
            clean(terminal.getvalue())
            assert redaction.HIDDEN in terminal.getvalue()
        with cases("a run's name"), pytest.raises(Exception, match="it holds") as error:
            check_run_name("sk-proj-CANARYcanary0123456789")
        clean(str(error.value))


def test_a_traceback_of_a_process(tally: Callable[[str], Any]) -> None:
    with tally("hostile") as cases, cases("a programmer's mistake that quotes the key"):
        code = "import os; from pipeline.running import guarded\ndef f(): raise KeyError(os.environ['HF_TOKEN'])\nguarded(f)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "KeyError" in done.stderr
        clean(done.stdout + done.stderr)


def test_a_run_that_was_asked_with_keys_all_around(tally: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Stage data of a recipe without any, in an environment full of them, and a manifest of a former version that holds one: no file of
    the run, no page, no line and no tracker has a canary."""
    for number, key in enumerate(CANARIES.values()):
        monkeypatch.setenv(f"CANARY_{number}_API_KEY", key)
    Path("r.yaml").write_text(WALK.format(source=ROOT / "data" / "smoke.jsonl"))
    config = load("r.yaml")
    told: list[Any] = []
    with tally("hostile") as cases:
        with cases("files"):
            run_stage("data", config, "demo")
            files = [path for path in Path("runs").rglob("*") if path.is_file()]
            assert {"manifest.json", "index.html"} <= {path.name for path in files}
            for path in files:
                clean(path.read_bytes().decode("utf-8", "replace"), str(path))
        with cases("a former manifest"):
            manifest = Path("runs/demo/data/manifest.json")
            old = json.loads(manifest.read_text())
            old["command"] = {"recipe": "r.yaml", "overrides": [f"compare.llm.base_url={SHAPED['key in a query']}"]}
            manifest.write_text(json.dumps(old))
            done = CliRunner().invoke(app, ["runs"])
            clean(redaction.redacted(done.output))
            (run := Run("demo")).partial("sft").mkdir(exist_ok=True)
            (run.partial("sft") / MARK).write_text(
                json.dumps({"started": "2026-01-01T00:00:00+00:00", "inputs": "0" * 64})
            )
        with cases("trackers"):
            monkeypatch.setattr("pipeline.training.trackers.Wandb", lambda *given: told.append(given))
            former = config.model_copy(update={"model": SHAPED["OpenAI"], "report_to": ["wandb"]})
            open_trackers("sft", former, run)
            assert told
            clean(str(told))
        with cases("the terminal"):
            clean("".join(capfd.readouterr()))
