"""What do all pages share? Templates, JSON, and the promise that every number is finite."""

import base64
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.language import in_language, phrase, retold


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
        loader=_Loader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(phrase=phrase, retold=retold)
    return environment.get_template(name)


def own_script(name: str) -> tuple[Markup, str]:
    """A script of ours, without any value in it, and its sha256 as a page's Content-Security-Policy names it."""
    script = Markup(page_template(name).render())
    return script, base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def inline(value: Any) -> Markup:
    """JSON for a <script type="application/json">: nothing in it can end the element or begin a comment."""
    text = to_json(value).encode("utf-8", "backslashreplace").decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


class _Loader(jinja2.FileSystemLoader):
    """Templates in the language that is spoken."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, path, unchanged = super().get_source(environment, template)
        return in_language(template, source), path, unchanged
