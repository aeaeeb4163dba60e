"""What the shared weights of a search know: `python ablate.py rank RUN...`.

Every cell that differs, or a sample of them, is run with the weights of the supernet on the validation part.
The loss and the accuracy there order the cells; a table says how they should be ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ablation import ranking_report
from ablation.cell_file import held
from ablation.parameter_count import counter
from ablation.rank_statistics import FEWEST, Mark, Ranking, choice, correlations, orders_of
from ablation.shared_scores import Scores, fingerprint
from nas import device, tables
from nas.api import SearchResult
from nas.bilevel.search import Search
from nas.genotypes import cells_of
from nas.runs import checkpoint
from nas.runs.files import read_json
from nas.runs.interruption import Interruption
from nas.seeding import kept_generators
from nas.tables import Truth
from nas.tables.agreement import top
from nas.tables.lookup import distinct, enumerable
from recipes import InputError, InterruptionError, SearchOptions
from recipes.ablation import RankOptions
from recipes.config_file import starting_options
from recipes.options import check
from search_spaces import Genotype
from search_spaces.space import EnumerableSpace

CELLS = 1_000  # scored unless told otherwise
RANDOM = (10, 50)  # cells of the random searches beside
BEST = 0.1  # share of the space that the second part is
FILE = "scores.csv"


def run(options: RankOptions) -> None:
    """Score the cells with the weights of every run and write the report. Raises InputError, or
    InterruptionError where a signal came."""
    if not options.runs:
        raise InputError("no run is given, expected folders of searches: ablate.py rank RUN RUN ...")
    if options.column is not None and options.table is None:
        raise InputError("`column` is that of a table: give `table`, too")
    paths = [Path(name) for name in options.runs]
    resolved = [path.resolve() for path in paths]
    for path, real in zip(paths, resolved, strict=True):
        if resolved.count(real) > 1:
            raise InputError(f"the run {path} is given twice: drop one")
    table = _common_table(paths, options)
    folder = Path(options.out or f"runs/ablation-{options.command}")
    names = _names(paths)
    try:
        with Interruption(raises=True):
            rankings = [
                _rank_folder(
                    path, table, options.cells, options.seed, folder, options.plugins,
                    threads=options.threads, name=name,
                )
                for path, name in zip(paths, names, strict=True)
            ]  # fmt: skip
    except KeyboardInterrupt:
        raise InterruptionError("the scores so far are kept, the same command goes on") from None
    ranking_report.write(folder, rankings, asdict(options))
    print(f"report {folder / 'report.html'}")


def rank(
    search: Search | SearchResult | str | Path,
    table: Truth | str | Path | None = None,
    *,
    column: str | None = None,
    cells: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    progress: bool | None = None,
) -> Ranking:
    """How well the shared weights of a search order its space.

    Args:
        search: the folder of a run, taken at its last checkpoint, or a search as it is now.
        table: true accuracies, or a file of them; by default the table that comes with the package.
        column: of a table that is a CSV file.
        cells: most cells that are scored, drawn at random; None: 1,000.
        seed: of the draw; with more cells, those of fewer are among them.
        out: folder for scores.csv, which every score is added to and which a second call goes on from.
        plugins: those of a run's folder; see `nas.search`.
        progress: whether to show a bar; None: on a terminal.

    Raises:
        InputError: no such run, table or number of cells; or `out` holds scores of other weights.
    """
    if cells is not None and (type(cells) is not int or cells < FEWEST):
        raise InputError(f"`cells` is {cells!r}, expected an integer of at least {FEWEST}")
    if type(seed) is not int or seed < 0:
        raise InputError(f"`seed` is {seed!r}, expected an integer of at least 0")
    if isinstance(search, str | Path):
        if not isinstance(table, Truth):
            options = _options(Path(search), plugins)
            table = _table(table, options.space, options.dataset, column)
        return _rank_folder(Path(search), table, cells, seed, out, plugins, progress)
    if isinstance(search, SearchResult):
        job, found = search.search, search.genotype
    elif isinstance(search, Search):
        job, found = search, search.space.discretise(search.architecture.log_probabilities())
    else:
        raise InputError(
            f"`search` is {repr(search)[:60]}, expected the folder of a run, or what nas.search returns"
        )
    if not isinstance(table, Truth):
        table = _table(table, job.space.name, job.options.dataset, column)
    with kept_generators(), _scored(out, "search", job) as scores:
        return _rank(job, found, table, cells, seed, scores, "search", None, progress)


def _table(table: str | Path | None, space: str, dataset: str, column: str | None) -> Truth:
    if table is None:
        if column is not None:
            raise InputError("`column` is that of a table: give `table`, too")
        enumerable(space)
        return tables.packaged(space, dataset)
    return tables.read(Path(table), space, column)


def _common_table(paths: Sequence[Path], options: RankOptions) -> Truth:
    """The table of all runs. Raises InputError where they have none in common."""
    runs = [_options(path, options.plugins) for path in paths]
    for path, other in zip(paths, runs, strict=True):
        if other.space != runs[0].space:
            raise InputError(
                f"{path} searches the space '{other.space}' and {paths[0]} '{runs[0].space}': give runs "
                "of one space"
            )
        if options.table is None and other.dataset != runs[0].dataset:
            raise InputError(
                f"{path} searches on {other.dataset} and {paths[0]} on {runs[0].dataset}: give a `table`, or "
                "runs on one data set"
            )
    return _table(options.table, runs[0].space, runs[0].dataset, options.column)


def _names(paths: Sequence[Path]) -> list[str]:
    """What pictures call the runs: their folders, with what is above where they are called alike."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


