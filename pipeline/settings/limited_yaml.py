"""How is YAML from people read, so that no file of a stranger runs code, fills the memory or takes for ever?

Tags, which name types, are refused; aliases are counted as what they stand for; depth, size and the length of a number are limited. What
is wrong is told with its line.
"""

import re
from typing import Any

import yaml

LARGEST = 256 * 1024
"""Bytes of a recipe; the longest of ours has a hundredth of that."""
DEEPEST = 32
MOST_VALUES = 20_000
LONGEST_NUMBER = 64
"""Characters of a number."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class BeyondLimit(yaml.constructor.ConstructorError):
    """YAML that is refused though it may be well formed: `problem` says why and what to do."""

    def __init__(self, problem: str, mark: Any):
        super().__init__(None, None, problem, mark)


class Unreadable(BeyondLimit):
    """A value that looks like a date or a number and is none."""


class _Loader(yaml.SafeLoader):
    """Safe loading that reads 1e-4 as a number."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise BeyondLimit(f"the tag {ascii(event.tag)[:60]} names a type, and none is read; take it out, or quote the text", event.start_mark)  # fmt: skip
        self.depth += 1
        if self.depth > DEEPEST:
            raise BeyondLimit(f"lists and mappings are nested more than {DEEPEST} deep; flatten them", event.start_mark)
        made = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.depth -= 1
        return made

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag in NUMBERS:
            _check_number(node)
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            problem = f"a value reads as a date or number and is none ({str(error)[:80]}); put it in quotes"
            raise Unreadable(problem, node.start_mark) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$|^[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _check_number(node: Any) -> None:
    value = node.value
    if len(value) > LONGEST_NUMBER:
        raise BeyondLimit(f"a number of {len(value)} characters; put it in quotes if it is a text", node.start_mark)
    if ":" in value or re.match(r"[-+]?0[0-9_]", value) and node.tag == NUMBERS[0]:
        what = "60s" if ":" in value else "8s"
        raise BeyondLimit(f"{value} is a number counted in {what} to YAML; write it plainly, or put it in quotes", node.start_mark)  # fmt: skip


def composed(text: str) -> yaml.Node | None:
    """The nodes of a document, with their lines. Raises yaml.YAMLError."""
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    if node is not None:
        _check_size(node)
    return node


def value_of(node: yaml.Node | None) -> Any:
    """The value of a document that `composed` gave. Raises yaml.YAMLError."""
    return None if node is None else _Loader("").construct_document(node)  # type: ignore[no-untyped-call]


def loaded(text: str) -> Any:
    """The value of a document. Raises yaml.YAMLError."""
    return value_of(composed(text))


def _check_size(root: yaml.Node) -> None:
    """Raise BeyondLimit where aliases make more of a document than it is to hold, or hold themselves."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in above:
            raise BeyondLimit("an alias stands inside of what it stands for; write the values out", node.start_mark)
        if id(node) not in sizes:
            above.add(id(node))
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            inner = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in pairs for one in pair]
            sizes[id(node)] = 1 + sum(map(size, inner))
            above.remove(id(node))
        if sizes[id(node)] > MOST_VALUES:
            raise BeyondLimit(f"with its aliases (*name) written out it holds more than {MOST_VALUES} values; write fewer", node.start_mark)  # fmt: skip
        return sizes[id(node)]

    size(root)


def problem_of(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line of a mistake, from 1, and what it is, with what to do."""
    mark = getattr(error, "problem_mark", None)
    line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if isinstance(error, BeyondLimit):
        return line + 1, problem
    return line + 1, f"not valid YAML: {problem}; mend the syntax"
