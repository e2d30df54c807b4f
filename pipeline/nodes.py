"""Do the processes of several machines see one folder runs/? They ask each other, by torch's store, before any of them reads or writes there.

Without that a machine with a folder of its own would not find what the stage is made from, and end, while the others wait for it.
"""

import json
import os
import socket
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

APPEARS = 20.0  # seconds until a file that one machine writes is there for another: network file systems remember what they saw
ANSWERS = timedelta(minutes=10)  # until all processes have started


def several() -> bool:
    """Whether this process is one of several that may be on several machines."""
    world = int(os.environ.get("WORLD_SIZE") or 1)
    return world > int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def apart(root: Path) -> str | None:
    """One sentence where a process of another machine than the first process's does not see the folder `root` of that one; None where
    all see the same. Every process is to ask, and all are told the same."""
    from torch.distributed import DistError, PrefixStore, rendezvous

    world = int(os.environ["WORLD_SIZE"])
    try:
        found: Any = next(iter(rendezvous("env://", timeout=ANSWERS)))
        return agreed(PrefixStore("runs", found[0]), int(os.environ["RANK"]), world, root)
    except DistError:
        minutes = ANSWERS.total_seconds() / 60
        return f"not all of {world} processes have come within {minutes:g} minutes; see what those of the other machines say"


def agreed(store: Any, rank: int, world: int, root: Path) -> str | None:
    """`apart` among `world` processes that share `store`, a torch.distributed.Store."""
    here = f"process {rank} on {socket.gethostname()}"
    if rank == 0:
        token = root / f".{uuid.uuid4().hex}.shared"
        root.mkdir(parents=True, exist_ok=True)
        token.touch()
        try:
            store.set("first", json.dumps([token.name, here, str(root.resolve())]))
            answers = [json.loads(store.get(f"of {other}")) for other in range(1, world)]
        finally:
            token.unlink(missing_ok=True)
        store.set("all", json.dumps([answer for answer in answers if answer]))
    else:
        name, _, _ = json.loads(store.get("first"))
        seen = _appears(root / name)
        store.set(f"of {rank}", json.dumps(None if seen else [here, str(root.resolve())]))
    without: list[list[str]] = json.loads(store.get("all"))
    _, first, folder = json.loads(store.get("first"))
    # whoever hosts the store stays until all have read
    store.add("read", 1)
    while rank == 0 and store.add("read", 0) < world:
        time.sleep(0.05)
    if not without:
        return None
    others = ", ".join(f"{its} of {who}" for who, its in without[:3]) + (", …" if len(without) > 3 else "")
    return (
        f"{root.name}/ is not shared: what {first} writes into {folder} does not appear in {others}; start every process in one folder "
        "that all machines share, such as one on a network file system"
    )


def _appears(path: Path) -> bool:
    until = time.monotonic() + APPEARS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
