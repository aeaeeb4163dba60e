"""Estimators compared on digits: python docs/results/digits.py [--out runs/digits] [--seeds 5].

Searches with every estimator and seed in nasbench201 and micro, trains each cell that was found from
scratch in two settings, and does the same with 8 random cells of the space. Every run is an ordinary
run folder made by the two entry points; finished ones are not repeated. Writes digits.md beside this
file and the single figures to OUT/digits.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import search_spaces

SPACES = ("nasbench201", "micro")
ESTIMATORS = ("reinmax", "st_gumbel", "st", "softmax")
RANDOM_CELLS = 8
SETTINGS = {
    "C = 16, 1,438 images": [],
    "C = 8, 400 images": ["--channels", "8", "--train-limit", "400"],
}


def run(module: str, out: Path, *arguments: str) -> dict:
    """Result of an entry point in folder `out`, run unless it has finished before."""
    command = [
        sys.executable,
        "-m",
        module,
        *arguments,
        "--threads",
        "1",
        "--no-tensorboard",
        "--out",
        str(out),
    ]
    if (out / "config.json").exists():
        command.append("--resume")
    if not (out / "result.json").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "result.json").read_text())


def train(genotype: str, space: str, seed: int, out: Path) -> list[float]:
    """Test accuracy (%) of a cell in each setting."""
    arguments = ["--genotype", genotype, "--space", space, "--seed", str(seed)]
    return [
        run("train_final", out / f"final-{i}", *arguments, *extra)["test_accuracy"]
        for i, extra in enumerate(SETTINGS.values())
    ]


def searched(out: Path, space: str, estimator: str, seed: int) -> dict:
    """One search and the training of the cell it found."""
    folder = out / f"{space}-{estimator}-s{seed}"
    found = run(
        "train_search", folder / "search", "--space", space, "--estimator", estimator, "--seed", str(seed)
    )
    accuracies = train(found["genotype"], space, seed, folder)
    return {
        "space": space,
        "method": estimator,
        "seed": seed,
        "genotype": found["genotype"],
        "accuracies": accuracies,
    }


def drawn(out: Path, space: str, index: int, seed: int) -> dict:
    """The training of a random cell."""
    text = search_spaces.get(space).format(search_spaces.get(space).random(random.Random(index)))
    accuracies = train(text, space, seed, out / f"{space}-random-{index}-s{seed}")
    return {"space": space, "method": "random", "seed": seed, "genotype": text, "accuracies": accuracies}


def table(rows: list[dict], seeds: int) -> str:
    """The results as Markdown."""
    lines = [
        "# Estimators on digits",
        "",
        f"Command: `python docs/results/digits.py --seeds {seeds}` (torch {version()}, "
        f"{platform.machine()}, one thread a run).",
        "",
        f"Test accuracy (%) of the last epoch on 359 images, mean ± standard deviation: {seeds} searches per "
        f"estimator (recipe `quick`), each cell trained from scratch once with the seed of its search; "
        f"{RANDOM_CELLS} random cells, each trained with all {seeds} seeds.",
        "",
        f"| space | cells from | {' | '.join(SETTINGS)} |",
        "| --- | --- |" + " --- |" * len(SETTINGS),
    ]
    for space in SPACES:
        for method in (*ESTIMATORS, "random"):
            chosen = [row["accuracies"] for row in rows if (row["space"], row["method"]) == (space, method)]
            cells = [f"{mean(column):.2f} ± {stdev(column):.2f}" for column in zip(*chosen, strict=True)]
            lines.append(f"| {space} | {method} | {' | '.join(cells)} |")
    lines += ["", "## Cells found", "", "| space | estimator | seed | cell |", "| --- | --- | --- | --- |"]
    for row in rows:
        if row["method"] != "random":
            cell = row["genotype"].replace("|", "\\|")
            lines.append(f"| {row['space']} | {row['method']} | {row['seed']} | {cell} |")
    return "\n".join(lines) + "\n"


def version() -> str:
    """Version of torch, without importing it here."""
    from importlib.metadata import version

    return version("torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    out, seeds = arguments.out, range(arguments.seeds)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [
            pool.submit(searched, out, space, estimator, seed)
            for space in SPACES
            for estimator in ESTIMATORS
            for seed in seeds
        ] + [
            pool.submit(drawn, out, space, index, seed)
            for space in SPACES
            for index in range(RANDOM_CELLS)
            for seed in seeds
        ]
        rows = [future.result() for future in futures]
    (out / "digits.json").write_text(json.dumps(rows, indent=1))
    text = table(rows, arguments.seeds)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
