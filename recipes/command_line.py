"""From the command line to checked options, and from errors to exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import tyro

from recipes.config_file import require_same, starting_options
from recipes.errors import RESUME_ME, InputError, InterruptionError, one_of, with_flags
from recipes.options import RunOptions, SearchOptions, check, check_numbers
from recipes.plugins import import_plugins
from recipes.registry import Registry

_HELP = {"-h", "--help"}
Options = TypeVar("Options", bound=RunOptions)
Dataclass = TypeVar("Dataclass")


class Command(NamedTuple):
    """What is done with a command line: the class of its options, and the function that gets them,
    `MODULE:NAME` each; both are imported late, so that --help and bad options answer at once."""

    options: str
    run: str

    @property
    def about(self) -> str:
        """What it does, in one line."""
        there = self._options_class()
        return "(in a checkout of the repository only)" if there is None else f"{there.__doc__}"

    def main(self, argv: Sequence[str] | None, program: str | None = None) -> int:
        """Do it; the exit code is that of `main`."""
        options_class = self._options_class()
        if options_class is None:
            name = f"{program}".split()[-1]
            raise InputError(f"the package has no command '{name}': use a checkout of the repository")
        return main(options_class, lambda options: _imported(self.run)(options), argv, program)

    def _options_class(self) -> type[Any] | None:
        """None where the package with them is not installed."""
        try:
            options_class: type[Any] = _imported(self.options)
        except ModuleNotFoundError as error:
            if error.name is None or not self.options.startswith(error.name):
                raise
            return None
        return options_class


class Commands(NamedTuple):
    """Commands by name, which a command line begins with."""

    about: str
    table: Mapping[str, Command | Commands]

    def main(self, argv: Sequence[str] | None, program: str) -> int:
        """Do the command that `argv` begins with, or list them; the exit code is that of `main`."""
        argv = list(sys.argv[1:] if argv is None else argv)
        if not argv or argv[0] in _HELP:
            with _help_may_be_cut():
                print(f"usage: {program} COMMAND [options]; {program} COMMAND --help lists the options\n")
                for name, command in self.table.items():
                    print(f"  {name:10}{command.about}")
            return 0 if argv else 2

        def do() -> int:
            return self.table[one_of("command", argv[0], self.table)].main(argv[1:], f"{program} {argv[0]}")

        return exit_code(do, "nothing is kept")


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def main(
    options_class: type[Dataclass],
    job: Callable[[Dataclass], None],
    argv: Sequence[str] | None,
    program: str | None = None,
) -> int:
    """Parse `argv`, do `job`, return the exit code: 0, 2 after one line about bad input, 75 where a signal
    has ended the work in good order, 130 where Ctrl-C came when there was nothing to save, or 141 where
    nobody reads the output any more.

    Args:
        options_class: recipes, or a dataclass that has a default for everything.
        program: its name in --help (default: that of the process).
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def do() -> None:
        try:
            options: Any = (
                parse(options_class, argv, program=program)
                if issubclass(options_class, RunOptions)
                else _parse_alone(options_class, argv, program)
            )
        except InputError:
            if os.environ.get("RANK", "0") != "0":  # all processes of torchrun read the same: one says so
                sys.exit(2)
            raise
        job(options)

    return exit_code(do, getattr(options_class, "interrupted", "nothing is kept"))


def _parse_alone(options_class: type[Dataclass], argv: Sequence[str], program: str | None) -> Dataclass:
    """Options of a dataclass that is no recipe, its plugins imported. Raises InputError."""
    quoted = getattr(options_class, "quoted", ())
    try:
        options = check_numbers(_parse_all(options_class, _joined(argv, quoted), options_class(), program))
    except InputError as error:
        raise InputError(f"{error}{_of_the_searches(str(error), quoted)}") from None
    import_plugins(getattr(options, "plugins", ()))
    return options


def _of_the_searches(error: str, quoted: Sequence[str]) -> str:
    """Where an unknown option belongs, if it is one of the searches that a command does."""
    found = re.match(r"unknown option --([a-z-]+)", error)
    if found and "--search" in quoted and found[1].replace("-", "_") in SearchOptions.__dataclass_fields__:
        return f"; options of the searches go into --search '--{found[1]} ...'"
    return ""


