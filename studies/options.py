"""The options of the levels of ablate.py that are here and not in the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recipes.ablation import AblationOptions
from recipes.options import option


@dataclass(kw_only=True)
class TasksOptions(AblationOptions):
    """Estimators on the tasks of the ReinMax paper: polynomials, a categorical VAE, latent trees."""

    command: ClassVar[str] = "tasks"

    seed: int = option(0, at_least=0, at_most=2**62)
    """First seed of weights and draws; also that of the generated data."""
    seeds: int = option(3, at_least=1, at_most=10_000)
    """Runs of the chosen setting of every estimator, with the seeds from --seed on."""
    tasks: tuple[str, ...] = ()
    """Any of polynomial, listops and vae (default: all, vae only with --data or --download)."""
    estimators: tuple[str, ...] = ()
    """Names of discrete estimators (default: all that fit a task)."""
    data: str | None = None
    """Folder that holds MNIST/raw as torchvision stores it (with --download by default: data)."""
    download: bool = False
    """Fetch MNIST if it is missing."""
    polynomial_steps: int = option(500, at_least=1)
    """Steps of a run on a polynomial."""
    listops_steps: int = option(1500, at_least=1)
    """Steps of a run on ListOps, of 64 expressions each."""
    vae_epochs: int = option(2, at_least=1)
    """Epochs of a run of the auto-encoder, of 50,000 images each."""
    vae_shapes: tuple[str, ...] = ("8x4", "4x24", "8x16")
    """Auto-encoders: values of a latent variable, x, number of latent variables."""
    jobs: int = option(2, at_least=1, at_most=1_024)
    """Runs at the same time, each with --threads threads (default: 1)."""


@dataclass(kw_only=True)
class TruthOptions(AblationOptions):
    """Train every cell of a space on digits from scratch and write the table of their accuracies."""

    command: ClassVar[str] = "truth"

    space: str = "micro"
    """Search space: micro or nasbench201."""
    jobs: int = option(2, at_least=1, at_most=1_024)
    """Processes that train at the same time."""
    table: str | None = None
    """File that the table is written to (default: truth.json.gz in --out)."""
    reference: str | None = None
    """Table of the same space to compare with, such as published accuracies: CSV or JSON."""
