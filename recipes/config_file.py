"""Options as JSON: the config.json of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recipes import presets
from recipes.errors import InputError, one_of
from recipes.options import RunOptions
from recipes.plugins import import_plugins, require_plugins
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
        raise InputError(f"cannot read the configuration {path}: {error}; give another `config`") from None
    if not isinstance(data, dict):
        raise InputError(f"configuration {path} must be a JSON object, got {type(data).__name__}: correct it")
    if data.pop("kind", options_class.kind) != options_class.kind:
        raise InputError(
            f"configuration {path} is not that of a {options_class.kind} run: give the folder or file of one"
        )
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
                f"option '{name}' in {path} is {json.dumps(value)[:60]}, expected {_words(hints[name])}: "
                "correct it"
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def starting_options(
    options_class: type[RunOptions],
    given: Mapping[str, Any],
    *,
    objects: Collection[str] = (),
    recipe: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the options `given` change: defaults < preset < the size of the network of `weights` without a
    genotype < configuration file or, where a run is continued, its own, which is the second value.

    Imports the plugins that are given.

    Args:
        given: option values by name, `preset`, `config`, `resume`, `out` and `plugins` among them.
        objects: as for `read_config`.
        recipe: takes the place of the default preset.

    Raises:
        InputError: a file or a preset is none, or a plugin is missing or does not import.
    """
    plugins = given.get("plugins") or ()
    import_plugins(plugins)
    stored = None
    config, preset, out = given.get("config"), given.get("preset"), given.get("out")
    if given.get("resume") and out and os.path.isfile(path := Path(out) / "config.json"):
        found = stored = read_config(options_class, path, objects)
    elif config and preset:
        raise InputError("`config` and `preset` were both given: a configuration is complete, drop one")
    elif config:
        found = read_config(options_class, Path(config), objects) | {"out": None}
    else:
        named = presets.of(options_class)
        found = dict(named[one_of("preset", preset or "quick", named)])
        if recipe is not None and not preset:
            found = dict(recipe)
    weights, genotype = (given.get(name) or found.get(name) for name in ("weights", "genotype"))
    if weights and not genotype:
        from nas.training.weights import options_of  # late, it imports torch

        own = {k: v for k, v in options_of(str(weights)).items() if k != "genotype"}
        found = own | found if config else found | own
    found = {k: v for k, v in found.items() if k not in ("resume", "overwrite")}
    require_plugins(found.pop("plugins", ()), plugins)
    return found, stored


def check_types(options_class: type[Any], values: Mapping[str, Any]) -> None:
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
                f"drop the option to continue it, or give a new `out`{_longer(options, field.name, was, now)}"
            )


def _longer(options: RunOptions, name: str, was: Any, now: Any) -> str:
    """How a run is trained for more epochs, where these are what differs: its learning rate has come to its
    end."""
    if name != "epochs" or not isinstance(was, int) or was >= now:
        return ""
    if "weights" not in {field.name for field in dataclasses.fields(options)}:
        return f": `epochs` are part of its schedule, and a run of {now} starts anew"
    return f" with `weights={options.out}/model.safetensors`, which trains its network for longer"


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
