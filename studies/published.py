"""What recipes of published methods reached, beside what was published.

`python -m studies.published FOLDER`, where FOLDER has a grid of searches (`ablate.py nas`)
for each preset, under its name.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from ablation.comparison import estimate
from recipes import presets


def lines(folder: Path) -> list[str]:
    """A table in Markdown, a row for each preset whose searches have ended."""
    found = ["| preset | here, accuracy (%) | seeds | published |", "| --- | --- | --- | --- |"]
    for preset in presets.SEARCH:
        path = folder / preset / "results.csv"
        if path.exists():
            with path.open(newline="") as file:
                accuracies = [float(row["accuracy"]) for row in csv.DictReader(file)]
            words = presets.published(preset) if preset in presets.PUBLISHED else "–"
            found.append(f"| {preset} | {estimate(accuracies)} | {len(accuracies)} | {words} |")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("expected a folder with a grid of searches for each preset")
    print("\n".join(lines(Path(sys.argv[1]))))
