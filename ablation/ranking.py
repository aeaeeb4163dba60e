"""What the shared weights of a search know: `python ablate.py rank RUN...`.

Every cell that differs, or a sample of them, is run with the weights of the supernet on the validation part.
The loss and the accuracy there order the cells; a table says how they should be ordered. The weights are
those of the last checkpoint, and, where the search has kept them, those after earlier epochs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from tqdm import tqdm

from ablation import ranking_report
from ablation.cell_file import held
from ablation.rank_statistics import FEWEST, Ranking
from ablation.ranker import Field, Ranker
from ablation.shared_scores import ScoreFile
from nas import device, tables
from nas.api import SearchResult
from nas.bilevel.search import Search
from nas.runs import checkpoint, kept
from nas.runs.files import read_json, read_json_lines
from nas.runs.interruption import Interruption
from nas.runs.run_folder import METRICS
from nas.seeding import kept_generators
from nas.tables import Truth
from nas.tables.lookup import enumerable
from nas.tables.units import Values
from recipes import InputError, InterruptionError, SearchOptions
from recipes.ablation import RankOptions
from recipes.config_file import starting_options
from recipes.options import check
from search_spaces import Genotype

FILE = "scores.csv"
Epochs = Sequence[int] | Literal["all"]
States = tuple[list[int], bool]
"""What of a search to rank by: its weights after epochs, ascending, and whether the last ones, too."""


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
    wanted = _epochs(options.epochs)
    table = _common_table(paths, options)
    print(f"table: {table.source}", flush=True)
    folder = Path(options.out or f"runs/ablation-{options.command}")
    states = rank_folders(
        paths, Field.of(table, options.cells, options.seed), names=_names(paths), epochs=wanted, out=folder,
        plugins=options.plugins, threads=options.threads,
    )  # fmt: skip
    ranking_report.write(folder, [ranking for run in states for ranking in run], asdict(options))
    print(f"report {folder / 'report.html'}")


def rank_folders(
    paths: Sequence[Path],
    field: Field,
    *,
    names: Sequence[str],
    epochs: Epochs = (),
    out: Path,
    plugins: Sequence[str] = (),
    threads: int | None = None,
) -> list[list[Ranking]]:
    """The rankings by each of several runs: after the epochs, and at the end.

    Args:
        names: what pictures call the runs.
        out: the folder of scores.csv.

    Raises:
        InputError: one of them is no run of a search, or cannot be ranked.
        InterruptionError: a signal came; the scores so far are in `out`.
    """
    states = [_states(path, epochs) for path in paths]  # before an hour is spent on the first
    try:
        with Interruption(raises=True), _scored(out) as scores:
            bar = tqdm(paths, "ranking", unit="run", disable=None)
            return [
                _rank_folder(path, field, scores, chosen, plugins, threads, name)
                for path, chosen, name in zip(bar, states, names, strict=True)
            ]
    except KeyboardInterrupt:
        raise InterruptionError("the scores so far are kept, the same command goes on") from None


def rank(
    search: Search | SearchResult | str | Path,
    table: Truth | str | Path | None = None,
    *,
    epoch: int | None = None,
    column: str | None = None,
    cells: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    progress: bool | None = None,
) -> Ranking:
    """How well the shared weights of a search order its space.

    Args:
        search: the folder of a run, taken at its last checkpoint; what `nas.search` returns; or a search as
            it is now.
        table: true accuracies, or a file of them; by default the table that comes with the package.
        epoch: after which the weights are taken, if the search has kept them (`keep_weights_every`); None:
            the last ones.
        column: of a table that is a CSV file.
        cells: most cells that are scored, drawn at random; None: 1,000.
        seed: of the draw; with more cells, those of fewer are among them.
        out: folder for scores.csv, which every score is added to and which a second call goes on from.
        plugins: those of a run's folder; see `nas.search`.
        progress: whether to show a bar; None: on a terminal.

    Raises:
        InputError: no such run, table, epoch or number of cells.
    """
    wanted, end = ((), True) if epoch is None else ((epoch,), False)
    (found,) = _rank(search, table, wanted, end, column, cells, seed, out, plugins, progress)
    return found


def rank_epochs(
    search: SearchResult | str | Path,
    table: Truth | str | Path | None = None,
    *,
    epochs: Epochs = "all",
    column: str | None = None,
    cells: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
    progress: bool | None = None,
) -> list[Ranking]:
    """How well the shared weights of a search order its space over its epochs, on the same cells.

    Args:
        search: the folder of a run, or what `nas.search` returns.
        epochs: after which the weights are taken, ascending in the answer; `all` that the search has kept
            (`keep_weights_every`). The last weights come last in any case.
        table, column, cells, seed, out, plugins, progress: see `rank`.

    Raises:
        InputError: as `rank`.
    """
    return _rank(search, table, epochs, True, column, cells, seed, out, plugins, progress)


def _rank(
    search: Search | SearchResult | str | Path,
    table: Truth | str | Path | None,
    epochs: Epochs,
    end: bool,
    column: str | None,
    cells: int | None,
    seed: int,
    out: str | Path | None,
    plugins: Sequence[str],
    progress: bool | None,
) -> list[Ranking]:
    """The rankings after the epochs and, if wanted, at the end."""
    if cells is not None and (type(cells) is not int or cells < FEWEST):
        raise InputError(f"`cells` is {cells!r}, expected an integer of at least {FEWEST}")
    if type(seed) is not int or seed < 0:
        raise InputError(f"`seed` is {seed!r}, expected an integer of at least 0")
    if epochs != "all" and not (
        isinstance(epochs, Sequence) and all(type(epoch) is int and epoch > 0 for epoch in epochs)
    ):
        name, given = ("epochs", epochs) if end else ("epoch", epochs[0])
        what = "'all', or integers of at least 1" if end else "an integer of at least 1"
        raise InputError(f"`{name}` is {repr(given)[:60]}, expected {what}")
    if isinstance(search, str | Path):
        folder = Path(search)
        options = _options(folder, plugins)
        table = _table(table, options.space, options.dataset, column)
        states = _states(folder, epochs, end)
        field = Field.of(table, cells, seed)
        with _scored(out) as scores:
            return _rank_folder(folder, field, scores, states, plugins, None, folder.name, progress)
    if not isinstance(search, Search | SearchResult) or (epochs and isinstance(search, Search)):
        raise InputError(
            f"`search` is {repr(search)[:60]}, expected the folder of a run, or what nas.search returns"
        )
    job = search.search if isinstance(search, SearchResult) else search
    table = _table(table, job.space.name, job.options.dataset, column)
    field = Field.of(table, cells, seed)
    with kept_generators(), _scored(out) as scores:
        ranker = Ranker(job, field, scores, "search", "search", progress)
        if isinstance(search, SearchResult):
            return _rank_result(search, ranker, epochs, end)
        return [ranker.rank(job.would_find(), None, None)]


def _rank_result(result: SearchResult, ranker: Ranker, epochs: Epochs, end: bool) -> list[Ranking]:
    """The rankings by a search in memory, whose weights are afterwards what they were."""
    folder, search = result.ended.folder, result.search
    epoch, step, _ = folder.position
    chosen, last = _chosen(epochs, end, folder.kept_epochs(), (epoch, step), "the search")
    rankings = []
    if chosen:
        before = copy.deepcopy(search.state())
        try:
            lines = folder.lines(METRICS)
            rankings = [_rank_kept(ranker, folder.kept_weights(epoch), epoch, lines) for epoch in chosen]
        finally:
            search.restore(before)
    if last:
        rankings.append(ranker.rank(result.genotype, epoch, step))
    return rankings


def _table(
    table: Truth | str | Path | None,
    space: str,
    dataset: str,
    column: str | None,
    values: Values = "auto",
) -> Truth:
    """The true accuracies, given, in a file, or those that come with the package. Raises InputError."""
    if isinstance(table, Truth):
        if table.space != enumerable(space).name:
            raise InputError(f"`table` is of the space '{table.space}', expected '{space}': give another")
        return table
    if table is None:
        for name, given in (("column", column is not None), ("table_values", values != "auto")):
            if given:
                raise InputError(f"`{name}` is that of a table: give `table`, too")
        enumerable(space)
        return tables.packaged(space, dataset)
    return tables.read(Path(table), space, column, values)


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
    return _table(options.table, runs[0].space, runs[0].dataset, options.column, options.table_values)


def _names(paths: Sequence[Path]) -> list[str]:
    """What pictures call the runs: their folders, with what is above where they are called alike."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


