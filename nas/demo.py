"""The whole job on a laptop: search, retrain, and compare with what needs no search.

`make demo` runs it. Everything happens through the two entry points, as a user would do it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import search_spaces
from nas.report.run_report import render_report
from nas.runs.files import write_json
from search_spaces import Genotype, SearchSpace
from search_spaces.cell import candidate_parameters


def main() -> int:
    """Entry point; returns the exit code of the first step that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", default="runs/demo", help="folder for the runs (replaced if it exists)")
    parser.add_argument("--space", default="nasbench201", help="search space (default: nasbench201)")
    parser.add_argument("--random", type=int, default=8, help="random architectures (default: 8)")
    parser.add_argument("--epochs", type=int, help="epochs of every run (default: those of the recipes)")
    arguments = parser.parse_args()
    if arguments.random < 1:
        parser.error("--random must be at least 1")
    try:
        demonstrate(Path(arguments.out), arguments.space, arguments.random, arguments.epochs)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def demonstrate(out: Path, space_name: str, count: int, epochs: int | None) -> None:
    """Search, retrain the found cell and `count` random ones the same way, and print the outcome."""
    started = time.perf_counter()
    length = [] if epochs is None else ["--epochs", str(epochs)]
    print(
        f"1/3 searching {space_name} on scikit-learn's digits: ReinMax, then short trainings of 8 cells",
        flush=True,
    )
    rule = ["--policy", "uniform", "--derive", "halving:8"]
    entry_point("train_search", "--space", space_name, *rule, "--out", str(out / "search"), *length)

    print("2/3 training the cell that was found, from scratch", flush=True)
    genotype = str(out / "search" / "genotype.json")
    entry_point("train_final", "--genotype", genotype, "--out", str(out / "final"), *length)

    print(f"3/3 training the largest cell and {count} random ones the same way", flush=True)
    space = search_spaces.get(space_name)
    cells = {f"random-{seed}": space.random(random.Random(seed)) for seed in range(count)}
    cells["largest"] = largest(space)

    def train(name: str) -> float:
        folder = out / name
        entry_point(
            "train_final", "--genotype", space.format(cells[name]), "--space", space_name,
            "--out", str(folder), "--threads", "1", "--no-tensorboard", *length, quiet=True,
        )  # fmt: skip
        return float(read(folder / "result.json")["test_accuracy"])

    with ThreadPoolExecutor(2) as pool:
        *accuracies, of_largest = pool.map(train, cells)

    result = read(out / "final" / "result.json")
    result["baseline"] = {
        "largest_accuracy": of_largest,
        "random_mean": mean(accuracies),
        "random_std": stdev(accuracies) if count > 1 else 0.0,
        "random_accuracies": accuracies,
    }
    write_json(out / "final" / "result.json", result)
    render_report(out / "final")
    spread = f" ± {result['baseline']['random_std']:.2f}" if count > 1 else ""
    print(
        f"\ncell found     {result['genotype']}\ntest accuracy  {result['test_accuracy']:.2f} %  (last "
        f"epoch; no picking on the test set)\nrandom cells   {mean(accuracies):.2f}{spread} %  ({count} "
        f"cells, same training)\nlargest cell   {of_largest:.2f} %  (no search, same "
        f"training)\nreports        {out / 'search' / 'report.html'}, "
        f"{out / 'final' / 'report.html'}\ntime           {time.perf_counter() - started:.0f} s"
    )


def largest(space: SearchSpace) -> Genotype:
    """The architecture of which every slot holds the candidate with most parameters."""
    with torch.device("meta"):
        supernet = space.supernet(cells=space.fewest_cells)
    return space.discretise(candidate_parameters(supernet, space.num_slots, space.width).double())


def entry_point(module: str, *arguments: str, quiet: bool = False) -> None:
    """Run an entry point in a process of its own; raises CalledProcessError when it fails."""
    subprocess.run(
        [sys.executable, "-m", module, *arguments, "--overwrite"],
        check=True,
        stdout=subprocess.DEVNULL if quiet else None,
    )


def read(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
