"""Images listed in a file: `csv:FILE` with a column of paths and one of labels."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nas.data.images import DataSet
from nas.data.names import PARTS, merged, part_of, quoted
from nas.data.sources.folder import of_files
from nas.data.sources.pictures import NOT_HERE
from nas.data.sources.reading import Reading
from recipes import InputError
from recipes.text_files import read_text

_PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
    "img_path",
)
_LABELS = ("label", "labels", "class", "class_name", "category", "target", "species", "y")
_PARTS = ("split", "set", "subset", "part", "partition", "fold", "dataset", "usage")
EXPECTED = (
    "a first line that names a column of paths (path, file, image), one of labels (label, class), and "
    "maybe one of parts (split)"
)


def load(*, path: Path, reading: Reading, test_fraction: float) -> DataSet:
    """The images that a file lists, by paths from its own folder or whole ones, resized to a square."""
    try:
        names, rows = _rows(path)
        columns = _columns(path, names)
        parts, notes = _parts(path, names, rows, columns, reading.bad_images)
        classes = tuple(next(iter(parts.values())))
        dataset = of_files(f"csv:{path.stem}", parts, classes, str(path), reading, test_fraction)
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error}; check the path") from None
    except ValueError as error:
        raise InputError(f"cannot read the list {path}: {error}; save it as CSV in UTF-8") from None
    said = ", ".join(f"{what} in the column '{name}'" for what, name in columns.items())
    files = sum(len(found) for classes_of in parts.values() for found in classes_of.values())
    if lost := files - sum(len(part) for part in dataset.parts.values()):
        notes.append(f"left out: files: {lost} that cannot be read")
    return replace(dataset, notes=(f"understood: {said}", *notes, *dataset.notes))


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the lines with their numbers. Raises OSError, ValueError."""
    if not path.is_file():
        raise InputError(f"the list {path} is not a file, expected a CSV of paths and labels: check the path")
    text = read_text(path)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        return names, [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not valid CSV ({error})") from None


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The columns of paths, labels and, if there is one, parts, by what they are. Raises InputError."""
    found: dict[str, str] = {}
    for what, known in (("paths", _PATHS), ("labels", _LABELS), ("parts", _PARTS)):
        fitting = [name for name in names if name.casefold().replace(" ", "_") in known]
        if len(fitting) > 1 and what != "parts":
            raise InputError(
                f"{path}, line 1: {quoted(fitting)} could all be the column of {what}: rename all but one"
            )
        if fitting:
            found[what] = fitting[0]
    if missing := [what for what in ("paths", "labels") if what not in found]:
        raise InputError(
            f"{path}, line 1: no column of {' or '.join(missing)} among {quoted(names, 8) or 'nothing'}, "
            f"expected {EXPECTED}: rename the columns"
        )
    return found


def _parts(
    path: Path,
    names: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str]]],
    columns: Mapping[str, str],
    bad_images: str,
) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """The files of every class, by part, and notes. Raises InputError."""
    place = {what: names.index(name) for what, name in columns.items()}
    found: dict[str, dict[str, list[Path]]] = {}
    seen: dict[Path, int] = {}
    missing: list[tuple[int, Path]] = []
    for line, row in rows:
        if len(row) != len(names):
            raise InputError(
                f"{path}, line {line}: {len(row)} values for {len(names)} columns: correct the line"
            )
        label, written = row[place["labels"]].strip(), row[place["paths"]].strip()
        if not label or not written:
            raise InputError(
                f"{path}, line {line}: the path or the label is empty: fill it in, or delete the line"
            )
        part: str | None = "all"
        if "parts" in place and (part := part_of(row[place["parts"]].strip())) is None:
            text = row[place["parts"]][:40]
            raise InputError(
                f"{path}, line {line}: {columns['parts']} is '{text}', expected train, val or "
                "test: correct it"
            )
        file = _found(path.parent / written.replace("\\", "/"))
        if file in seen:
            raise InputError(f"{path}, line {line}: {written} is in line {seen[file]}, too: keep one")
        seen[file] = line
        if not os.path.isfile(file):
            missing.append((line, file))
            continue
        if advice := NOT_HERE.get(file.suffix.lower()):
            raise InputError(f"{path}, line {line}: {written} cannot be read here: {advice}")
        found.setdefault(str(part), {}).setdefault(label, []).append(file)
    if missing and (bad_images == "refuse" or not found):
        line, file = missing[0]
        more = f" ({len(missing)} such lines)" if len(missing) > 1 else ""
        raise InputError(
            f"{path}, line {line}: the image {file} does not exist{more}: correct the path, which counts "
            "from the folder of the list, or give `bad_images=leave_out`"
        )
    notes = [f"left out: {len(missing)} lines whose image does not exist"] if missing else []
    parts, said = _unified(path, found)
    return parts, notes + said


def _found(file: Path) -> Path:
    """The file, or the one whose name differs in its Unicode form only, as other systems archive it."""
    for form in ("NFC", "NFD"):
        other = Path(unicodedata.normalize(form, str(file)))
        if not os.path.isfile(file) and os.path.isfile(other):
            return other
    return file


def _unified(
    path: Path, found: Mapping[str, dict[str, list[Path]]]
) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """All parts with the classes of all in one order, and notes. Raises InputError."""
    everything: dict[str, list[Path]] = {}
    for files in found.values():
        for label, paths in files.items():
            everything.setdefault(label, []).extend(paths)
    if found and "train" not in found and "all" not in found:
        raise InputError(f"{path}: no line is of the training part: name one so in its column of parts")
    classes, notes = merged(everything)
    if len(classes) < 2:
        raise InputError(
            f"{path} has the labels {quoted(classes) or 'none'}, expected at least 2: check the column"
        )
    of = {file: name for name, paths in classes.items() for file in paths}
    parts: dict[str, dict[str, list[Path]]] = {}
    for part in (*PARTS, "all"):
        if part in found:
            parts[part] = {name: [] for name in classes}
            for paths in found[part].values():
                for file in paths:
                    parts[part][of[file]].append(file)
    return parts, notes
