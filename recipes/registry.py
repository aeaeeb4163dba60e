"""Names for things that are chosen by name, built in or registered from outside. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import enum
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any, Generic, TypeVar

from recipes.errors import InputError, first_line, one_of

T = TypeVar("T")
Made = TypeVar("Made")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
_OURS = ("estimators", "nas", "recipes", "search_spaces")  # whose functions hand on what others register


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what the things are, in the words of an error or of --help: `search space`.
        builtin: those that come along.
        expects: where the things are classes, the class that they are derived from. They take on the name
            under which they are registered.
        elsewhere: what a name that others use is here, in a few words.
    """

    kinds: typing.ClassVar[dict[str, Registry[Any]]] = {}

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, T],
        expects: type | None = None,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        self.elsewhere = elsewhere or {}
        self.kind, self._things, self._builtin = kind, dict(builtin), frozenset(builtin)
        self._expects = expects
        self._origins: dict[str, tuple[str, str]] = {}
        self.kinds[kind] = self

    def register(self, name: str, thing: T) -> T:
        """Add `thing` under `name` and return it.

        What the same module has registered under that name and calls the same is replaced: a cell of a
        notebook can be executed again.

        Raises:
            ValueError: the name is taken or malformed, or `thing` is not of this kind.
        """
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError(
                f"{name!r} is no name for a {self.kind}: expected lower-case letters, digits and _"
            )
        if self._expects is not None:
            self._require_class(name, thing)
        origin = _origin(thing)
        if name in self._things and self._origins.get(name) != origin:
            raise ValueError(f"the {self.kind} {name!r} exists already: choose another name")
        self._things[name], self._origins[name] = thing, origin
        if self._expects is not None:
            thing.name = name  # type: ignore[attr-defined]
        return thing

    def _require_class(self, name: str, thing: Any) -> None:
        base = self._expects
        assert base is not None
        wanted = f"expected a class derived from {base.__name__}"
        if not isinstance(thing, type):
            what = "an object: register its class" if isinstance(thing, base) else f"{thing!r:.60}"
            raise ValueError(f"the {self.kind} {name!r} is {what}, {wanted}")
        if not issubclass(thing, base):
            raise ValueError(f"the {self.kind} {name!r} is the class {thing.__name__}, {wanted}")
        if (own := vars(thing).get("name", name)) != name:
            raise ValueError(f"{thing.__name__} is named {own!r}, expected {name!r}")

    def names(self) -> list[str]:
        """All names, those that come along first."""
        return list(self._things)

    def added(self) -> list[str]:
        """Names that were registered from outside, not while a module of ours was imported."""
        own = {name for name, (module, _) in self._origins.items() if module.startswith("importlib")}
        return [name for name in self._things if name not in self._builtin | own]

    def get(self, name: str) -> T:
        """The thing of that name. Raises InputError with the nearest names, or what it is called here."""
        if name not in self._things and (here := self.elsewhere.get(name.casefold().replace("-", "_"))):
            raise InputError(f"unknown {self.kind} '{name}': {here}")
        return self._things[one_of(self.kind, name, self._things)]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def build(self: Registry[type[Made]] | Registry[Callable[..., Made]], text: str, **fixed: Any) -> Made:
        """What `NAME` or `NAME:key=value,...` means, made by the class or function of that name.

        Args:
            text: values are read as the annotations of the parameters say (int, float, str, bool, Literal, a
                class with `parse`, or any of these or None), without one as the type of the default says; a
                lone value, as in `sample:16`, is the first parameter.
            fixed: keyword arguments that the text cannot give.

        Raises:
            InputError: no such name or parameter, a value that cannot be read or is refused, or a class that
                makes no object.
        """
        name, settings = split(text)
        make: Callable[..., Made] = self.get(name)
        arguments = {**fixed, **read(f"{self.kind} '{text}'", make, settings, fixed)}
        try:
            return make(**arguments)
        except ValueError as error:
            raise InputError(f"{self.kind} '{text}': {error}") from None
        except TypeError as error:  # an abstract class, or a mistake in its constructor
            raise InputError(f"{self.kind} '{text}' cannot be made: {first_line(error)}") from error


@contextlib.contextmanager
def undone_on_failure() -> Iterator[None]:
    """What a module registers whose import fails in the block is undone, in all registries."""
    before = {kind: (dict(r._things), dict(r._origins)) for kind, r in Registry.kinds.items()}
    try:
        yield
    except BaseException:
        for kind, registry in Registry.kinds.items():
            things, origins = before.get(kind, ({}, {}))
            for name, (module, _) in list(registry._origins.items()):
                if module in sys.modules or registry._things.get(name) is things.get(name):
                    continue
                del registry._things[name], registry._origins[name]
                if name in things:
                    registry._things[name], registry._origins[name] = things[name], origins[name]
        raise


