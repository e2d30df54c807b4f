"""Does docs/use.md work as it stands: each block of Python, the server, the chat, adapters from anywhere?"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines()]


def test_every_block_of_python_runs(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(PYTHON) == 5 and len(readme) == 1
    for block in [*PYTHON, *readme]:
        exec(compile(block, "a page", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_ballot_of_the_page_about_judges_is_written(there: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/judges.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/judges.md", "exec"), {})
    assert len(Path("ballot.csv").read_text(encoding="utf-8").splitlines()) > 1


@pytest.fixture(scope="module")
def server(demo: Path) -> Iterator[str]:
    """`transformers serve` as the page has it, at a free port: its address."""
    (command,) = [line for line in COMMANDS if "transformers serve" in line]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [str(Path(sys.executable).parent / "transformers"), *shlex.split(command)[1:], "--port", str(port)]
    address = f"http://localhost:{port}"
    with subprocess.Popen(call, cwd=demo, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, "the server ended"
                try:
                    urllib.request.urlopen(f"{address}/health").read()
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def test_the_server_answers_as_the_page_asks(server: str) -> None:
    (command,) = [shlex.split(line) for line in COMMANDS if line.startswith("curl")]
    body = command[command.index("-d") + 1].encode()
    asked = urllib.request.Request(
        command[1].replace("http://localhost:8000", server), body, {"Content-Type": "application/json"}
    )
    told = json.loads(urllib.request.urlopen(asked).read())
    assert 0 < told["usage"]["completion_tokens"] <= 24 and told["choices"][0]["finish_reason"] in ("stop", "length")


def test_the_chat_answers(server: str, demo: Path) -> None:
    (command,) = [line for line in COMMANDS if "transformers chat" in line]
    call = shlex.split(command.replace("http://localhost:8000", server))
    call = [str(Path(sys.executable).parent / "transformers"), *call[1:], "max_new_tokens=8"]
    done = subprocess.run(call, cwd=demo, input="Hello\nn\n!exit\n", capture_output=True, text=True, timeout=120)
    assert re.search(r"[1-8] tokens in", done.stdout), done.stdout + done.stderr


def test_adapters_load_from_another_folder(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of ppo and, on a base model of the recipe, that of sft."""
    monkeypatch.chdir(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    for stage in ("sft", "ppo"):
        folder = demo / "runs/demo" / stage
        with torch.no_grad():
            found = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter").eval()(ids).logits
            merged = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
        torch.testing.assert_close(found, merged, atol=1e-4, rtol=0)