# Opening a search


def _options(folder: Path, plugins: Sequence[str]) -> SearchOptions:
    """The options of the search in a folder. Raises InputError where there is none."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not the folder of a run (no config.json): check the path")
    stored, _ = starting_options(SearchOptions, {"resume": True, "out": folder, "plugins": plugins})
    return check(SearchOptions(**stored))


def _rank_folder(
    folder: Path,
    table: Truth,
    cells: int | None,
    seed: int,
    out: str | Path | None,
    plugins: Sequence[str],
    progress: bool | None = None,
    threads: int | None = None,
    name: str | None = None,
) -> Ranking:
    """`rank` of a folder of a run."""
    options = _options(folder, plugins)
    saved, damage = checkpoint.load(folder)
    if saved is None:
        raise InputError(f"{folder} has no checkpoint yet: let the search do at least one epoch")
    if damage is not None:
        tqdm.write(f"note: {damage}; the checkpoint before it is taken")
    with ExitStack() as stack:
        place = stack.enter_context(
            device.prepared(options.device, threads or options.threads, options.deterministic)
        )
        search = Search.of(options, place=place)
        search.restore(saved["state"])
        found = search.space.discretise(search.architecture.log_probabilities())
        if (folder / "result.json").exists():
            found = search.space.parse(read_json(folder / "result.json")["genotype"])
        scores = stack.enter_context(_scored(out, str(folder.resolve()), search))
        position = saved["epoch"], saved["step"]
        return _rank(search, found, table, cells, seed, scores, name or folder.name, position, progress)


@contextmanager
def _scored(out: str | Path | None, run: str, search: Search) -> Iterator[Scores]:
    """The scores of a run in a folder, which is kept from others meanwhile."""
    weights = fingerprint(search.supernet.state_dict())
    if out is None:
        yield Scores(None, run, weights)
        return
    folder = Path(out)
    if (folder / "config.json").exists():
        raise InputError(f"{folder} is the folder of a run: give another `out`")
    with held(folder):
        yield Scores(folder / FILE, run, weights)


# Ranking


def _rank(
    search: Search,
    found: Genotype,
    table: Truth,
    cells: int | None,
    seed: int,
    scores: Scores,
    name: str,
    position: tuple[int, int] | None,
    progress: bool | None,
) -> Ranking:
    space = enumerable(search.space.name)
    if table.space != space.name:
        raise InputError(f"`table` is of the space '{table.space}', expected '{space.name}'")
    count = counter(
        space,
        channels=search.options.channels,
        cells=cells_of(space, search.options.cells),
        num_classes=search.task.outputs,
        in_channels=search.dataset.in_channels,
    )
    everyone = distinct(space)
    sizes = np.array([count(cell) for cell in everyone])
    truths = np.array([table.lookup(cell).accuracy for cell in everyone])
    drawn = np.random.default_rng(seed).permutation(len(everyone))[: cells or CELLS]
    largest = int(sizes.argmax())
    alike = _alike(space, everyone, found)
    wanted = [everyone[i] for i in [*drawn.tolist(), largest]] + ([] if alike is None else [alike])
    _score(search, space, wanted, scores, count, name, progress)

    def score(cell: Genotype) -> tuple[float, float]:
        return scores.known[space.format(cell)]

    chosen = [everyone[i] for i in drawn]
    loss, accuracy = np.array([score(cell) for cell in chosen]).T
    truth, parameters = truths[drawn], sizes[drawn]
    best = top(truths, BEST)[drawn]
    orders = orders_of(loss, accuracy, parameters)
    optimum, texts = table.optimum[1].accuracy, [space.format(cell) for cell in chosen]
    shown = np.nan if alike is None else score(alike)[0]
    return Ranking(
        name=name,
        space=space.name,
        epoch=None if position is None else position[0],
        step=None if position is None else position[1],
        differ=len(everyone),
        cells=texts,
        truth=truth,
        loss=loss,
        accuracy=accuracy,
        parameters=parameters,
        best=best,
        correlations=correlations(orders, truth, best),
        choices=[choice(name, order, truth, texts, optimum) for name, order in orders.items()],
        largest=Mark(space.format(everyone[largest]), float(truths[largest]), score(everyone[largest])[0]),
        found=Mark(space.format(found), table.lookup(found).accuracy, float(shown)),
        optimum=optimum,
        random={n: table.best_of(n) for n in RANDOM},
        source=table.source,
    )


def _alike(space: EnumerableSpace, cells: Sequence[Genotype], cell: Genotype) -> Genotype | None:
    """The one of the cells that computes the same; None where there is none: it ignores its input."""
    form = space.canonical(cell)
    return next((other for other in cells if space.canonical(other) == form), None)


def _score(
    search: Search,
    space: EnumerableSpace,
    cells: Sequence[Genotype],
    scores: Scores,
    count: Callable[[Genotype], int],
    name: str,
    progress: bool | None,
) -> None:
    """Score the cells that have no score yet."""
    named = {space.format(cell): cell for cell in cells}
    missing = {text: cell for text, cell in named.items() if text not in scores.known}
    with tqdm(
        total=len(named), initial=len(named) - len(missing), desc=f"scoring with {name}", unit="cell",
        disable=None if progress is None else not progress,
    ) as bar:  # fmt: skip
        for text, cell in missing.items():
            scores.add(text, search.score(cell), count(cell))
            bar.update()
