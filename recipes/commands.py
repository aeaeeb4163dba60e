"""The command `nas`: its subcommands by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recipes.command_line import Command, Commands

SEARCH = Command("recipes.options:SearchOptions", "nas.entry:search")
TRAIN = Command("recipes.options:FinalOptions", "nas.entry:train")
ABLATE = Commands(
    "Compare gradient estimators, alone and in searches.",
    {
        "gradient": Command("recipes.ablation:GradientOptions", "ablation.gradient:run"),
        "tasks": Command("studies.options:TasksOptions", "studies.tasks.tasks:run"),
        "nas": Command("recipes.ablation:GridOptions", "ablation.grid:run"),
        "rank": Command("recipes.ablation:RankOptions", "ablation.ranking:run"),
        "truth": Command("studies.options:TruthOptions", "studies.truth.build:run"),
    },
)
NAS = Commands(
    "",
    {
        "search": SEARCH,
        "train": TRAIN,
        "ablate": ABLATE,
        "export": Command("recipes.deploy:ExportOptions", "nas.deploy.export:run"),
        "predict": Command("recipes.deploy:PredictOptions", "nas.deploy.predict:run"),
        "latency": Command("recipes.latency:LatencyOptions", "nas.latency:run"),
        "convert": Command("recipes.convert:ConvertOptions", "nas.conversion:run"),
        "presets": Command("recipes.preset_list:PresetsOptions", "recipes.preset_list:run"),
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    before, sys.argv = sys.argv, ["nas", *argv]  # which a run writes down, also that of `python -m nas`
    try:
        return NAS.main(argv, "nas")
    finally:
        sys.argv = before
