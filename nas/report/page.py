"""What each level of the ablation leaves behind: report.html, results.csv, results.md and pictures."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import PackageLoader
from matplotlib.figure import Figure

from nas.report import run_report as report
from nas.report.figures import to_png
from nas.runs.files import atomic_path, write_text


class Picture(NamedTuple):
    """A figure, its heading and what it shows; `half` puts two beside each other."""

    heading: str
    figure: Figure
    caption: str
    half: bool = False


class Table(NamedTuple):
    """A table of formatted cells; the first column names the row."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


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
        kind: a word or two above the title.
        lead: one paragraph: what was done, on what machine.
        tables: shown in the report and, as Markdown, in results.md.
        records: the single figures, one row of results.csv each; missing keys are left empty.
        configuration: shown at the end of the report.
    """
    jinja = report.environment(PackageLoader("nas.report"))
    page = jinja.get_template("comparison.html.j2").render(
        kind=kind,
        title=title,
        lead=lead,
        pictures=[
            report.Picture(p.heading, report.inline(f"picture{i}", p.figure), p.caption, p.half)
            for i, p in enumerate(pictures)
        ],
        tables=tables,
        configuration=report.table(dict(configuration)),
    )
    (folder / "pictures").mkdir(exist_ok=True)
    for picture in pictures:
        with atomic_path(folder / "pictures" / f"{_slug(picture.heading)}.png") as path:
            path.write_bytes(to_png(picture.figure, dpi=100))
    write_text(folder / "results.csv", to_csv(records))
    write_text(folder / "results.md", to_markdown(title, lead, tables))
    write_text(folder / "report.html", page)


def _slug(heading: str) -> str:
    """E.g. "auto-encoder-negative-elbo"."""
    return "-".join(re.findall("[a-z0-9-]+", heading.lower()))


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
