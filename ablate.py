"""Compare gradient estimators: `python ablate.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from recipes import command_line
from recipes.ablation import AblationOptions, GradientOptions, GridOptions, TasksOptions, TruthOptions

LEVELS: dict[str, tuple[type[AblationOptions], str]] = {
    "gradient": (GradientOptions, "ablation.gradient"),
    "tasks": (TasksOptions, "studies.tasks.tasks"),
    "nas": (GridOptions, "ablation.grid"),
    "truth": (TruthOptions, "studies.truth.build"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return command_line.main_of(
        "ablate.py", {name: (options, _late(module)) for name, (options, module) in LEVELS.items()}, argv
    )


def _late(module: str) -> Any:
    """`module.run`, imported when called, so that --help and bad options answer at once."""
    return lambda options: import_module(module).run(options)


if __name__ == "__main__":
    sys.exit(main())
