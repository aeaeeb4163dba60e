"""How well does the supernet of a finished search know the space?

    python docs/results/supernet_ranking.py RUN...

For every run folder of a search in micro on digits: Spearman's rank correlation, over all connected cells,
of the accuracy with shared weights on the validation part with the accuracy of the shipped table, and of
the loss likewise; the true accuracy of the cell with the lowest loss; and the found cell's rank by loss.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from nas import tables
from nas.bilevel.search import Search
from nas.runs import checkpoint
from nas.tables.lookup import enumerable
from recipes import SearchOptions, command_line

known = tables.packaged("micro", "digits")
space = enumerable("micro")
cells = [cell for cell in space.all() if "0" in space.canonical(cell)]
accuracies = np.array([known.lookup(cell).accuracy for cell in cells])
torch.set_num_threads(1)
for run in map(Path, sys.argv[1:]):
    options = command_line.parse(SearchOptions, ["--config", str(run / "config.json"), "--out", str(run)])
    search = Search.of(options)
    saved, _ = checkpoint.load(run)
    assert saved is not None
    search.restore(saved["state"])
    losses, shared = np.array([search.score(cell) for cell in cells]).T
    best = cells[int(losses.argmin())]
    found = cells.index(space.parse(json.loads((run / "genotype.json").read_text())["text"]))
    better = int((losses < losses[found]).sum())
    print(
        f"{run.name}: rho(accuracy) {spearmanr(shared, accuracies).statistic:.2f}, "
        f"rho(-loss) {spearmanr(-losses, accuracies).statistic:.2f}, lowest loss {space.format(best)} "
        f"with {known.lookup(best).accuracy:.2f} %, the found cell is number {better + 1}"
    )
