"""Finding the architecture that a user names: in texts and files of this and other tools, in run folders."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

import search_spaces
from nas.data import DataSet
from recipes import InputError, first_line, one_of
from recipes.text_files import parse_json, read_text
from search_spaces import Genotype, GenotypeError, SearchSpace
from search_spaces.notations import benchmark, scan
from search_spaces.written import Written
from search_spaces.zoo import PUBLISHED

_PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".tar", ".ckpt", ".bin", ".npy", ".npz")
_MOST_PROBLEMS = 50  # that are counted when the space is sought that a text resembles


class NoCellError(InputError):
    """A text in which nothing looks like a cell."""


class Reading(NamedTuple):
    """An architecture, and what its reader should know."""

    genotype: Genotype
    notes: tuple[str, ...] = ()


def read_genotype(text: str, space_name: str | None = None) -> Genotype:
    """The genotype of `read_cell`."""
    return read_cell(text, space_name).genotype


def read_cell(text: str, space_name: str | None = None) -> Reading:
    """The architecture that `text` is. Nothing is executed.

    Args:
        text: path of a run folder or of a file in it, or of any text file; a key of
            `search_spaces.zoo.PUBLISHED`; or what a tool prints (`search_spaces.notations.scan`), the last
            architecture in it.
        space_name: the search space it has to belong to; None: found from the text.

    Raises:
        InputError: no such file, cell or notation, or another space than `space_name`.
    """
    if space_name is not None:
        one_of("search space", space_name, search_spaces.names())
    if (name := text.strip().lower().replace("-", "_")) in PUBLISHED:
        space, notation, _ = PUBLISHED[name]
        if space_name not in (None, space):
            raise InputError(
                f"the published cell '{name}' belongs to the space '{space}', but `space` is '{space_name}'"
            )
        there = (
            f"'{text}' is the published cell; what is here by that name is {os.path.join(os.curdir, text)}"
        )
        return Reading(search_spaces.get(space).parse(notation), (there,) if os.path.exists(text) else ())
    if os.path.isdir(text):
        return _read_folder(Path(text), space_name)
    if os.path.isfile(text):
        return _read_file(Path(text), space_name)
    recognised = any(search_spaces.get(name).recognises(text) for name in search_spaces.names())
    if not recognised and not any(mark in text for mark in "|([{") and not benchmark.INDEX.search(text):
        if text.endswith(".json"):
            raise InputError(f"the genotype file '{text}' does not exist: check the path")
        one_of("published cell or genotype file", text, PUBLISHED)
    try:
        return _of_text(text, space_name)
    except GenotypeError as error:
        raise InputError(f"`genotype`: {error}") from None


def _parse(text: str, space_name: str | None) -> Reading:
    """Read a notation: of `space_name`, by default of the first space that holds what it says."""
    own = [search_spaces.get(name) for name in ([space_name] if space_name else search_spaces.names())]
    problem: GenotypeError | None = None
    for space in own:
        if space.recognises(text):
            try:
                return Reading(space.parse(text))
            except GenotypeError as error:
                problem = problem or error
    try:
        found = scan.find(text)
        if found is not None:
            return Reading(_fit(found.written, space_name), found.notes)
        if problem is None and (resembled := _resembled(text, space_name)) is not None:
            resembled.parse(text)
    except scan.BrokenStringError as error:
        resembled = _resembled(error.text, space_name)
        try:
            (resembled or search_spaces.get("nasbench201")).parse(error.text)
        except GenotypeError as precise:
            problem = GenotypeError(str(precise), error.at)
    except GenotypeError as error:
        problem = error
    known = ", ".join([space_name] if space_name else search_spaces.names())
    if problem is None:
        raise NoCellError(f"malformed genotype {text[:100]!r}, expected a notation of one of: {known}")
    raise InputError(f"{_place(text, problem.at)}{problem}")


def _fit(written: Written, space_name: str | None) -> Genotype:
    """What is written, in `space_name` or the first space that holds it. Raises GenotypeError of the space
    that it resembles most: the one with the fewest objections."""
    names = tuple(cell.name for cell in written)
    spaces = [space for space in map(search_spaces.get, search_spaces.names()) if space.cell_names == names]
    objections: dict[str, GenotypeError] = {}
    holds, fewest, nearest = None, _MOST_PROBLEMS + 1, space_name
    for space in spaces:
        problems = list(islice(space.problems(written), _MOST_PROBLEMS))
        if not problems and space_name in (None, space.name):
            return space.validate(space.hold(written))
        if not problems:
            holds = holds or space.name
            continue
        objections[space.name] = problems[0]
        if space_name is None and len(problems) < fewest:
            fewest, nearest = len(problems), space.name
    if nearest in objections:
        error = objections[nearest]
    else:  # no space has such cells, or not the one that is asked for
        error = next(search_spaces.get(nearest or search_spaces.names()[0]).problems(written))
    hint = f"; the space '{holds}' holds it: give that as `space`, or none" if holds else ""
    raise GenotypeError(f"{error}{hint}", error.at, error.cut_off)


def _resembled(text: str, space_name: str | None) -> SearchSpace | None:
    """The space whose notation a text that is none resembles most."""
    if space_name is not None:
        return search_spaces.get(space_name)
    if re.match(r"\W{0,9}(?:\w{1,60}\s?=\s?)?\w{0,20}genotype", text, re.IGNORECASE):
        return search_spaces.get("darts")
    if text.startswith("|") or re.search(r"\w~[0-9]", text):
        return search_spaces.get("micro" if text.count("~") <= 4 and text.count("+") == 1 else "nasbench201")
    return None


def _place(text: str, at: int | None) -> str:
    """Where an offset is, in words."""
    if at is None or not text:
        return ""
    at = min(at, len(text))
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return f"line {line}, column {column}: " if "\n" in text else f"character {column}: "


# Files


def _read_file(path: Path, space_name: str | None, nested: bool = False) -> Reading:
    try:
        if path.suffix.lower() == ".safetensors":
            if (data := description_in(path)) is None:
                raise ValueError("not a model.safetensors written by train_final.py")
            return _of_json(data["genotype"], space_name)
        if path.suffix.lower() in _PICKLED:
            raise ValueError("such a file could run code and is not read: print its genotype, give that")
        content = read_text(path)
        if path.suffix.lower() == ".jsonl":
            return _of_metrics(content, space_name or _space_of(path.parent))
        return _of_text(content, space_name, nested)
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{path}: {error}") from None


def _of_text(content: str, space_name: str | None, nested: bool = False) -> Reading:
    """The architecture in a text: JSON of this project, or a notation."""
    is_object = content.lstrip().startswith("{")
    data = _json_or_none(content) if is_object else None
    if isinstance(data, dict):
        if "kind" in data and not nested:
            return _of_run(data, space_name)
        if "space" in data or "cells" in data:
            return _of_json(data, space_name)
    try:
        return _parse(content, space_name)
    except NoCellError as error:
        if not is_object:
            raise
        try:
            return _of_json(parse_json(content), space_name)  # says what is wrong with it
        except ValueError as problem:
            raise InputError(f"{problem}, or {error}") from None


def _json_or_none(content: str) -> Any:
    try:
        return parse_json(content)
    except ValueError:
        return None


def _of_json(data: Any, space_name: str | None) -> Reading:
    """The content of a genotype.json."""
    genotype = Genotype.from_json(data)
    one_of("search space", genotype.space, search_spaces.names())
    if space_name not in (None, genotype.space):
        raise InputError(f"genotype belongs to the space '{genotype.space}', but `space` is '{space_name}'")
    return Reading(search_spaces.get(genotype.space).validate(genotype))


def _of_run(data: dict[str, Any], space_name: str | None) -> Reading:
    """The cell in a result.json, or in the config.json of a training."""
    text, space = data.get("genotype"), data.get("space")
    if not isinstance(text, str):
        raise InputError("a configuration without `genotype`: give the run folder, or its genotype.json")
    if not isinstance(space, str):
        space = None
    if space_name is not None and space not in (None, space_name):
        raise InputError(f"its cell belongs to the space '{space[:60]}', but `space` is '{space_name}'")
    if os.path.isfile(text):
        return _read_file(Path(text), space_name or space, nested=True)
    if os.path.isdir(text):
        raise InputError(f"its cell is that of the folder {text}: give that")
    return read_cell(text, space_name or space)


def _of_metrics(content: str, space_name: str | None) -> Reading:
    """The last cell in the metrics of a search."""
    for line in reversed(content.splitlines()):
        data = _json_or_none(line)
        if isinstance(data, dict) and isinstance(text := data.get("genotype"), str):
            genotype = _parse(text, space_name).genotype
            epoch = data.get("epoch")
            return Reading(genotype, (f"this is what arg-max finds after epoch {epoch}",))
    raise InputError("no line has a genotype: expected the metrics.jsonl of a search")


def description_in(path: Path) -> dict[str, Any] | None:
    """What `nas.save` wrote about the network in a file; None where something else has written it.

    Raises:
        OSError, ValueError: the file cannot be read, or is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"no file of safetensors ({first_line(error)})") from None
    data = parse_json(metadata["nas"]) if "nas" in metadata else None
    return data if isinstance(data, dict) and "genotype" in data else None


