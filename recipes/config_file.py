"""Options as JSON: the config.json of a run."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recipes.errors import InputError, one_of
from recipes.options import RunOptions
from recipes.text_files import parse_json, read_text


def read_config(options_class: type[RunOptions], path: Path, objects: Collection[str] = ()) -> dict[str, Any]:
    """Fields of `options_class` stored in the JSON file `path`.

    Args:
        objects: options that the caller gives as objects; others that the run was given so are missing.

    Raises:
        InputError: the file is none, of another kind of run, or lacks what a name cannot say.
    """
    try:
        data = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"configuration {path} must be a JSON object, got {type(data).__name__}")
    if data.pop("kind", options_class.kind) != options_class.kind:
        raise InputError(f"configuration {path} is not that of a {options_class.kind} run")
    given = data.pop("objects", [])
    if not _fits(given, list[str]) or (missing := sorted(set(given) - set(objects))):
        what = f"`{'`, `'.join(missing)}`" if _fits(given, list[str]) else "something"
        raise InputError(
            f"the run of {path} was given {what} as a Python object: continue it from Python with the same "
            "objects, no name leads to them"
        )
    hints = typing.get_type_hints(options_class)
    for name, value in data.items():
        one_of(f"option in {path}", name, [f.name for f in dataclasses.fields(options_class)])
        if not _fits(value, hints[name]):
            raise InputError(
                f"option '{name}' in {path} is {json.dumps(value)[:60]}, expected {_words(hints[name])}"
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def check_types(options_class: type[RunOptions], values: Mapping[str, Any]) -> None:
    """Raise InputError if a value by the name of an option is not of its type."""
    hints = typing.get_type_hints(options_class)
    for name, value in values.items():
        if not _fits(list(value) if isinstance(value, tuple) else value, hints[name]):
            raise InputError(f"`{name}` is {value!r}, expected {_words(hints[name])}")


def _words(hint: Any) -> str:
    """An annotation for a reader, e.g. `int or None`, `'auto', 'float32' or 'bfloat16'`."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "a list of texts"
    if arguments := typing.get_args(hint):
        return " or ".join(_words(argument) for argument in arguments)
    return {str: "a text", int: "an integer", float: "a number", bool: "True or False"}.get(hint, "None")


def config_json(options: RunOptions, objects: Collection[str] = ()) -> dict[str, Any]:
    """What config.json holds: every option that a run can be repeated from, and which were objects."""
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("resume", "overwrite")}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return {"kind": options.kind, **fields, **({"objects": sorted(objects)} if objects else {})}


def free(options_class: type[RunOptions]) -> set[str]:
    """Options that a continued run may have another value of: they change no result."""
    return {field.name for field in dataclasses.fields(options_class) if field.metadata.get("free")}


def require_same(options: RunOptions, stored: Mapping[str, Any]) -> None:
    """Raise InputError if a run whose configuration was `stored` cannot go on with `options`."""
    before = type(options)(**stored)
    for field in dataclasses.fields(options):
        was, now = getattr(before, field.name), getattr(options, field.name)
        if field.name not in free(type(options)) and was != now:
            raise InputError(
                f"the run in {options.out} has another configuration: `{field.name}` was {was}, now {now}; "
                "drop the option to continue it, or give a new `out`"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the annotated type."""
    if typing.get_origin(hint) is typing.Literal:
        return any(type(value) is type(known) and value == known for known in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return isinstance(value, list) and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    if arguments := typing.get_args(hint):
        return any(_fits(value, argument) for argument in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
