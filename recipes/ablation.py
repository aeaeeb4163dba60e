"""The options of the levels of ablate.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(kw_only=True)
class AblationOptions:
    """Options that all levels share."""

    command: ClassVar[str]

    out: str | None = None
    """Folder of the results; by default runs/ablation-COMMAND."""
    threads: int | None = None
    """CPU threads of a process (default: all cores, in the grid one for each job)."""


@dataclass(kw_only=True)
class GradientOptions(AblationOptions):
    """Bias, spread and direction of every estimator against the exact gradient of small problems."""

    command: ClassVar[str] = "gradient"

    seed: int = 0
    """Seed of problems and draws."""
    problems: int = 80
    """Random problems per objective; results are medians over them."""
    draws: int = 1000
    """Estimates per problem and estimator, at least 20."""


@dataclass(kw_only=True)
class TasksOptions(AblationOptions):
    """Estimators on the tasks of the ReinMax paper: polynomials, a categorical VAE, latent trees."""

    command: ClassVar[str] = "tasks"

    seed: int = 0
    """Seed of data, weights and draws."""


@dataclass(kw_only=True)
class TruthOptions(AblationOptions):
    """Train every cell of a space on digits from scratch and write the table of their accuracies."""

    command: ClassVar[str] = "truth"

    space: str = "micro"
    """Search space: micro or nasbench201."""
    jobs: int = 2
    """Processes that train at the same time."""
    table: str | None = None
    """File that the table is written to (default: truth.json.gz in --out)."""
    reference: str | None = None
    """Table of the same space to compare with, such as published accuracies: CSV or JSON."""
