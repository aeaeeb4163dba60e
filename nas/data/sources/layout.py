"""Which folders of a data set are its parts, and which are its classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.data.images import PART_NAMES
from nas.data.names import PARTS, key_of, merged, part_of, quoted
from nas.data.sources.pictures import ENDINGS, NOT_HERE
from recipes import InputError

Files = dict[str, list[Path]]  # of every class


@dataclass
class Left:
    """What was left out, counted by kind."""

    hidden: int = 0
    loose: int = 0  # images beside class folders
    endings: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)

    def notes(self, unreadable: int = 0) -> list[str]:
        """In a few words; nothing where nothing was left out."""
        kinds = []
        if unreadable:
            kinds.append(f"{unreadable} that cannot be read")
        if self.hidden:
            kinds.append(f"{self.hidden} hidden")
        for ending, count in sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))[:6]:
            advice = f" ({NOT_HERE[ending]})" if ending in NOT_HERE else ""
            kinds.append(f"{count} {ending or 'without ending'}{advice}")
        if len(self.endings) > 6:
            kinds.append(f"{sum(self.endings.values())} of {len(self.endings)} endings in all")
        if self.loose:
            kinds.append(f"{self.loose} images outside of class folders")
        files = [f"left out: files: {', '.join(kinds)}"] if kinds else []
        folders = [f"left out: folders: {quoted(self.folders)}"] if self.folders else []
        return files + folders


@dataclass(frozen=True)
class Layout:
    """What a folder is understood to hold.

    Attributes:
        parts: files of every class, by part: train, valid, test; or all of them as `all`.
        notes: in a few words each.
        left: what was left out.
    """

    parts: dict[str, Files]
    notes: list[str]
    left: Left

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in their order."""
        return tuple(next(iter(self.parts.values())))


def of(root: Path) -> Layout:
    """The parts and classes of a folder.

    Understood are class folders alone; under folders of parts; with folders of parts in each of them; and all
    of these one level further down.

    Raises:
        InputError: it holds something else, or can be understood in two ways.
        OSError: something in it cannot be read.
    """
    left = Left()
    outer, root = root, _unwrapped(root, left)
    found = _parts(root)
    if found:
        return _divided(root, found, left, outer)
    names = _folders(root)
    if len(names) >= 2 and all(len(_parts(root / name)) >= 2 for name in names):
        return _divided_classes(root, names, left)
    classes, notes = _classes(root, left)
    return Layout({"all": classes}, notes, left)


def _unwrapped(root: Path, left: Left) -> Path:
    """The folder itself, or the one in it that holds everything."""
    names = _folders(root)
    if _parts(root):
        return root
    inner = [name for name in names if len(_parts(root / name)) >= 2]
    if len(inner) == 1 and (len(names) == 1 or not _looks_like_class(root, names, inner[0])):
        left.folders += [name for name in names if name != inner[0]]
        return root / inner[0]
    if len(names) == 1 and len(_folders(root / names[0])) >= 2 and not _has_images(root):
        return root / names[0]
    if 1 < len(inner) < len(names):
        raise InputError(
            f"{root}: {quoted(inner)} are divided into parts, {quoted([n for n in names if n not in inner])} "
            "are not: give the folder that is meant, as folder:PATH"
        )
    return root


def _looks_like_class(root: Path, names: Sequence[str], inner: str) -> bool:
    """Whether the folders beside `inner` hold images in sub-folders or not, as `inner` would as a class."""
    return any(_has_images(root / name) for name in names if name != inner)


def _parts(root: Path) -> dict[str, list[str]]:
    """Folders of parts in a folder, by part; none where the names are those of classes.

    One name alone may be a class: trains among cars. It is a part where it holds class folders.
    """
    found: dict[str, list[str]] = {}
    for name in _folders(root):
        part = part_of(name)
        if part is not None:
            found.setdefault(part, []).append(name)
    names = [name for group in found.values() for name in group]
    if len(names) >= 2 or (names and len(_folders(root / names[0])) >= 2):
        return found
    return {}


