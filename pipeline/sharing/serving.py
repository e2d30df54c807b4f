"""How do programs talk to a model of a run? transformers' own server, OpenAI-compatible, on the published folder.

make serve MODEL=ppo RUN=demo                  # PORT=8000
python -m pipeline serve --model ppo --run demo
"""

import os
import shlex
import socket
import sys
from importlib.util import find_spec

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.commands import install
from pipeline.graph import STAGES
from pipeline.sharing.push import models
from pipeline.training.card import is_encoder_decoder

HOST = "127.0.0.1"
NEEDED = ("fastapi", "uvicorn")  # of transformers' extra "serving"


def serve(run: Run, model: str, port: int) -> None:
    """Become the server, in place of this process. Raises ArtifactError where there is no such model that speaks, it is damaged, the
    port is taken, or transformers' server cannot run here."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ArtifactError(f"serve: {missing[0]} is not installed; {install('transformers[serving]')}")
    speaking = [name for name in models(run) if STAGES[name.partition("_seed_")[0]].policy]
    if model not in speaking:
        raise ArtifactError(
            f"MODEL={model}: the run {run.name} has no such model that speaks; there are {', '.join(speaking) or 'none yet'}"
        )
    run.require(model, force=True)
    if is_encoder_decoder(run.folder(model)):
        raise ArtifactError(
            f"MODEL={model}: {run.folder(model)} is an encoder–decoder, and transformers' server speaks by causal language models alone; "
            "talk to it in a browser, on the chat page of the command web"
        )
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise ArtifactError(
                f"serve: port {port} cannot be had ({error.strerror}); choose another PORT (--port)"
            ) from None
    folder, programs = run.folder(model).resolve(), os.path.dirname(sys.executable)
    command = [os.path.join(programs, "transformers"), "serve", str(folder), "--host", HOST, "--port", str(port)]
    print(f"serve: {run.folder(model)} answers at http://{HOST}:{port}/v1 when it is loaded; Ctrl-C ends it")
    print(f"serve: talk to it: {shlex.join([command[0], 'chat', str(folder), f'http://{HOST}:{port}'])}")
    print(f"serve: or by vLLM instead: {shlex.join(['vllm', 'serve', str(folder), '--port', str(port)])}", flush=True)
    os.execv(command[0], command)
