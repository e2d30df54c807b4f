"""Which values pass between the tests and a program's code, and how?

They travel by what they hold: None, numbers, texts, bytes, the containers of Python and of `collections`, dates, decimals and fractions,
of exactly these types. Any other object stays where it is. Standard library alone: `jail.py` runs it where nothing of ours is.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.untyped import AnyFunction, Foreign, Json

MOST = 4 << 20  # bytes of a message
_SMALL = 1 << 63
_MAPS: dict[type, str] = {dict: "dict", collections.Counter: "Counter", collections.OrderedDict: "OrderedDict"}
_MAPS[collections.defaultdict] = "dict"
_ROWS: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
}
_OF: dict[str, AnyFunction] = {name: kind for kind, name in _ROWS.items()} | {
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "dict": dict,
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "Decimal": decimal.Decimal,
    "Fraction": lambda parts: fractions.Fraction(*parts),
    "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
}
CHANGE = (list, dict, set, bytearray, collections.deque, collections.Counter, collections.OrderedDict)


class Closed(Exception):
    """The other side is gone, or says what nobody asked for."""


class Channel:
    """Messages between two processes: a length in four bytes, then JSON."""

    def __init__(self, number: int):
        self.socket = socket.socket(fileno=number)

    def send(self, message: Json) -> None:
        data = json.dumps(message).encode()
        if len(data) > MOST:
            raise ValueError(f"a value of {len(data)} bytes, and {MOST} are the most that is taken")
        try:
            self.socket.sendall(struct.pack(">I", len(data)) + data)
        except OSError as error:
            raise Closed from error

    def receive(self) -> Json:
        size = struct.unpack(">I", self._read(4))[0]
        if size > MOST:
            raise Closed
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise Closed from error

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except OSError as error:
                raise Closed from error
            if not more:
                raise Closed
            data += more
        return bytes(data)


def encoded(value: Foreign, other: Callable[[Foreign], Json]) -> Json:
    """The value as JSON; `other` says what an object is that does not travel."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else ["int", hex(value)]
    if kind in _ROWS:
        return [_ROWS[kind], [encoded(one, other) for one in value]]
    if kind in _MAPS:
        return [_MAPS[kind], [[encoded(key, other), encoded(one, other)] for key, one in value.items()]]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if kind is range:
        return ["range", [value.start, value.stop, value.step]]
    if kind is decimal.Decimal:
        return ["Decimal", str(value)]
    if kind is fractions.Fraction:
        return ["Fraction", [value.numerator, value.denominator]]
    if kind in (datetime.date, datetime.datetime):
        return [kind.__name__, value.isoformat()]
    if kind is datetime.timedelta:
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    return other(value)


def decoded(value: Json, other: Callable[[str, Json], Foreign]) -> Foreign:
    """What `encoded` made of a value. Raises Closed for what it never makes."""
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise Closed
        return value
    try:
        kind, inside = value
        if kind in _ROWS.values():
            return _OF[kind]([decoded(one, other) for one in inside])
        if kind in _MAPS.values():
            return _OF[kind]({decoded(key, other): decoded(one, other) for key, one in inside})
        return _OF[kind](inside) if kind in _OF else other(kind, inside)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise Closed from error