def _origin(thing: Any) -> tuple[str, str]:
    """The module that registers a thing, and the qualified name of the thing or of its class."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _OURS:
        frame = frame.f_back
    while isinstance(thing, tuple | partial):  # a tuple begins with what makes the thing
        thing = thing.func if isinstance(thing, partial) else thing[0]
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(frame.f_globals.get("__name__")), named.__qualname__


def split(text: str) -> tuple[str, list[str]]:
    """Name and settings of `NAME:setting,...`."""
    name, colon, rest = text.partition(":")
    return name, rest.split(",") if colon else []


def parameters(make: Callable[..., Any], hidden: Iterable[str] = ()) -> dict[str, Any]:
    """Parameters of a class or function that can be given by name, with their annotations.

    An annotation that is missing or cannot be resolved is the type of the default, or str.
    """
    function: Any = make
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    if function is object.__init__:
        return {}
    known = getattr(inspect.unwrap(function), "__globals__", {})
    return {
        name: _hint(parameter, known)
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in hidden
    }


def _hint(parameter: inspect.Parameter, known: dict[str, Any]) -> Any:
    """The annotation of a parameter, or what its default says in its place."""
    if parameter.annotation not in (parameter.empty, Any, "Any"):
        holder = types.SimpleNamespace(__annotations__={"hint": parameter.annotation})
        with contextlib.suppress(Exception):  # a name that exists for type checkers only, or in a function
            return typing.get_type_hints(holder, known)["hint"]
    kind = type(parameter.default)
    return kind if kind in (bool, int, float) or hasattr(kind, "parse") else str


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
            raise InputError(f"{what}: {key} is given twice, keep one")
        if not _readable(known[key]):
            raise InputError(f"{what}: {key} cannot be given as text: drop it, or give an object from Python")
        try:
            found[key] = _value(value, known[key])
        except ValueError:
            raise InputError(f"{what}: {key} is '{value[:60]}', expected {_expected(known[key])}") from None
    empty, signature = inspect.Parameter.empty, inspect.signature(make).parameters
    for name in known:
        if name not in found and signature[name].default is empty:
            if not _readable(known[name]):
                raise InputError(f"{what}: {name} cannot be given as text: give an object from Python")
            raise InputError(f"{what}: {name} is missing, expected {_expected(known[name])} after a colon")
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, in the order in which a text is tried: None first, str last."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return tuple(sorted(members, key=lambda kind: (kind not in (None, type(None)), kind is str)))


def _readable(hint: Any) -> bool:
    """Whether a text can give a value of the annotation."""
    for kind in _kinds(hint):
        plain = isinstance(kind, type) and issubclass(kind, bool | int | float | str | PurePath | enum.Enum)
        named = typing.get_origin(kind) is typing.Literal or kind in (None, type(None))
        if not (plain or named or callable(getattr(kind, "parse", None))):
            return False
    return True


def _value(text: str, hint: Any) -> Any:
    """`text` as a value of the annotation `hint`. Raises ValueError."""
    for kind in _kinds(hint):
        with contextlib.suppress(ValueError):
            return _value_of(text, kind)
    raise ValueError


def _value_of(text: str, kind: Any) -> Any:
    """`text` as a value of one type. Raises ValueError."""
    if typing.get_origin(kind) is typing.Literal:
        return _chosen(text, {_written(choice): choice for choice in reversed(typing.get_args(kind))})
    if kind in (None, type(None)):
        return _chosen(text.lower(), {"none": None})
    if kind is bool:
        return _chosen(text.lower(), {"true": True, "false": False})
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError
        return int(text)
    if kind is float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value
    return kind.parse(text) if hasattr(kind, "parse") else kind(text)


def _chosen(text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError
    return choices[text]


def _written(choice: Any) -> str:
    """A choice of a Literal as a text gives it: true, none, 3, a word."""
    return str(choice).lower() if choice is None or isinstance(choice, bool) else str(choice)


def _expected(hint: Any) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", None: "none", type(None): "none"}
    found = []
    for kind in reversed(_kinds(hint)):  # None is named last
        if typing.get_origin(kind) is typing.Literal:
            found += [_written(choice) for choice in typing.get_args(kind)]
        else:
            found.append(words.get(kind, "START:END or a number" if hasattr(kind, "parse") else "a value"))
    return " or ".join(found)


def name_of(thing: Any) -> str:
    """The name of an object that a registry may have built; that of its class where it has none."""
    return str(getattr(thing, "name", None) or type(thing).__name__)
