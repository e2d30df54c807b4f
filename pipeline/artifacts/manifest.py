"""What does a published folder say of itself? Its manifest.json, written last, so that a folder that has one is complete.

What is read here comes from outside: a disk, an archive, another machine. So its size and depth are limited before it is parsed, every
field is checked, and its last field, `seal`, is the hash of all the others: a manifest in which a byte changed is none. Only one that
a former version wrote has no seal.
"""

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from dataclasses import asdict, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, ValidationError, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from pipeline.artifacts.ownership import MANIFEST, is_plain_name
from pipeline.graph import STAGES
from pipeline.language import language_now
from pipeline.redaction import redacted_in

CONTRACT = 1
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
LARGEST = 16 * 2**20  # bytes of a manifest; ours have some hundred thousand at most
DEEPEST = 40  # lists and objects inside each other
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Newer(ValueError):
    """A manifest that a newer version wrote: sound, and not for this one to judge."""


def _inside(path: str) -> str:
    parts = path.split("/")
    if path == MANIFEST or not all(map(_is_file_name, parts)) or PurePosixPath(path).as_posix() != path:
        raise ValueError(f"{ascii(path)} is no file inside of the folder")
    return path


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "\\" not in name and name.isprintable() and len(name.encode()) <= 255


def _of_a_run(role: str) -> str:
    if not 1 <= len(parts := role.split("/")) <= 2 or not all(map(is_plain_name, parts)):
        raise ValueError(f"{ascii(role)} is no stage's folder")
    return role


def _known(stage: str) -> str:
    if stage not in STAGES:
        raise ValueError(f"{ascii(stage)} is no stage of this version")
    return stage


Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Result = Literal["pass", "warn", "fail"]
_CLOSED = ConfigDict(extra="forbid", strict=True)


@with_config(_CLOSED)
class File(TypedDict):
    """A published file; `identity` where its contents name a folder (publish.py)."""

    path: Annotated[str, AfterValidator(_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: Hash
    identity: NotRequired[Hash]


@with_config(_CLOSED)
class Parent(TypedDict):
    """What a stage was made of: a folder of its run, or RUN/STAGE, and the hash of its contents."""

    role: Annotated[str, AfterValidator(_of_a_run)]
    path: str
    sha256: Hash


@with_config(_CLOSED)
class Checked(TypedDict):
    """A line of a gate (gate.Check)."""

    name: str
    result: Result
    figure: Finite | None
    threshold: str
    why: NotRequired[str]


@with_config(_CLOSED)
class Closed(TypedDict):
    """How a stage ended (gate.Gate)."""

    result: Result
    checks: list[Checked]


@with_config(_CLOSED)
class Resolved(TypedDict):
    """The settings that a stage read."""

    settings: dict[str, Any]
    sha256: Hash


@with_config(ConfigDict(extra="allow", strict=True))
class Given(TypedDict):
    """What a command line was given (commands.Call.given)."""

    recipe: str
    overrides: list[str]


def noted(manifest: "Manifest", name: str) -> str:
    """A sentence among its notes in the language that is spoken; in English where an older version made it."""
    own = "" if language_now() == "en" else f".{language_now()}"
    return str(manifest.notes.get(f"{name}{own}") or manifest.notes.get(name) or "")


@dataclass(frozen=True, config=_CLOSED)
class Manifest:
    """What a published folder says of itself (manifest.json)."""

    contract: Annotated[int, Field(ge=1, le=CONTRACT)]
    stage: Annotated[str, AfterValidator(_known)]
    run: str
    inputs: Hash
    parents: list[Parent]
    files: list[File]
    config: Resolved
    tokenizer: str
    model: dict[str, Any]
    seed: int
    dtype: str
    world_size: int
    libraries: dict[str, str]
    machine: str
    git_commit: str | None
    data: dict[str, Any]
    metrics: dict[str, Finite]
    gate: Closed
    started: str
    finished: str
    forced: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    command: Given | None = None  # None: not made by a command line
    outside: dict[str, Hash] = field(default_factory=dict)  # what it read outside of the run (outside.py), by its name
    seal: str | None = None

    def __post_init__(self) -> None:
        for what, names in (("files", [f["path"] for f in self.files]), ("parents", [p["role"] for p in self.parents])):
            if twice := sorted({name for name in names if names.count(name) > 1} if len(names) < 1000 else set()):
                raise ValueError(f"{what} has {ascii(twice[0])} twice")


def sealed(found: Manifest) -> Manifest:
    """The same as it is written, secrets taken out, with its seal: the hash of all the rest."""
    raw = redacted_in(asdict(found))
    return Manifest(**(raw | {"seal": seal_of(raw)}))


def read(path: Path) -> Manifest:
    """A manifest.json. Raises OSError, Newer, or ValueError that says what is wrong with it."""
    with path.open("rb") as file:
        return _read(file.read(LARGEST + 1))


@lru_cache(maxsize=128)  # the same manifest is asked for often; by all its bytes, so never for another
def _read(raw: bytes) -> Manifest:
    try:
        if len(raw) > LARGEST:
            raise ValueError(f"more than {LARGEST // 2**20} MB")
        text = raw.decode("utf-8")
        found = _parsed(text)
        contract = found.get("contract")
        if isinstance(contract, int) and contract > CONTRACT:
            raise Newer(f"made by a newer version (contract {contract}, this one reads {CONTRACT})")
        manifest = Manifest(**found)
        text_of(found).encode()  # half a surrogate pair, which no file can hold, is a ValueError
        if "seal" in found and text != _sealed_text(found):
            raise ValueError("changed since it was published")
    except Newer:
        raise
    except ValidationError as error:
        raise ValueError(f"not a manifest of ours ({_words(error)})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not a manifest of ours ({error})") from None
    return manifest


def _sealed_text(found: dict[str, Any]) -> str:
    """A manifest's text, with the seal that it should have at its end."""
    rest = text_of({name: value for name, value in found.items() if name != "seal"})
    seal = hashlib.sha256(rest.encode("utf-8", "surrogatepass")).hexdigest()
    return rest.removesuffix("\n}\n") + f',\n  "seal": "{seal}"\n}}\n'


def _parsed(text: str) -> dict[str, Any]:
    """The object of a JSON text, strictly. Raises ValueError."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ValueError(f"lists and objects more than {DEEPEST} deep")
    found = json.loads(text, object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{ascii(next(name for name in names if names.count(name) > 1))} stands there twice")
    return found


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(number: str) -> float:
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number[:20]} is too large")
    return found


def text_of(raw: dict[str, Any]) -> str:
    """A manifest as publish writes it."""
    return json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def seal_of(raw: dict[str, Any]) -> str:
    """The hash of a manifest but its seal, as it is written."""
    rest = {name: value for name, value in raw.items() if name != "seal"}
    return hashlib.sha256(text_of(rest).encode("utf-8", "surrogatepass")).hexdigest()


def _words(error: ValidationError) -> str:
    """The first of what pydantic finds wrong, with the field's name, and how many more there are."""
    first, *more = error.errors(include_url=False, include_input=False)
    place = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in first["loc"]).lstrip(".")
    kinds = {
        "missing": "is missing",
        "unexpected_keyword_argument": "is no field of it",
        "extra_forbidden": "is no field of it",
    }
    said = kinds.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    said = f"{place}: {said}" if place and first["type"] not in kinds else f"{place} {said}".strip()
    return f"{said}, and {len(more)} more" if more else said


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The commit of this checkout, with -dirty where files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that a result hangs on."""
    return {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def machine() -> str:
    """What this machine is, without its name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