def _space_of(folder: Path) -> str | None:
    """The space in the configuration of a run, where there is one."""
    try:
        data = parse_json(read_text(folder / "config.json"))
    except (OSError, ValueError):
        return None
    space = data.get("space") if isinstance(data, dict) else None
    return space if isinstance(space, str) else None


def _read_folder(path: Path, space_name: str | None) -> Reading:
    """The cell of a run: the one that it found or trains, or that of an unfinished search so far."""
    if (path / "genotype.json").is_file():
        return _read_file(path / "genotype.json", space_name)
    if not (path / "metrics.jsonl").is_file():
        raise InputError(
            f"{path} holds no cell: expected the folder of a run, with genotype.json, or with metrics.jsonl "
            "after its first epoch"
        )
    genotype, notes = _read_file(path / "metrics.jsonl", space_name)
    unfinished = f"the search in {path} is unfinished (--resume --out {path} goes on)"
    return Reading(genotype, (unfinished, *notes))


def cells_of(space: SearchSpace, cells: int | None) -> int:
    """Number of cells of a network: `cells`, by default the fewest. Raises InputError where the space has no
    network of so many."""
    fewest, most = space.fewest_cells, space.most_cells
    if cells is not None and (cells < fewest or (most is not None and cells > most)):
        expected = (
            f"at least {fewest}" if most is None else f"{fewest} to {most}" if fewest < most else fewest
        )
        raise InputError(
            f"`cells` is {cells}, expected {expected} in the space '{space.name}' ({space.cells_help})"
        )
    return cells or fewest


def planned_size_of(space: SearchSpace, planned_size: int | None, dataset: DataSet) -> int:
    """Side in pixels of the images that stem and strides are meant for: `planned_size`, by default the
    shorter side of those of the data set. Raises InputError where the space has one plan for all."""
    if planned_size is None:
        return min(dataset.train.pixels.shape[-2:])
    if not space.plans_size:
        able = [name for name in search_spaces.names() if search_spaces.get(name).plans_size]
        raise InputError(
            f"`planned_size` is for the spaces {', '.join(able)}, this is '{space.name}': drop it"
        )
    return planned_size
