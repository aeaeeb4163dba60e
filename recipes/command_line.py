"""From the command line to checked options, and from errors to exit codes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from recipes import presets
from recipes.errors import InputError, InterruptionError, one_of
from recipes.options import LARGEST, FinalOptions, RunOptions, SearchOptions
from recipes.text_files import parse_json, read_text

Options = TypeVar("Options", bound=RunOptions)
Dataclass = TypeVar("Dataclass")

_PRESETS = {SearchOptions: presets.SEARCH, FinalOptions: presets.FINAL}
# What may differ between a run and its continuation: it does not change the result.
FREE_ON_RESUME = {
    "out", "resume", "overwrite", "data_root", "download", "max_skipped_steps", "checkpoint_every",
    "checkpoint_steps", "checkpoint_minutes",
}  # fmt: skip
RESUME_ME = 75  # the exit code of a process that was told to stop and has saved its work (EX_TEMPFAIL)


def main(options_class: type[Options], job: Callable[[Options], None], argv: Sequence[str] | None) -> int:
    """Parse `argv`, do `job`, return the exit code: 0, 2 after one line about bad input, 75 where a signal
    has ended the work in good order, or 130 where Ctrl-C came when there was nothing to save."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def do() -> None:
        try:
            options = parse(options_class, argv)
        except InputError:
            if os.environ.get("RANK", "0") != "0":  # all processes of torchrun read the same: one says so
                sys.exit(2)
            raise
        job(options)

    return _exit_code(do, "continue at the last checkpoint with --resume --out FOLDER")


def main_of(
    program: str,
    commands: Mapping[str, tuple[type[Any], Callable[[Any], None]]],
    argv: Sequence[str] | None,
) -> int:
    """Do the command that `argv` begins with; `commands` maps its name to options and job. The exit
    code is that of `main`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {program} COMMAND [options]; {program} COMMAND --help lists the options\n")
        for name, (options_class, _) in commands.items():
            print(f"  {name:10}{options_class.__doc__}")
        return 0 if argv else 2

    def do() -> None:
        options_class, job = commands[one_of("command", argv[0], commands)]
        words = _joined(argv[1:], options_class.quoted)
        job(check_numbers(_parse_all(options_class, words, options_class(), f"{program} {argv[0]}")))

    return _exit_code(do, "finished parts are kept, the same command goes on")


def main_alone(
    program: str, options_class: type[Dataclass], job: Callable[[Dataclass], None], argv: Sequence[str] | None
) -> int:
    """Parse `argv` by a dataclass that is no recipe, do `job`; the exit code is that of `main`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return _exit_code(
        lambda: job(check_numbers(_parse_all(options_class, argv, options_class(), program))),
        "nothing is kept",
    )


def _exit_code(do: Callable[[], None], advice: str) -> int:
    try:
        do()
    except InputError as error:
        print(f"error: {_with_flags(str(error))}", file=sys.stderr)
        return 2
    except InterruptionError as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return RESUME_ME
    except KeyboardInterrupt:
        print(f"interrupted: {advice}", file=sys.stderr)
        return 130
    return 0


def _with_flags(message: str) -> str:
    """`message` with options in place of the arguments that a library error speaks of: --draw-per image for
    `draw_per=image` in backticks."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)


def parse(
    options_class: type[Options], argv: Sequence[str], recipe: Mapping[str, Any] | None = None
) -> Options:
    """Options from defaults < preset < configuration file < command line. Raises InputError.

    Args:
        recipe: takes the place of the default preset.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--config", "--out"):
        first.add_argument(name)
    first.add_argument("--resume", action="store_true")
    try:
        known, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None

    stored: dict[str, Any] | None = None
    if known.resume and known.out and os.path.isfile(config := Path(known.out) / "config.json"):
        stored = read_config(options_class, config)
    if stored is not None:
        defaults = stored
    elif known.config and known.preset:
        raise InputError("--config and --preset were both given: a configuration is complete, drop one")
    elif known.config:
        defaults = read_config(options_class, Path(known.config)) | {"out": None}
    else:
        recipes = _PRESETS[options_class]
        named = recipes[one_of("preset", known.preset or "quick", recipes)]
        defaults = named if known.preset or recipe is None else dict(recipe)
    defaults = {k: v for k, v in defaults.items() if k not in ("resume", "overwrite")}
    options = check(_parse_all(options_class, argv, options_class(**defaults)))
    if stored is not None:
        require_same(options, stored)
    return options