def _divided(root: Path, found: Mapping[str, list[str]], left: Left, outer: Path) -> Layout:
    """Class folders under folders of parts."""
    for part, names in found.items():
        if len(names) > 1:
            raise InputError(
                f"{root}: {quoted(names)} are both names of the {PART_NAMES[part]} part: merge them, "
                "or rename one"
            )
    others = [name for name in _folders(root) if part_of(name) is None]
    saw = f"besides it there is {quoted(others)}" if others else "there is nothing else"
    if "train" not in found:
        raise InputError(
            f"{root}: {quoted(n for names in found.values() for n in names)} are names of parts, and none is "
            f"that of the training part; {saw}: name the folder with the training images train/"
        )
    train = root / found["train"][0]
    if len(found) == 1:
        raise InputError(
            f"data set folder '{root}' has {train.name}/ but no test/; {saw}: name the folder with the test "
            f"images test/, or give folder:{train}, of which `test_fraction` is set aside; if {train.name}/ "
            "is a class, give it another name"
        )
    left.folders += others
    _leave_beside(root, left)
    parts: dict[str, Files] = {}
    notes, named = [], []
    for part in ("train", "valid", "test"):
        if part in found:
            folder = _holder(root / found[part][0], part)
            parts[part], remarks = _classes(folder, left)
            notes += remarks
            named.append(f"{folder.relative_to(outer)}/ for {PART_NAMES[part]}")
    _unify(parts, root)
    return Layout(parts, [f"understood: {', '.join(named)}", *notes], left)


def _holder(folder: Path, part: str) -> Path:
    """The folder that holds the class folders of a part: itself, or the only one in it. Raises InputError."""
    names = _folders(folder)
    if len(names) == 1 and len(_folders(folder / names[0])) >= 2 and not _has_images(folder):
        return folder / names[0]
    if not names:
        count = _count_images(folder)
        raise InputError(
            f"{folder} is the {PART_NAMES[part]} part by its name, and has {count} images but no class "
            "folders: sort them into a folder for each class, list them in a file (csv:FILE), "
            + ("or move it away" if part != "train" else "or give it another name if it is a class")
        )
    return folder


def _divided_classes(root: Path, names: Sequence[str], left: Left) -> Layout:
    """Folders of parts in every class folder."""
    found: dict[str, Files] = {}
    _leave_beside(root, left)
    for name in names:
        _require_text(root / name)
        inside = _parts(root / name)
        for part, folders in inside.items():
            if len(folders) > 1:
                raise InputError(
                    f"{root / name}: {quoted(folders)} are both names of the {PART_NAMES[part]} part: merge "
                    "them"
                )
            found.setdefault(part, {})[name] = sorted(_image_files(root / name / folders[0], left))
        left.folders += [f"{name}/{other}" for other in _folders(root / name) if part_of(other) is None]
        left.loose += _count_images(root / name)
    ordered = {part: found[part] for part in PARTS if part in found}
    for part, files in ordered.items():
        if missing := [name for name in names if not files.get(name)]:
            raise InputError(f"{root}: {quoted(missing)} have no images for {PART_NAMES[part]}: add some")
    if "train" not in ordered:
        raise InputError(f"{root}: its classes have no folder train/: name the one with training images so")
    unified: dict[str, Files] = {}
    notes: list[str] = []
    for part, files in ordered.items():
        unified[part], notes = merged({name: files[name] for name in names})
    words = " and ".join(PART_NAMES[part] for part in unified)
    return Layout(unified, [f"understood: every class folder has parts for {words}", *notes], left)


