"""The options of the levels of ablate.py that come with the package; studies.options has the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from recipes.options import option


@dataclass(kw_only=True)
class AblationOptions:
    """Options that all levels share.

    Attributes:
        command: the word on the command line that chooses the level.
        quoted: options whose value is a command line itself.
        interrupted: advice where Ctrl-C ends it.
    """

    command: ClassVar[str]
    quoted: ClassVar[tuple[str, ...]] = ()
    interrupted: ClassVar[str] = "finished parts are kept, the same command goes on"

    out: str | None = None
    """Folder of the results; by default runs/ablation-COMMAND."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are imported first, as for train_search.py: what they register can be
    named in the other options."""
    threads: int | None = option(None, at_least=1, at_most=1024)
    """CPU threads of a process (default: all cores; one in nas, tasks and truth, whatever their --jobs)."""


@dataclass(kw_only=True)
class GradientOptions(AblationOptions):
    """Bias, spread and direction of every estimator against the exact gradient of small problems."""

    command: ClassVar[str] = "gradient"

    estimators: tuple[str, ...] = ()
    """Estimators, with settings if wanted: reinmax gumbel_rao:samples=20 (default: all)."""
    seed: int = option(0, at_least=0, at_most=2**63 - 1)
    """Seed of problems and draws."""
    problems: int = option(80, at_least=1, at_most=1_000_000)
    """Random problems per objective; results are medians over them."""
    draws: int = option(1000, at_least=1, at_most=1_000_000)
    """Estimates per problem and estimator, at least 20."""
    price: float = option(5.0, at_least=1, at_most=1e6)
    """Forward passes of a drawn architecture that one pass with the exact gradient at the draw costs;
    `python -m benchmarks.price` measures it."""
    mixture_price: float = option(10.0, at_least=1, at_most=1e6)
    """Forward passes of a drawn architecture that a forward and backward pass of all candidates costs, which
    dense relaxations need."""


LOCAL_JOBS = 2  # runs at the same time on one machine, unless told otherwise


@dataclass(kw_only=True)
class GridOptions(AblationOptions):
    """Searches: estimators x seeds on a space and a data set, every found cell looked up or retrained."""

    command: ClassVar[str] = "nas"
    quoted: ClassVar[tuple[str, ...]] = ("--search", "--final")

    space: str = "micro"
    """Search space: micro, nasbench201, nasbench_macro (with --table) or, only with --evaluate retrain, any
    other."""
    dataset: str = "digits"
    """Data set of the searches, as for train_search.py."""
    methods: tuple[str, ...] = (
        "reinmax",
        "st",
        "st_gumbel",
        "gumbel_rao",
        "gst",
        "softmax",
        "reinforce_loo",
    )
    """Estimators, each with settings of its own and options of train_search.py if wanted:
    gumbel_rao,samples=20,draws=4 or st_gumbel,edge_gradient=surrogate; a semicolon is a comma within a value:
    'st,derive=halving:6;draws=50'. The others are compared with the first."""
    seeds: int = option(5, at_least=1, at_most=10_000)
    """Searches with every method; their seeds count from --first-seed."""
    first_seed: int = option(0, at_least=0, at_most=2**62)
    """Seed of the first search of every method: what was tuned on some seeds is reported on others."""
    search: str = ""
    """More options of train_search.py for all, in one word: '--epochs 20 --device cuda'; a method's own
    options win over them. With '--preset NAME' in it, that recipe takes the place of the built-in one for
    digits."""
    evaluate: Literal["truth", "retrain"] = "truth"
    """truth: look the cell up in a table of all cells; retrain: train it from scratch."""
    table: str | None = None
    """Table for --evaluate truth: CSV or CSV.gz with columns arch, cifar10, ..., of which index, std,
    parameters and macs are no accuracies, or a table written by `ablate.py truth` (default: the one that
    comes along)."""
    column: str | None = None
    """Column of a CSV table (default: cifar10)."""
    table_values: Literal["auto", "percent", "fraction", "error", "error_fraction"] = "auto"
    """What the column holds: accuracies in % or as fractions (auto: as all of them show), or errors."""
    final: str = ""
    """For --evaluate retrain: options of train_final.py, as in --search."""
    random_cells: int = option(8, at_least=0, at_most=10_000)
    """For --evaluate retrain: random cells of the space that are trained like those that were found, to
    compare with."""
    evaluations: int | None = option(None, at_least=1)
    """Cells that random search may train (default: as many as see the images of one search)."""
    zero_cost: tuple[str, ...] | None = None
    """Scores of untrained networks that the searches are compared with, on every cell of the table: synflow,
    naswot, zico, or naswot:images=64; without a value none (default: all of them in spaces of at most 1,000
    different cells, such as micro, else synflow)."""
    measure: int | None = option(None, at_least=0)
    """Moments of a search, at most, at which the architecture gradient of every estimator is measured
    (default: 4 in micro, else 0); searches that minimise the error have none."""
    rank_cells: int = option(0, at_least=0)
    """Cells, drawn at random, that every finished search orders by its shared weights, against the table;
    0: none. Each takes a pass over the validation part, in the process of the grid, one search after the
    other; only hundreds of them say something of the best tenth."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """Where the runs are done: on this machine, on a Ray cluster, or as Slurm jobs. On a cluster the
    folders of results and data must be the same on every node (a shared file system)."""
    jobs: int | None = option(None, at_least=1, at_most=1_024)
    """Most runs at the same time (default: 2 on this machine, what there is room for on a cluster)."""
    retries: int = option(3, at_least=0)
    """How often a run goes on after it was killed; also after its worker or node was lost (ray), or
    its time was up (slurm)."""
    address: str | None = None
    """Address of a running Ray cluster, or auto for the one on this machine (default: RAY_ADDRESS; a
    cluster of this machine, started for the occasion, where that is not set)."""
    cpus_per_run: int | None = option(None, at_least=1)
    """CPUs that ray or slurm set aside for a run (default: its --threads)."""
    gpus_per_run: float | None = option(None, at_least=0)
    """GPUs that ray or slurm set aside for a run; ray also gives parts, such as 0.25 (default: none)."""
    partition: str | None = None
    """Partition of the Slurm jobs."""
    time: int | None = option(None, at_least=1)
    """Minutes that a Slurm job may last (default: a day); what is unfinished then is queued again."""


@dataclass(kw_only=True)
class RankOptions(AblationOptions):
    """What the shared weights of searches know: how they order the cells of a space that has a table."""

    command: ClassVar[str] = "rank"

    runs: Positional[Annotated[tuple[str, ...], arg(metavar="RUN ...")]] = ()
    """Folders of searches, each taken at its last checkpoint; finished or not."""
    epochs: tuple[str, ...] = ()
    """Epochs after which the weights are taken as well: numbers, or all. Searches keep them with
    --keep-weights-every (default: none)."""
    table: str | None = None
    """Table of true accuracies, as for `ablate.py nas` (default: the one that comes along)."""
    column: str | None = None
    """Column of a CSV table (default: cifar10)."""
    table_values: Literal["auto", "percent", "fraction", "error", "error_fraction"] = "auto"
    """What the column holds: accuracies in % or as fractions (auto: as all of them show), or errors."""
    cells: int | None = option(None, at_least=3)
    """Most cells that are scored, drawn at random from those that differ (default: 1,000). With more cells
    and the same seed, those that were scored are among them."""
    seed: int = option(0, at_least=0, at_most=2**63 - 1)
    """Seed of the draw of cells."""
