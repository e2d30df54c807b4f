"""What do all pages share? Templates, JSON, and the promise that every number is finite."""

import json
import math
from pathlib import Path
from typing import Any

import jinja2


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with characters as they are; to be encoded with "backslashreplace"."""
    # Half a surrogate pair survives as \udXXX through "backslashreplace", which is how JSON spells it too.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def require_finite(value: Any, where: str) -> None:
    """Raise ValueError with the place of a number that is not finite; `where` names `value`."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a report holds finite numbers only")
    if isinstance(value, dict):
        for key, inner in value.items():
            require_finite(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            require_finite(inner, f"{where}[{index}]")


def page_template(name: str, folder: Path = Path(__file__).parent / "templates") -> jinja2.Template:
    """A template of ours. Whatever it is given comes out as text, never as markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
