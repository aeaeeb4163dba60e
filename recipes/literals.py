"""Reading the values that Python programs print. Nothing is executed, and what cannot be a value is refused.

    Genotype(normal=[('sep_conv_3x3', np.int64(0)), ...], normal_concat=range(2, 6), ...)

Values are texts, numbers, lists, tuples, dictionaries and calls with such arguments. Numbers and arrays as
NumPy and PyTorch print them are the numbers, `range(a, b)` and `list(...)` are their members; JSON reads the
same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

LONGEST = 20_000  # characters of a value; those that are read here have some hundred
DEEPEST = 20  # levels of a value; those that are read here have six
_LONGEST_RANGE = 100
_SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
_TOKEN = re.compile(
    r"""[bru]?(?P<quote>\\?['"])(?P<text>[^'"\\\n]*)(?P=quote)
    |(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.])
    |(?P<name>[A-Za-z_](?:[\w.]*\w)?)
    |(?P<object><[^<>\n]{0,200}>)
    |(?P<mark>[()\[\]{},:=])""",
    re.VERBOSE,
)
_KEY = re.compile(r"([A-Za-z_]\w{0,60})\s{0,20}=(?!=)")
_CONSTANTS: dict[str, bool | float | None] = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
_CONSTANTS |= {"nan": float("nan"), "inf": float("inf"), "NaN": float("nan")}
_CONTAINERS = ("list", "tuple", "array", "asarray", "tensor", "OrderedSet")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Item(NamedTuple):
    """A value and where it begins.

    Attributes:
        value: str, int, float, bool, None, a tuple of items (for lists and tuples), a dict from texts to
            items, or a Call.
        at: its offset in the text.
    """

    value: Any
    at: int


@dataclass(frozen=True)
class Call:
    """`name(arguments, keyword=...)`, which is not called."""

    name: str
    arguments: tuple[Item, ...]
    keywords: dict[str, Item]


class LiteralError(ValueError):
    """No value.

    Attributes:
        at: where it is none.
        cut_off: whether the text ends before the value does.
    """

    def __init__(self, message: str, at: int, cut_off: bool = False) -> None:
        super().__init__(message)
        self.at, self.cut_off = at, cut_off


def read(text: str, start: int = 0) -> tuple[Item, int]:
    """The value that begins at `start`, and the offset behind it. Raises LiteralError."""
    reader = _Reader(text, start)
    return reader.item(0), reader.at


def numbers(item: Item) -> tuple[int, ...] | None:
    """The members of a list of integers; None if it is none."""
    if not isinstance(item.value, tuple):
        return None
    values = [member.value for member in item.value]
    return tuple(values) if all(type(value) is int for value in values) else None


class _Reader:
    def __init__(self, text: str, start: int) -> None:
        self.text, self.at = text, start
        self.end = start + LONGEST

    def item(self, depth: int) -> Item:
        token = self._next()
        at = token.start()
        if token["text"] is not None:
            return Item(token["text"], at)
        if token["number"] is not None:
            return Item(_number(token["number"], at), at)
        if token["object"] is not None:  # <UnbindBackward0>
            return Item(None, at)
        if depth > DEEPEST:
            raise LiteralError(f"nested deeper than {DEEPEST} levels", at)
        if token["name"] is not None:
            return self._named(token["name"], at, depth)
        if token["mark"] not in _CLOSING:
            raise LiteralError(f"'{token['mark']}' in place of a value", at)
        members, named, comma = self._members(token["mark"], depth)
        if token["mark"] == "{":
            return Item(named, at)
        if named:
            raise LiteralError("a name in a list", at)
        if token["mark"] == "(" and len(members) == 1 and not comma:
            return members[0]
        return Item(tuple(members), at)

    def _named(self, name: str, at: int, depth: int) -> Item:
        """What begins with a name: a constant or a call."""
        if name in _CONSTANTS and not self._peek("("):
            return Item(_CONSTANTS[name], at)
        if not self._peek("("):
            cut_off = self._skipped() >= len(self.text)
            raise LiteralError(f"'{name[:40]}' is a name, expected a value", at, cut_off)
        self._next()
        arguments, keywords, _ = self._members("(", depth)
        short = name.rpartition(".")[2]
        if short == "dict" and not arguments:
            return Item(keywords, at)
        if short == "range":
            return Item(_range(arguments, keywords, at), at)
        if len(arguments) == 1 and (short in _CONTAINERS or name != short or _is_type(short)):
            return Item(arguments[0].value, at)
        return Item(Call(name, tuple(arguments), keywords), at)

    def _members(self, opening: str, depth: int) -> tuple[list[Item], dict[str, Item], bool]:
        """What is between brackets, of which the first is read: members, those with a name, and whether a
        comma follows the last one."""
        members: list[Item] = []
        named: dict[str, Item] = {}
        comma = False
        separator = ":" if opening == "{" else "="
        while not self._peek(_CLOSING[opening]):
            if (members or named) and not comma and self._skipped() < len(self.text):
                raise LiteralError("a comma is missing", self._skipped())
            key = self._key(opening)
            value = self.item(depth + 1)
            if key is None and opening == "{":
                if not isinstance(value.value, str) or not self._peek(separator):
                    raise LiteralError("expected a text as a key of a dictionary", value.at)
                self._next()
                key, value = value.value, self.item(depth + 1)
            if key is None:
                members.append(value)
            elif key in named:
                raise LiteralError(f"'{key[:40]}' is given twice", value.at)
            else:
                named[key] = value
            if comma := self._peek(","):
                self._next()
        self._next()
        return members, named, comma

    def _key(self, opening: str) -> str | None:
        """The name of `name=`, read with its sign; None if there is none."""
        if opening != "(":
            return None
        found = _KEY.match(self.text, self._skipped())
        if found is None:
            return None
        self.at = found.end()
        return found[1]

    def _skipped(self) -> int:
        found = _SPACE.match(self.text, self.at, min(self.end, len(self.text)))
        return self.at if found is None else found.end()

    def _peek(self, mark: str) -> bool:
        return self.text.startswith(mark, self._skipped())

    def _next(self) -> re.Match[str]:
        start = self._skipped()
        if start >= len(self.text):
            raise LiteralError("the text ends too early", start, cut_off=True)
        found = _TOKEN.match(self.text, start, min(self.end, len(self.text)))
        if found is None:
            if start + 1 >= self.end:
                raise LiteralError(f"longer than {LONGEST:,} characters", start)
            cut_off = self.text[start] in "'\"" and "\n" not in self.text[start:].rstrip()
            raise LiteralError(f"{self.text[start]!r} is not part of a value", start, cut_off)
        self.at = found.end()
        return found


def _number(text: str, at: int) -> int | float:
    if len(text) > 40:
        raise LiteralError("a number of more than 40 digits", at)
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _is_type(name: str) -> bool:
    """Whether a call with one argument is how NumPy prints a number: int64(2), float32(0.1), str_('x')."""
    return re.fullmatch(r"u?int\d*|float\d*|bool_?|str_?|intp", name) is not None


def _range(arguments: list[Item], keywords: dict[str, Item], at: int) -> tuple[Item, ...]:
    bounds = [argument.value for argument in arguments]
    if keywords or len(bounds) not in (1, 2) or not all(type(b) is int for b in bounds):
        raise LiteralError("expected range(first, end)", at)
    if any(not 0 <= b <= _LONGEST_RANGE for b in bounds):
        raise LiteralError(f"a bound of a range that is not from 0 to {_LONGEST_RANGE}", at)
    return tuple(Item(i, at) for i in range(*bounds))