# The states of a search


def _epochs(words: Sequence[str]) -> Epochs:
    """The value of `--epochs`. Raises InputError."""
    if tuple(words) == ("all",):
        return "all"
    if not all(re.fullmatch("[1-9][0-9]{0,8}", word) for word in words):
        raise InputError(f"`epochs` is {' '.join(words)[:60]}, expected all, or integers of at least 1")
    return [int(word) for word in words]


def _states(folder: Path, epochs: Epochs, end: bool = True) -> States:
    """The states of a run to rank by. Raises InputError where it has not got them."""
    saved, _ = checkpoint.load(folder)
    if saved is None:
        raise InputError(f"{folder} has no checkpoint yet: let the search do at least one epoch")
    return _chosen(epochs, end, kept.epochs(folder), (saved["epoch"], saved["step"]), str(folder))


def _chosen(epochs: Epochs, end: bool, there: Sequence[int], last: tuple[int, int], name: str) -> States:
    """The states that are asked for; the end stands for its epoch if that is over.

    Args:
        epochs: that are asked for.
        end: whether the end is, too.
        there: epochs that weights were kept after.
        last: epoch and step of the end.

    Raises:
        InputError: the weights after one of them were not kept.
    """
    earlier = [epoch for epoch in there if (epoch, 0) < last]
    known = sorted({*earlier, *([last[0]] if last[1] == 0 else [])})
    if epochs == "all":
        if not earlier:
            raise InputError(
                f"{name} has kept no weights of earlier epochs: search with `keep_weights_every`"
            )
        return earlier, True
    for epoch in epochs:
        if epoch not in known:
            have = f"has those of {', '.join(map(str, known))}" if known else "has none"
            raise InputError(
                f"{name} has no weights of epoch {epoch}, it {have}: choose among them, or search with "
                "`keep_weights_every`"
            )
    return sorted(set(epochs) & set(earlier)), end or not set(epochs) <= set(earlier)


