"""Finding cells in a text: a notation, a line of a log, or a whole log, of which the last cell counts."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from recipes import literals
from recipes.literals import Item, LiteralError
from search_spaces.genotype import GenotypeError
from search_spaces.notations import benchmark, genotype_call, naslib, nni
from search_spaces.written import Written

READERS: tuple[Callable[[Item], Written | None], ...] = (
    genotype_call.read,
    nni.read,
    benchmark.read_string,
    benchmark.read_index,
    benchmark.read_nodes,
    naslib.read,
)
_LAST = 2_000  # places that are looked at, from the end
_WORK = 2_000_000  # characters that are read at them
_INT = r"(?:\w{1,10}\.\w{1,10}\()?-?[0-9]{1,3}\)?"
# Where a cell begins, told from anything else by its first characters.
_PLAIN = re.compile(
    r"(?P<call>genotype\w{0,20}\s{0,9}\((?=\s{0,99}(?:#[^\n]{0,200}\s{0,99})?(?:\w{1,20}\s{0,9}=(?!=)|[\[(])))"
    r"|(?P<structure>Structure\s{0,9}\((?=\s{0,99}\[))"
    r"|(?P<dict>\{(?=\s{0,99}\\?[\"'](?:[\w/]{1,60}/)?(?:normal|reduce|[0-9]{1,2}_[0-9]{1,2})\b))"
    rf"|(?P<string>{benchmark.STRING.pattern})|(?P<index>\b{benchmark.INDEX.pattern})"
    rf"|(?P<broken>{benchmark.BROKEN.pattern})",
    re.IGNORECASE,
)
# Lists of numbers or pairs: cells only where nothing else is one, and they stand alone or are announced.
_LIST = re.compile(
    rf"(?P<numbers>[\[(]\s{{0,9}}{_INT}(?:\s{{0,9}}[,\s]\s{{0,9}}{_INT}){{5}}\s{{0,9}},?\s{{0,9}}[\])])"
    r"|(?P<nested>[\[(]\s{0,9}[\[(]\s{0,9}[\[(](?=\s{0,9}[\"'0-9]))"
)
_ANNOUNCED = re.compile(
    r"(?:hash|arch\w*|indices|compact|spec|genotypes?|cells?|best)\W{1,20}$", re.IGNORECASE
)
_END = re.compile(r"[\s\"'`;,.]*")
_NAMED = re.compile(r"\s*(?:[A-Za-z_][\w.]{0,60}\s{0,9}[=:]\s{0,9})?[\"'`]?\s*")


class BrokenStringError(GenotypeError):
    """An architecture string that is none; `text` is what there is of it."""

    def __init__(self, text: str, at: int, cut_off: bool) -> None:
        super().__init__(f"malformed architecture string {text[:60]!r}", at, cut_off)
        self.text = text


class Found(NamedTuple):
    """A cell in a text.

    Attributes:
        written: its edges.
        at: where it begins.
        notes: what the reader should know.
    """

    written: Written
    at: int
    notes: tuple[str, ...]


def find(text: str) -> Found | None:
    """The last cell in a text; None if there is none.

    Raises:
        GenotypeError: the last one is malformed; BrokenStringError where it is an architecture string.
    """
    for places in (_whole(text), _from_the_end(_PLAIN, text), _from_the_end(_LIST, text)):
        if (found := _first(text, places)) is not None:
            return found
    return None


def _whole(text: str) -> Iterator[tuple[str, int, int]]:
    """The text itself, behind a name, where it is a list or a dictionary."""
    start = _NAMED.match(text)
    assert start is not None
    opening = text[start.end() : start.end() + 1]
    found = _LIST.match(text, start.end())
    if found is not None and found["numbers"] and _is_end(text, found.end()):
        yield "numbers", start.end(), found.end()
    elif opening == "{" or (found is not None and found["nested"]):
        yield "whole", start.end(), start.end()


def _is_end(text: str, at: int) -> bool:
    """Whether nothing but quotes and the like follows."""
    return _END.fullmatch(text, at) is not None


def _from_the_end(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int, int]]:
    for place in reversed(deque(pattern.finditer(text), maxlen=_LAST)):
        if pattern is _PLAIN or _ANNOUNCED.search(text[max(0, place.start() - 80) : place.start()]):
            yield str(place.lastgroup), place.start(), place.end()


def _first(text: str, places: Iterator[tuple[str, int, int]]) -> Found | None:
    """The first cell at the places, which come last to first."""
    work, notes = _WORK, []
    cut_off: GenotypeError | None = None
    for kind, start, end in places:
        if kind == "broken":
            broken = benchmark.BROKEN.match(text, start)
            assert broken is not None
            string = BrokenStringError(broken[1], broken.start(1), not text[end:].strip())
            if not string.cut_off:
                raise string
            cut_off = cut_off or string
            continue
        try:
            item, stop = _value(kind, text, start, end)
            written = _read(item) if kind != "whole" or _is_end(text, stop) else None
        except LiteralError as error:
            if kind in ("call", "structure", "dict"):
                wrong = GenotypeError(f"malformed genotype: {error}", error.at, error.cut_off)
                if not error.cut_off:
                    raise wrong from None
                cut_off = cut_off or wrong
            work -= max(error.at - start, 1)
        else:
            if written is not None:
                if kind in ("numbers", "whole") and len(written) == 1 and _is_indices(item):
                    notes.append(naslib.ORDER)
                if _is_loose(item, written):
                    notes.append(nni.LOOSE_ENDS)
                return Found(written, start, tuple(notes + _about_others(text, cut_off, start, places)))
            work -= stop - start
        if work < 0:
            break
    if cut_off is not None:
        raise cut_off
    return None


def _value(kind: str, text: str, start: int, end: int) -> tuple[Item, int]:
    """The value at a place and where it ends."""
    if kind in ("string", "index"):
        return Item(text[start:end], start), end
    if kind == "numbers":  # with or without commas
        digits = re.finditer(r"(?<![\w.])-?[0-9]{1,3}(?![\w.])", text[start:end])
        return Item(tuple(Item(int(d[0]), start + d.start()) for d in digits), start), end
    return literals.read(text, start)


def _read(item: Item) -> Written | None:
    for reader in READERS:
        if (written := reader(item)) is not None:
            return written
    return None


def _is_indices(item: Item) -> bool:
    return literals.numbers(item) is not None


def _is_loose(item: Item, written: Written) -> bool:
    """Whether NNI's rule for outputs was followed."""
    return isinstance(item.value, dict) and "normal" not in item.value and written[0].concat is not None


def _about_others(
    text: str, cut_off: GenotypeError | None, start: int, places: Iterator[tuple[str, int, int]]
) -> list[str]:
    """Notes on cells that were passed over."""
    line = text.count("\n", 0, start) + 1
    if cut_off is not None:
        return [f"the text ends within its last genotype: the one before it, in line {line}, is read"]
    if any(kind in ("call", "string", "index") for kind, *_ in places):
        return [f"of several genotypes the last one, in line {line}, is read"]
    return []
