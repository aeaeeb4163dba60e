"""The page of every report: HTML that needs nothing but itself, and the files beside it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from nas.report.figures import to_png, to_svg
from nas.runs.files import atomic_path, write_text


class Picture(NamedTuple):
    """A figure, its heading and what it shows.

    `half` puts two beside each other; a figure that is not `wide` keeps its own size.
    """

    heading: str
    figure: Figure
    caption: str = ""
    half: bool = False
    wide: bool = True


class Table(NamedTuple):
    """A table of formatted cells; the first column names the row."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Tile(NamedTuple):
    """A headline figure."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


def render(
    kind: str,
    title: str,
    lead: str,
    *,
    pictures: Sequence[Picture],
    settings: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str] = (),
    tiles: Sequence[Tile] = (),
    tables: Sequence[Table] = (),
    texts: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML. Everything is escaped.

    Args:
        kind: a word or two above the title.
        lead: one paragraph under it.
        settings: names and values under a heading each, at the end; what was not set (None) is left out.
        texts: what is to be copied, under a heading each.
    """
    jinja = Environment(
        loader=PackageLoader("nas.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    inlined = [(_inline(f"picture{i}", picture.figure), picture) for i, picture in enumerate(pictures)]
    rows = {heading: _rows(values) for heading, values in settings.items()}
    return jinja.get_template("page.html.j2").render(
        kind=kind, title=title, lead=lead, pictures=inlined, warnings=warnings, tiles=tiles, tables=tables,
        texts=texts or {}, settings=rows,
    )  # fmt: skip


def _inline(name: str, figure: Figure) -> Markup:
    """The figure as markup whose ids are unique within a page, if `name` is."""
    svg = to_svg(figure)
    for reference in (' id="', "url(#", 'href="#'):
        svg = svg.replace(reference, f"{reference}{name}-")
    return Markup(svg)


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
        if value is not None
    ]


def write(
    folder: Path,
    *,
    kind: str,
    title: str,
    lead: str,
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    records: Sequence[Mapping[str, Any]],
    configuration: Mapping[str, Any],
) -> None:
    """Write report.html, results.csv, results.md and pictures/HEADING.png into `folder`, each atomically.

    Args:
        kind, title, lead, pictures: see `render`.
        tables: shown in the report and, as Markdown, in results.md.
        records: the single figures, one row of results.csv each; missing keys are left empty.
        configuration: shown at the end of the report.
    """
    settings = {"Configuration": configuration}
    page = render(kind, title, lead, pictures=pictures, tables=tables, settings=settings)
    (folder / "pictures").mkdir(exist_ok=True)
    for picture in pictures:
        slug = "-".join(re.findall("[a-z0-9-]+", picture.heading.lower()))
        with atomic_path(folder / "pictures" / f"{slug}.png") as path:
            path.write_bytes(to_png(picture.figure, dpi=100))
    write_text(folder / "results.csv", to_csv(records))
    write_text(folder / "results.md", to_markdown(title, lead, tables))
    write_text(folder / "report.html", page)


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as CSV; the columns are all their keys, in order of appearance."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def to_markdown(title: str, lead: str, tables: Sequence[Table]) -> str:
    """The tables as Markdown."""
    lines = [f"# {title}", "", lead, ""]
    for table in tables:
        lines += [f"## {table.heading}", ""]
        if table.note:
            lines += [table.note, ""]
        rows = [list(table.columns), ["---"] * len(table.columns), *map(list, table.rows)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)
