"""Finding the architecture that a user names."""

from __future__ import annotations

import os
from pathlib import Path

import search_spaces
from nas.data import DataSet
from recipes import InputError, one_of
from recipes.text_files import parse_json, read_text
from search_spaces import Genotype, GenotypeError, SearchSpace
from search_spaces.zoo import PUBLISHED


def read_genotype(text: str, space_name: str | None = None) -> Genotype:
    """The genotype that `text` is: a file, the name of a published cell, or the notation itself.

    Args:
        text: path of a genotype.json or of a text file, a key of `search_spaces.zoo.PUBLISHED`, or the
            notation of a space: an architecture string of NAS-Bench-201, `Genotype(normal=[...], ...)`.
        space_name: the search space it has to belong to; None: found from the text.

    Raises:
        InputError: no such file, cell or notation, or another space than `space_name`.
    """
    spaces = search_spaces.names()
    if space_name is not None:
        one_of("search space", space_name, spaces)
    if text in PUBLISHED:
        space, notation, _ = PUBLISHED[text]
        return _in_space(space, notation, space_name, f"the published cell '{text}'")
    if os.path.isfile(text):
        return _read_file(Path(text), space_name)
    recognised = any(search_spaces.get(name).recognises(text) for name in spaces)
    if not recognised and not any(mark in text for mark in "|("):
        one_of("published cell or genotype file", text, PUBLISHED)
    return _parse(text, space_name)


def _parse(text: str, space_name: str | None) -> Genotype:
    """Read the notation of `space_name`, by default of the first space that can read the text."""
    spaces = [search_spaces.get(name) for name in ([space_name] if space_name else search_spaces.names())]
    known = ", ".join(search_spaces.names())
    problems = []
    for space in spaces:
        if space_name or space.recognises(text):
            try:
                return space.parse(text)
            except GenotypeError as error:
                problems.append(str(error))
    problems.append(f"malformed genotype {text[:100]!r}, expected the notation of one of: {known}")
    raise InputError(problems[0])


def _in_space(space: str, notation: str, wanted: str | None, what: str) -> Genotype:
    if wanted not in (None, space):
        raise InputError(f"{what} belongs to the space '{space}', but `space` is '{wanted}'")
    return search_spaces.get(space).parse(notation)


def _read_file(path: Path, space_name: str | None) -> Genotype:
    try:
        content = read_text(path)
        if not content.lstrip().startswith("{"):
            return _parse(content.strip(), space_name)
        genotype = Genotype.from_json(parse_json(content))
        one_of("search space", genotype.space, search_spaces.names())
        if space_name not in (None, genotype.space):
            raise InputError(
                f"genotype belongs to the space '{genotype.space}', but `space` is '{space_name}'"
            )
        return search_spaces.get(genotype.space).validate(genotype)
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{path}: {error}") from None


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
        raise InputError(f"`planned_size` is for the spaces {', '.join(able)}, this is '{space.name}'")
    return planned_size