def _unify(parts: dict[str, Files], root: Path) -> None:
    """Give the classes of all parts the names and the order of the first. Raises InputError where they
    differ."""
    (first, files), *others = parts.items()
    keys = {key_of(name): name for name in files}
    for part, other in others:
        known = {key_of(name): name for name in other}
        if known.keys() != keys.keys():
            alone = [
                f"only under {where}: {', '.join(sorted(names[key] for key in missing)[:5])}"
                for where, names, missing in (
                    (first, keys, keys.keys() - known.keys()),
                    (part, known, known.keys() - keys.keys()),
                )
                if missing
            ]
            raise InputError(
                f"classes under {root}: those for {PART_NAMES[first]} and {PART_NAMES[part]} differ, "
                f"{'; '.join(alone)}: rename or move these folders"
            )
        parts[part] = {keys[key]: other[known[key]] for key in keys}


def _classes(root: Path, left: Left) -> tuple[Files, list[str]]:
    """The image files of every class under `root`, both in order, and notes."""
    names = _folders(root)
    if len(names) < 2:
        loose = _count_images(root)
        words = f"{len(names)} class folder{'s' if len(names) != 1 else ''}"
        words += f" ({quoted(names)})" if names else ""
        advice = ", or train/ and test/ with class folders: give the folder that holds them"
        if loose:
            advice = (
                f"; {loose} images lie beside them: sort them into a folder for each class, or list them in "
                "a file with a column of labels, csv:FILE"
            )
        raise InputError(f"{root} has {words}, expected at least 2{advice}")
    _leave_beside(root, left)
    files = {}
    for name in names:
        _require_text(root / name)
        before = left.endings.copy()
        files[name] = sorted(_image_files(root / name, left))
        if not files[name]:
            there = left.endings - before
            saw = ", ".join(f"{count} {ending}" for ending, count in there.most_common(4))
            advice = "; ".join({f"{e}: {NOT_HERE[e]}" for e in there if e in NOT_HERE})
            raise InputError(
                f"class folder {root / name} has no images{', but ' * bool(saw)}{saw}: "
                f"{advice or 'add some (' + ', '.join(ENDINGS) + '), or move it away'}"
            )
    return merged(files)


def _require_text(folder: Path) -> None:
    if folder.name.encode(errors="replace").decode() != folder.name:
        raise InputError(f"the name of the class folder {folder} is not valid UTF-8: rename it")


def _folders(root: Path) -> list[str]:
    """Names of the folders in a folder, but for hidden ones and what archives leave behind. Raises
    InputError for a link to nothing."""
    found = []
    for entry in _entries(root):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        path = Path(entry.path)
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to nothing: repair or remove it")
        if path.is_dir():
            found.append(entry.name)
    return sorted(found)


def _leave_beside(root: Path, left: Left) -> None:
    """Count the files beside class folders."""
    left.loose += _count_images(root)
    for name in (entry.name for entry in _entries(root) if entry.is_file()):
        if name.startswith("."):
            left.hidden += 1
        elif not _is_image(name):
            left.endings[os.path.splitext(name)[1].lower()] += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def picture_files(path: Path) -> list[Path]:
    """The image files in a folder, sorted, those that cannot be read here among them, or the file that the
    path is. Raises InputError where there are none."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(_image_files(path, Left(), (*ENDINGS, *NOT_HERE)))
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error}; check your rights to read it") from None
    if not found:
        raise InputError(f"the folder {path} has no images ({', '.join(ENDINGS)}): give another")
    return found


def _is_image(name: str, endings: tuple[str, ...] = ENDINGS) -> bool:
    return name.lower().endswith(endings) and not name.startswith(".")


def _has_images(folder: Path) -> bool:
    return any(_is_image(entry.name) and entry.is_file() for entry in _entries(folder))


def _count_images(folder: Path) -> int:
    return sum(_is_image(entry.name) and entry.is_file() for entry in _entries(folder))


def _image_files(folder: Path, left: Left, endings: tuple[str, ...] = ENDINGS) -> Iterator[Path]:
    """The files in `folder`, below it and behind links, that count as images by their ending; the others are
    counted."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            raise InputError(f"{place} leads to a folder that {folder} holds already: remove that link")
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            if name.startswith("."):
                left.hidden += 1
            elif _is_image(name, endings):
                yield Path(place, name)
            else:
                left.endings[os.path.splitext(name)[1].lower()] += 1
