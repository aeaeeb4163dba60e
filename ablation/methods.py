"""A method of a grid, `estimator,setting=value,...`, as words of a command line."""

from __future__ import annotations

import shlex

import estimators
from nas.bilevel.parts import PARTS
from recipes import InputError
from recipes.registry import parameters

# Options of a run that follow from those of the grid: of the same name, and others.
_OF_THE_GRID = {"--space", "--dataset", "--plugins", "--threads", "--out"}
_SET_BY_THE_GRID = _OF_THE_GRID | {
    "--resume", "--overwrite", "--seed", "--config", "--estimator", "--measure-every", "--tensorboard",
    "--genotype",
}  # fmt: skip


def method_words(method: str) -> list[str]:
    """The words of a command line for `estimator,setting=value,...`.

    A setting is an argument of the estimator (gumbel_rao,samples=20), or an option of train_search.py, where
    a semicolon stands for a comma (st,derive=halving:6;draws=50). Raises InputError, also where a comma
    leaves open which of the two a setting is.
    """
    name, *settings = method.split(",")
    if ":" in name:
        name, _, rest = method[:200].partition(":")
        raise InputError(
            f"method '{name}:{rest}' is malformed, expected settings that follow a comma: '{name},{rest}'"
        )
    family = estimators.family(name)
    own, words, before = list[str](), list[str](), dict[str, str]()
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not (option.isidentifier() and equals and value):
            raise InputError(f"method '{method}' is malformed, expected estimator,setting=value,...")
        if part := before.get(option):
            inside = f"{part}{';' if ':' in part else ':'}{setting}"
            raise InputError(
                f"method '{method}': is {setting} a setting of '{part}'? If so give '{inside}', if not "
                f"'{setting},{part}'"
            )
        called, _, inner = value.partition(":")
        if (known := PARTS.get(option)) and called in known:
            given = {one.partition("=")[0] for one in inner.split(";")}
            before |= dict.fromkeys(parameters(known.get(called), hidden=given), setting)
        if option in parameters(family, hidden=("tau",)):  # whose schedule is an option
            own.append(setting)
        elif value in ("true", "false"):
            words.append(f"--{'no-' * (value == 'false')}{option.replace('_', '-')}")
        else:
            words += [f"--{option.replace('_', '-')}", value.replace(";", ",")]
    if "/" in method or len(method.encode(errors="replace")) > 200:
        raise InputError(
            f"method '{method[:200]}' names a run folder, expected at most 200 bytes without '/'"
        )
    text = f"{name}:{','.join(own)}" if own else name
    return ["--estimator", text, *_require_free(words, f"the method '{method}'")]


def split_words(text: str, option: str) -> list[str]:
    """The words of the value of --search or --final. Raises InputError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--{option} cannot be split into words: {error}") from None
    return _require_free(words, f"--{option}")


def _require_free(words: list[str], where: str) -> list[str]:
    """The words, if none of them is an option that the grid sets. Raises InputError."""
    for word in words:
        if (name := _option(word)) in _SET_BY_THE_GRID:
            instead = f", give {name} to ablate.py" if name in _OF_THE_GRID else ""
            raise InputError(f"{word} in {where} is set by the grid: drop it{instead}")
    return words


def _option(word: str) -> str:
    """The option of a word `--option`, `--no-option` or `--option=value`; empty: it is a value."""
    name = word.partition("=")[0].replace("_", "-")
    return f"--{name[2:].removeprefix('no-')}" if name.startswith("--") else ""


def without(words: list[str], others: list[str]) -> list[str]:
    """The words less the options, with their values, that occur in the others."""
    given, kept, keep = {_option(word) for word in others} - {""}, list[str](), True
    for word in words:
        if name := _option(word):
            keep = name not in given
        kept += [word] if keep else []
    return kept
