"""What does a chat template write? Rendered in a fork that has seconds and memory, as a template is a program of a stranger.

It is asked for every conversation, not only at load: a template may do for one row what it does for no other.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import SecurityError
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from policies.errors import BackboneError
from policies.limited import Beyond, Worker, first_line
from policies.untyped import Json, Tokenizer

SECONDS = 10.0
LONGEST = 4 * 2**20
"""Characters that a template may write for one conversation, and that it may have itself."""
REMEDY = "give it another chat template"

PLAIN_CHAT = (
    "{% for message in messages %}"
    "{{ '' if loop.first else '\\n\\n' }}{{ message['role'] | capitalize }}:{{ '\\n' }}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:\\n' }}{% endif %}"
)
"""Chat template of a model that has none: `User:`, `Assistant:` and the like on lines of their own. What is sampled goes on to be
the beginning of the next turn's prompt, EOS included."""


class Refused(ValueError):
    """Messages that a chat template does not take, such as a role it does not know; says where it stands and what it says."""


@dataclass
class _Renderer:
    """The fork that renders, started where there is something to render, and one that asks it at a time."""

    worker: Worker | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, question: Json) -> Json:
        with self.lock:
            self.worker = self.worker or Worker(_answer)
            try:
                return self.worker.ask(question, SECONDS)
            except Beyond:
                self.worker = None
                raise


_RENDERER = _Renderer()


def _forget() -> None:
    """A fork of this process asks a renderer of its own."""
    _RENDERER.worker, _RENDERER.lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def render(tokenizer: Tokenizer, template: str, messages: Sequence[Json], add_generation_prompt: bool) -> str:
    """What `template` writes for the messages, as transformers' apply_chat_template does. Raises Refused where it does not take them, and
    BackboneError where it passes a limit or fails in a way that no messages mend."""
    if not messages:
        raise Refused("there are no messages")
    given = [{name: value for name, value in one.items() if value is not None} for one in messages]
    roles = tokenizer.special_tokens_map.items()
    special = {name: [*map(str, one)] if isinstance(one, list | tuple) else str(one) for name, one in roles}
    text: str = _asked(tokenizer, template, [template, given, add_generation_prompt, special])
    return text


def names_of(tokenizer: Tokenizer, template: str) -> list[tuple[str, str]]:
    """The variables of a template in the order in which they are read ("load") and set ("store"), its own globals left out. Raises as `render` does."""
    return [(str(name), str(how)) for name, how in _asked(tokenizer, template, [template])]


def _asked(tokenizer: Tokenizer, template: str, question: Json) -> Json:
    place = f"{_place(tokenizer)}: its chat template"
    if not isinstance(template, str):
        raise BackboneError(f"{place} is no text but {type(template).__name__}; {REMEDY}")
    if len(template) > LONGEST:
        raise BackboneError(f"{place} has more than {LONGEST >> 20} million characters; {REMEDY}")
    try:
        found = _answer(question) if _is_ours(template) else _RENDERER.ask(question)
    except Beyond as error:
        raise BackboneError(f"{place} {error} for one conversation; {REMEDY}") from None
    if "refused" in found:
        raise Refused(f"{_place(tokenizer)}: {found['refused']}")
    if "fault" in found:
        raise BackboneError(f"{place} {found['fault']}; {REMEDY}")
    return found["given"]


def _is_ours(template: str) -> bool:
    """Whether it is PLAIN_CHAT, behind text that is no program: such a one is rendered at once."""
    return template.endswith(PLAIN_CHAT) and "{" not in template.removesuffix(PLAIN_CHAT)


def _place(tokenizer: Tokenizer) -> str:
    """Where a template stands: its file, in a folder that has one."""
    name = str(getattr(tokenizer, "name_or_path", "") or "the tokenizer")
    file = Path(name) / "chat_template.jinja"
    return str(file) if file.is_file() else name


def _answer(question: Json) -> Json:
    """What the fork does with a question: a template alone is read, one with messages is rendered."""
    try:
        return {"given": _rendered(*question) if len(question) > 1 else _read(*question)}
    except SecurityError as error:
        return {"fault": f"asks for what no template may have ({first_line(error)})"}
    except TemplateSyntaxError as error:
        return {"fault": f"cannot be read (line {error.lineno}: {first_line(error)})"}
    except TemplateError as error:
        return {"refused": first_line(error)}
    except RecursionError:
        return {"fault": "calls itself without end, or is nested too deep"}
    except OverflowError as error:
        return {"fault": f"counts too far ({first_line(error)})"}
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        if "no loader" in str(error):
            return {"fault": "wants another file (include, import or extends), and has none"}
        return {"refused": f"{type(error).__name__}: {first_line(error)}"}
    except ArithmeticError as error:
        return {"fault": f"fails ({type(error).__name__}: {first_line(error)})"}


def _rendered(template: str, messages: Json, add_generation_prompt: bool, special: dict[str, Json]) -> str:
    text = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=add_generation_prompt, **special
    )[0][0]
    if len(text) > LONGEST:
        raise OverflowError(f"it writes more than {LONGEST >> 20} million characters")
    text.encode()  # a lone surrogate is no text that a tokenizer reads
    return text


def _read(template: str) -> list[tuple[str, str]]:
    environment = _compile_jinja_template("").environment
    return [(one.name, one.ctx) for one in _names(environment.parse(template)) if one.name not in environment.globals]


def _names(node: nodes.Node) -> list[nodes.Name]:
    """The variables of a template in the order in which they are read and set."""
    found = [node] if isinstance(node, nodes.Name) else []
    children = list(node.iter_child_nodes())
    if isinstance(node, nodes.Assign | nodes.For):  # what is assigned is read before
        children.sort(key=lambda child: child is node.target)
        if isinstance(node, nodes.For):
            children.sort(key=lambda child: child is not node.iter and child is not node.target)
    for child in children:
        found += _names(child)
    return found