def _parse_all(
    options_class: type[Dataclass], argv: Sequence[str], default: Dataclass, program: str | None = None
) -> Dataclass:
    """tyro's parser, with its framed message folded into one line."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(options_class, prog=program, args=list(argv), default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        words = " ".join(re.sub(r"[─│╭╮╰╯]+|-{3,}", " ", message.getvalue()).split())
        raise InputError(re.split(r" (?:Argument|For full) helptext", words)[0] + "; see --help") from None


def _joined(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """`argv` with `--name`, `value` as one word `--name=value`, so that the values of the options `names`
    may begin with dashes."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in names:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def read_config(options_class: type[RunOptions], path: Path) -> dict[str, Any]:
    """Fields of `options_class` stored in the JSON file `path`. Raises InputError."""
    try:
        data = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"configuration {path} must be a JSON object, got {type(data).__name__}")
    if data.pop("kind", options_class.kind) != options_class.kind:
        raise InputError(f"configuration {path} is not that of a {options_class.kind} run")
    hints = typing.get_type_hints(options_class)
    for name, value in data.items():
        one_of(f"option in {path}", name, [f.name for f in dataclasses.fields(options_class)])
        if not _fits(value, hints[name]):
            raise InputError(f"option '{name}' in {path} is {json.dumps(value)[:60]}, expected {hints[name]}")
    return data


def check(options: Options) -> Options:
    """Return `options` if they are in their ranges and go together; raises InputError."""
    check_numbers(options)
    _require(options, "warmup_epochs", lambda v: (v or 0) < options.epochs, "fewer than --epochs")
    if options.resume and options.overwrite:
        raise InputError("--resume and --overwrite were both given: choose one")
    if options.resume and not options.out:
        raise InputError("--resume needs --out, the folder of the run to continue")
    return options


def check_numbers(options: Dataclass) -> Dataclass:
    """Return `options` if every value by itself is in its range; raises InputError."""
    _require(options, "batch_size", lambda v: v >= 2, "an integer of at least 2")
    _require(options, "image_size", lambda v: 4 <= v <= 4096, "an integer from 4 to 4096")
    for name in (
        "epochs", "checkpoint_every", "evaluate_every", "seeds", "polynomial_steps", "listops_steps",
        "vae_epochs", "repeats",
    ):  # fmt: skip
        _require(options, name, lambda v: v >= 1, "an integer of at least 1")
    for name in (
        "channels",
        "cells",
        "threads",
        "train_limit",
        "draws",
        "jobs",
        "seeds",
        "evaluations",
        "problems",
        "cpus_per_run",
        "time",
    ):
        _require(options, name, lambda v: v is None or v >= 1, "an integer of at least 1")
    for name in ("lr", "arch_lr"):
        _require(options, name, lambda v: 0 < v < float("inf"), "a number above 0")
    for name in (
        "lr_min", "weight_decay", "arch_weight_decay", "clip", "arch_clip", "cutout", "mixup", "cutmix",
        "warmup_epochs", "auxiliary_weight", "measure_every", "measure", "crop_padding", "seed",
        "data_budget_gb", "max_skipped_steps", "checkpoint_steps", "checkpoint_minutes", "retries",
        "gpus_per_run",
    ):  # fmt: skip
        _require(options, name, lambda v: v is None or 0 <= v < float("inf"), "a number of at least 0")
    for name in ("momentum", "drop_path", "label_smoothing", "ema_decay"):
        _require(options, name, lambda v: 0 <= v < 1, "a number from 0 to less than 1")
    for name in ("val_fraction", "test_fraction"):
        _require(options, name, lambda v: 0 < v < 1, "a number between 0 and 1")
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value, largest = getattr(options, field.name), LARGEST.get(field.name, 10**9)
        if type(value) is int and value > largest:
            raise InputError(f"--{field.name.replace('_', '-')} is {value}, expected at most {largest}")
        if isinstance(value, str) and ("\0" in value or value.encode(errors="replace").decode() != value):
            raise InputError(
                f"--{field.name.replace('_', '-')} is not valid UTF-8, or contains a zero byte: rename the "
                "file or folder"
            )
    return options


def config_json(options: RunOptions) -> dict[str, Any]:
    """What config.json holds: every option that a run can be repeated from."""
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("resume", "overwrite")}
    return {"kind": options.kind, **fields}


def _require(options: object, name: str, valid: Callable[[Any], bool], expected: str) -> None:
    value = getattr(options, name, None)
    if hasattr(options, name) and not valid(value):
        raise InputError(f"--{name.replace('_', '-')} is {value}, expected {expected}")


def require_same(options: RunOptions, stored: Mapping[str, Any]) -> None:
    """Raise InputError if a run whose configuration was `stored` cannot go on with `options`."""
    before = type(options)(**stored)
    for field in dataclasses.fields(options):
        was, now = getattr(before, field.name), getattr(options, field.name)
        if field.name not in FREE_ON_RESUME and was != now:
            raise InputError(
                f"the run in {options.out} has another configuration: --{field.name.replace('_', '-')} "
                f"was {was}, now {now}; drop the option to continue it, or give a new --out"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the annotated type."""
    if typing.get_origin(hint) is typing.Literal:
        return any(type(value) is type(known) and value == known for known in typing.get_args(hint))
    if arguments := typing.get_args(hint):
        return any(_fits(value, argument) for argument in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
