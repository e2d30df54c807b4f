"""Does a text hold JSON that fits a schema? For `verifiers.json_schema`; the library jsonschema says what fits.

python -m reward.schemas    answers questions line by line, for schemas whose patterns could take for ever
"""

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from policies.untyped import Foreign, Json

SECONDS = 5.0  # for one text where its schema has patterns
_PATTERNS = ("pattern", "patternProperties")


def flaw(schema: Json) -> str | None:
    """What is wrong with a schema, in words; None where nothing is. Its draft is the one that $schema names, else 2020-12."""
    if not isinstance(schema, dict | bool):
        return f"it is a {type(schema).__name__}, and a schema is an object"
    named = schema.get("$schema") if isinstance(schema, dict) else None
    kind = validator_for(schema, default=Draft202012Validator if named is None else None)
    if kind is None:
        return f"$schema {named} names no draft that is known; leave it out, or name one of json-schema.org's"
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        return f"{error.message} at {error.json_path}"
    except RecursionError:
        return "it is too deep"
    try:
        whole = Resource.from_contents(schema, default_specification=DRAFT202012)
        _followed(REGISTRY.with_resource(whole.id() or "", whole).resolver(whole.id() or ""), whole)
        kind(schema, registry=REGISTRY).is_valid(None)
    except Unresolvable as error:
        return f"{error} leads nowhere in it, and nothing is fetched; write its definition into $defs"
    except RecursionError:
        return "it refers to itself without end"
    return None


def _followed(resolver: Foreign, part: Foreign) -> None:
    """Look up every reference in a schema. Raises Unresolvable for one that leads nowhere."""
    for key in ("$ref", "$dynamicRef"):
        if isinstance(part.contents, dict) and isinstance(part.contents.get(key), str):
            resolver.lookup(part.contents[key])
    for one in part.subresources():
        _followed(resolver.in_subresource(one), one)


def fits(schema: Json, text: str) -> bool:
    """Whether the text is JSON (RFC 8259: no NaN, and no name twice in an object) that fits a schema without a flaw. False where a pattern
    of the schema takes more than SECONDS for it. `format` is a note to the reader, as the standard has it, and decides nothing."""
    if not any(key in part for part in _objects(schema) for key in _PATTERNS):
        return _fits(schema, text)
    return _asked(schema, text)


def _objects(schema: Json) -> Iterator[dict[str, Json]]:
    todo = [schema]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += one.values()
        elif isinstance(one, list):
            todo += one


def _fits(schema: Json, text: str) -> bool:
    try:
        value = json.loads(text, parse_constant=_no_json, object_pairs_hook=_once)
        kind = validator_for(schema, default=Draft202012Validator)
        return bool(kind(schema, registry=REGISTRY).is_valid(value))
    except (ValueError, RecursionError, ArithmeticError):  # the last: a number too large for multipleOf
        return False


def _no_json(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return found


_child: list[subprocess.Popen[bytes]] = []


def _asked(schema: Json, text: str) -> bool:
    if not _child or _child[0].poll() is not None:
        root = Path(__file__).resolve().parents[1]
        start = [sys.executable, "-m", "reward.schemas"]
        _child[:] = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)]
        _child[0].stdout.readline()  # type: ignore[union-attr]  # it has imported what it needs
    child = _child[0]
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(json.dumps([schema, text]).encode() + b"\n")
    child.stdin.flush()
    if select.select([child.stdout], [], [], SECONDS)[0]:
        return child.stdout.readline() == b"fits\n"
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    return False


def _serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:  # which ends with who asks
        schema, text = json.loads(line)
        print("fits" if _fits(schema, text) else "does not fit", flush=True)


if __name__ == "__main__":
    _serve()