def exit_code(do: Callable[[], int | None], advice: str) -> int:
    """Do something; its exit code, or that of the error that it ends in, as `main` gives them."""
    try:
        code = do() or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {with_flags(str(error))}", file=sys.stderr)
        return 2
    except InterruptionError as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return RESUME_ME
    except KeyboardInterrupt:
        print(f"interrupted: {advice}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _print_no_more()
        print(f"interrupted: nobody reads the output; {advice}", file=sys.stderr)
        return 141


def _print_no_more() -> None:
    """After `... | head`, whose pipe is closed, the interpreter's last flush has to go somewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _help_may_be_cut() -> Iterator[None]:
    """`--help | head` has shown what was wanted."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _print_no_more()
        sys.exit(0)


def parse(
    options_class: type[Options],
    argv: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
    program: str | None = None,
) -> Options:
    """Options from what `starting_options` finds < command line. Raises InputError.

    Args:
        recipe: takes the place of the default preset.
        program: its name in --help (default: that of the process).
    """
    _require_once(options_class, argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "config", "out", "weights", "genotype"):
        if name in options_class.__dataclass_fields__:
            first.add_argument(f"--{name}")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--plugins", nargs="*", default=[])
    try:
        known, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None

    defaults, stored = starting_options(options_class, vars(known), recipe=recipe)
    options = check(_parse_all(options_class, argv, options_class(**defaults), program))
    if stored is not None:
        require_same(options, stored)
    return options


def _parse_all(
    options_class: type[Dataclass], argv: Sequence[str], default: Dataclass, program: str | None = None
) -> Dataclass:
    """tyro's parser, with its framed message folded into one line."""
    _require_once(options_class, argv)
    message = io.StringIO()
    try:
        shown = contextlib.nullcontext() if _HELP.isdisjoint(argv) else _help_may_be_cut()
        with shown, contextlib.redirect_stderr(message):
            return tyro.cli(
                options_class,
                prog=program,
                args=list(argv),
                default=default,
                description=_description(options_class),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_line(message.getvalue()) + "; see --help") from None


_KINDS = {"INT": "an integer", "FLOAT": "a number"}
_REFUSALS = {  # of a value, in the parser's words, and what it takes
    r"invalid literal for int\(\) with base 10: (?P<given>.*)": "INT",
    r"could not convert string to float: (?P<given>.*)": "FLOAT",
    r"no type matching (?P<kinds>.*) could be instantiated from \[(?P<given>.*?)\]\. .*": None,
}


def _one_line(message: str) -> str:
    """A framed message of the parser in one line, without its jargon."""
    words = " ".join(re.sub(r"[─│╭╮╰╯]+|-{3,}", " ", message).split())
    words = re.split(r" (?:Argument|For full) helptext", words)[0]
    words = re.sub(
        r"^(Unrecognized options|Invalid choice|Missing argument|Value error|Parsing error) ", "", words
    )
    if found := re.fullmatch(r"Unrecognized options: (\S+?)(?:,.*?)?(?: Perhaps you meant: (.*))?", words):
        near = re.findall(r"(--[a-z][a-z-]*)(?=,| \{| [A-Z\[])", found[2] or "")
        return f"unknown option {found[1]}" + (f", perhaps {' or '.join(near)}" if near else "")
    if found := re.fullmatch(r"Error parsing (--\S+): (.*)", words):
        for pattern, kind in _REFUSALS.items():
            if refusal := re.fullmatch(pattern, found[2]):
                kinds = [kind] if kind else re.sub("[{}]", "", refusal["kinds"]).split("|")
                expected = " or ".join(_KINDS.get(one, one) for one in kinds)
                return f"{found[1]} is {refusal['given']}, expected {expected}"
    return words


def _require_once(options_class: type[Any], argv: Sequence[str]) -> None:
    """Raise InputError where an option that takes several values is given twice: the last would win."""
    names = [option.partition("=")[0].replace("_", "-") for option in argv if option.startswith("--")]
    for name, hint in typing.get_type_hints(options_class).items():
        flag = f"--{name.replace('_', '-')}"
        several = any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))
        if several and names.count(flag) > 1:
            raise InputError(
                f"{flag} is given {names.count(flag)} times: give all values at once, {flag} A B"
            )


def _description(options_class: type[Any]) -> str:
    """The first lines of --help, with what plugins have added to what the options can name."""
    added = [f"{kind} {', '.join(r.added())}" for kind, r in Registry.kinds.items() if r.added()]
    return f"{options_class.__doc__}" + (f" Added by plugins: {'; '.join(added)}." if added else "")


def words(values: Mapping[str, Any], nothing: Collection[str] = ()) -> list[str]:
    """Options as they are written on a command line; None is left out, but for the options `nothing`."""
    found = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple | list):
            found += [flag, *(shlex.quote(str(v)) for v in value)] if value else []
        elif value is not None or name in nothing:
            found += [flag, shlex.quote(str(value))]
    return found


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