# Opening a search


def _options(folder: Path, plugins: Sequence[str]) -> SearchOptions:
    """The options of the search in a folder. Raises InputError where there is none."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not the folder of a run (no config.json): check the path")
    stored, _ = starting_options(SearchOptions, {"resume": True, "out": folder, "plugins": plugins})
    return check(SearchOptions(**stored))


def _rank_folder(
    folder: Path,
    field: Field,
    scores: ScoreFile,
    states: States,
    plugins: Sequence[str],
    threads: int | None,
    name: str,
    progress: bool | None = None,
) -> list[Ranking]:
    """The rankings by states of the search in a folder."""
    options = _options(folder, plugins)
    saved, damage = checkpoint.load(folder)
    assert saved is not None
    if damage is not None:
        tqdm.write(f"note: {damage}; the checkpoint before it is taken")
    epochs, end = states
    lines = read_json_lines(folder / METRICS) if epochs else []
    with device.prepared(options.device, threads or options.threads, options.deterministic) as place:
        search = Search.of(options, place=place)
        ranker = Ranker(search, field, scores, str(folder.resolve()), name, progress)
        rankings = [_rank_kept(ranker, kept.load(folder, epoch), epoch, lines) for epoch in epochs]
        if end:
            search.restore(saved["state"])
            rankings.append(ranker.rank(_found(folder, search), saved["epoch"], saved["step"]))
    return rankings


def _found(folder: Path, search: Search) -> Genotype:
    """The cell of a finished run, or the one that it would find now."""
    if (folder / "result.json").exists():
        return search.space.parse(read_json(folder / "result.json")["genotype"])
    return search.would_find()


def _rank_kept(
    ranker: Ranker, weights: Mapping[str, Tensor], epoch: int, lines: Sequence[Mapping[str, Any]]
) -> Ranking:
    """The ranking by weights that were kept after an epoch, and by metrics, which have the cell that the
    search would have found then. Raises InputError."""
    ranker.search.take(weights, epoch)
    for line in lines:
        if line["epoch"] == epoch:
            return ranker.rank(ranker.search.space.parse(line["genotype"]), epoch, 0)
    raise InputError(f"{METRICS} has no line of epoch {epoch}, whose weights were kept: restore it")


@contextmanager
def _scored(out: str | Path | None) -> Iterator[ScoreFile]:
    """The scores in a folder, which is kept from others meanwhile."""
    if out is None:
        yield ScoreFile(None)
        return
    folder = Path(out)
    if (folder / "config.json").exists():
        raise InputError(f"{folder} is the folder of a run: give another `out`")
    with held(folder):
        yield ScoreFile(folder / FILE)
