"""The published accuracies of nasbench201, from the official API of NATS-Bench (or of NAS-Bench-201), which
its owner has installed:

    import nats_bench; from nas import tables
    api = nats_bench.create(None, "tss", fast_mode=True, verbose=False)
    tables.write_csv("nats.csv.gz", tables.from_api(api))
"""

from __future__ import annotations

import csv
import inspect
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

from nas.tables.files import write_text
from nas.tables.lookup import positions
from recipes import InputError
from search_spaces.nasbench201 import nasbench201

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "ImageNet16-120"}
"""Columns of a table of published accuracies, and their names in the official APIs."""


class BenchmarkAPI(Protocol):
    """What `from_api` needs of `nats_bench.NATStopology` or `nas_201_api.NASBench201API`."""

    def __len__(self) -> int: ...

    def arch(self, index: int, /) -> str: ...

    def get_more_info(
        self, index: int, dataset: str, *, hp: str, is_random: bool
    ) -> Mapping[str, float | None]: ...


class PublishedRow(NamedTuple):
    """A line of a table of published accuracies.

    Attributes:
        number: position of the cell in the benchmark.
        arch: the cell.
        accuracies: (3,), mean test accuracies in %, in the order of DATASETS.
    """

    number: int
    arch: str
    accuracies: tuple[float, ...]


def from_api(api: BenchmarkAPI) -> list[PublishedRow]:
    """The published test accuracies of all cells of nasbench201, means over the seeds, 200 epochs.

    Args:
        api: made by `nats_bench.create(FILE or None, "tss", fast_mode, verbose=False)` (nats_bench 1.8),
            or by `nas_201_api.NASBench201API(FILE, verbose=False)` (nas-bench-201 2.1). They load
            pickles: use files from their authors only.

    Raises:
        InputError: the object is something else, or its files are incomplete.

    Source: https://github.com/D-X-Y/NATS-Bench, `get_more_info` of nats_bench/api_topology.py.
    """
    query = getattr(api, "get_more_info", None)
    if query is None or not hasattr(api, "arch") or "hp" not in inspect.signature(query).parameters:
        raise InputError(
            f"{type(api).__name__} has no arch(index) and get_more_info(index, dataset, hp, is_random): "
            "expected the API of nats_bench 1.8 or nas-bench-201 2.1"
        )
    known = positions(nasbench201)
    if len(api) != len(known) or api.arch(0) not in known:
        raise InputError(
            f"the API has {len(api):,} architectures, the first {str(api.arch(0))[:100]!r}; expected the "
            f'{len(known):,} cells of nasbench201: create it for the topology search space "tss"'
        )
    return [
        PublishedRow(i, api.arch(i), tuple(_published(api, i, name) for name in DATASETS.values()))
        for i in tqdm(range(len(api)), "reading", unit="cell", disable=None)
    ]


def _published(api: BenchmarkAPI, index: int, dataset: str) -> float:
    accuracy = api.get_more_info(index, dataset, hp="200", is_random=False).get("test-accuracy")
    if accuracy is None or not 0 <= accuracy <= 100:
        raise InputError(
            f"the API gives the test accuracy {accuracy} on {dataset} for architecture {index}, expected 0 "
            "to 100: get complete files of the benchmark"
        )
    return float(accuracy)


def write_csv(path: str | Path, rows: Iterable[PublishedRow]) -> None:
    """Write published accuracies as a table for `read`, compressed where the name ends in .gz."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "arch", *DATASETS])
    writer.writerows([row.number, row.arch, *(f"{value:.4f}" for value in row.accuracies)] for row in rows)
    write_text(Path(path), buffer.getvalue())
