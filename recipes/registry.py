"""Names for things that are chosen by name, built in or registered from outside. Imports nothing heavy."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from recipes.errors import InputError, one_of

T = TypeVar("T")
Made = TypeVar("Made")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what the things are, in the words of an error or of --help: `search space`.
        builtin: those that come along.
    """

    kinds: typing.ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(self, kind: str, builtin: Mapping[str, T]) -> None:
        self.kind, self._things, self._builtin = kind, dict(builtin), frozenset(builtin)
        self.kinds[kind] = self

    def register(self, name: str, thing: T) -> T:
        """Add `thing` under `name` and return it. Raises ValueError if the name is taken or malformed."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name for a {self.kind}: expected lower-case letters, digits and _"
            )
        if name in self._things:
            raise ValueError(f"the {self.kind} {name!r} exists already: choose another name")
        self._things[name] = thing
        return thing

    def names(self) -> list[str]:
        """All names, those that come along first."""
        return list(self._things)

    def added(self) -> list[str]:
        """Names that were registered from outside."""
        return [name for name in self._things if name not in self._builtin]

    def get(self, name: str) -> T:
        """The thing of that name. Raises InputError with the nearest names."""
        return self._things[one_of(self.kind, name, self._things)]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def build(self: Registry[type[Made]] | Registry[Callable[..., Made]], text: str, **fixed: Any) -> Made:
        """What `NAME` or `NAME:key=value,...` means, made by the class or function of that name.

        Args:
            text: values are read as the annotations of the parameters say (int, float, str, bool, or a class
                with `parse`); a lone value, as in `sample:16`, is the first parameter.
            fixed: keyword arguments that the text cannot give.

        Raises:
            InputError: no such name or parameter, or a value that cannot be read or is refused.
        """
        name, settings = split(text)
        make: Callable[..., Made] = self.get(name)
        arguments = {**fixed, **read(f"{self.kind} '{text}'", make, settings, fixed)}
        try:
            return make(**arguments)
        except ValueError as error:
            raise InputError(f"{self.kind} '{text}': {error}") from None


def split(text: str) -> tuple[str, list[str]]:
    """Name and settings of `NAME:setting,...`."""
    name, colon, rest = text.partition(":")
    return name, rest.split(",") if colon else []


def parameters(make: Callable[..., Any], hidden: Iterable[str] = ()) -> dict[str, Any]:
    """Parameters of a class or function that a text can give, with their annotations."""
    function = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    if function is object.__init__:
        return {}
    names = list(inspect.signature(make).parameters)
    hints = typing.get_type_hints(function)
    return {name: hints.get(name, str) for name in names if name not in hidden}


def read(
    what: str, make: Callable[..., Any], settings: Iterable[str], hidden: Iterable[str]
) -> dict[str, Any]:
    """Keyword arguments for `make` from settings `key=value`. Raises InputError, which calls it `what`."""
    known = parameters(make, hidden)
    found: dict[str, Any] = {}
    for position, setting in enumerate(settings):
        key, equals, value = setting.partition("=")
        if not equals and position == 0 and known:
            key, value = next(iter(known)), setting
        if key not in known:
            expected = f"one of: {', '.join(known)}" if known else "no settings"
            raise InputError(f"{what}: unknown setting '{key[:60]}', expected {expected}")
        if key in found:
            raise InputError(f"{what}: {key} is given twice")
        try:
            found[key] = _value(value, known[key])
        except ValueError:
            raise InputError(f"{what}: {key} is '{value[:60]}', expected {_expected(known[key])}") from None
    empty, signature = inspect.Parameter.empty, inspect.signature(make).parameters
    for name in known:
        if name not in found and signature[name].default is empty:
            raise InputError(f"{what}: {name} is missing, expected {_expected(known[name])} after a colon")
    return found


def _value(text: str, hint: Any) -> Any:
    """`text` as a value of the annotation `hint`. Raises ValueError."""
    choices = [choice for choice in typing.get_args(hint) if choice is not type(None)] or [hint]
    if typing.get_origin(hint) is typing.Literal:
        if text not in choices:
            raise ValueError
        return text
    (kind,) = choices[:1]
    if kind is bool:
        return (
            {"true": True, "false": False}.get(text.lower()) if text.lower() in ("true", "false") else _fail()
        )
    if kind is int:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else _fail()
    if hasattr(kind, "parse"):
        return kind.parse(text)
    return kind(text)


def _fail() -> typing.NoReturn:
    raise ValueError


def _expected(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(typing.get_args(hint))
    words = {int: "an integer", float: "a number", bool: "true or false"}
    return words.get(hint, "START:END or a number" if hasattr(hint, "parse") else "a value")
