"""ReinMax against ST-Gumbel-softmax on CIFAR-10 in nasbench201, looked up in the benchmark.

    python docs/results/cifar10.py --dataset cifar10 --table nats_tss_test_accuracy.csv.gz

Searches with the full recipe (250 epochs, C = 16, N = 5) for every method and seed and looks the cells
up in a table with the columns index, arch, cifar10, cifar100, imagenet16-120 (test accuracy in %).
Every search is an ordinary run folder: finished ones are not repeated, killed ones continue. Writes
cifar10.md beside this file. Meant for a GPU.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, median

METHODS = {
    "reinmax": ["--estimator", "reinmax"],
    "st_gumbel": ["--estimator", "st_gumbel"],
    "gdas": ["--estimator", "st_gumbel", "--edge-gradient", "surrogate"],
}
TASKS = ("cifar10", "cifar100", "imagenet16-120")


def read_table(path: Path) -> dict[str, dict[str, float]]:
    """Test accuracies (%) of every architecture string."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        return {row["arch"]: {task: float(row[task]) for task in TASKS} for row in csv.DictReader(file)}


def search(method: str, seed: int, arguments: argparse.Namespace) -> dict:
    """Result of one search, run or continued unless it has finished before."""
    out = arguments.out / f"{method}-s{seed}"
    command = [sys.executable, "-m", "train_search", "--out", str(out)]
    if (out / "config.json").exists():
        command.append("--resume")
    else:
        command += [
            "--preset",
            "nasbench201-gdas",
            *METHODS[method],
            "--seed",
            str(seed),
            "--dataset",
            arguments.dataset,
        ]
        command += ["--data-root", arguments.data_root, *arguments.extra]
    if not (out / "result.json").exists():
        subprocess.run(command, check=True)
    result = json.loads((out / "result.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    result["epoch_seconds"] = median(line["epoch_seconds"] for line in lines)
    result["epochs"] = len(lines)
    environment = json.loads((out / "environment.json").read_text())
    result["machine"] = environment["gpu"] or environment["platform"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", help="cifar10 or folder:PATH")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--table", type=Path, required=True, help="CSV or CSV.gz of the benchmark")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("extra", nargs="*", help="more options for train_search.py, after --")
    arguments = parser.parse_args()
    table = read_table(arguments.table)
    lines = [
        "# nasbench201 on CIFAR-10",
        "",
        f"| method | seed | epochs | {' | '.join(TASKS)} | s / epoch | peak GiB | machine | cell |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in arguments.methods:
        found = []
        for seed in range(arguments.seeds):
            result = search(method, seed, arguments)
            truth = table[result["genotype"]]
            found.append(truth)
            accuracies = " | ".join(f"{truth[task]:.2f}" for task in TASKS)
            cell = result["genotype"].replace("|", "\\|")
            lines.append(
                f"| {method} | {seed} | {result['epochs']} | {accuracies} | {result['epoch_seconds']:.1f} | "
                f"{result['peak_memory_bytes'] / 2**30:.2f} | {result['machine']} | {cell} |"
            )
        means = " | ".join(f"{mean(truth[task] for truth in found):.2f}" for task in TASKS)
        lines.append(f"| **{method}** | mean | | {means} | | | | |")
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
