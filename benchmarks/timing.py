"""What all benchmarks share: alternated timing, peak memory of a fresh process, the report.

A time means little on a machine that others use, too. The ratio of two times that were taken one right
after the other means more, and the median of several such ratios is what the benchmarks report.
"""

from __future__ import annotations

import math
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from recipes import InputError, command_line
from recipes.options import option

Action = Callable[[int], object]
ROOT = Path(__file__).resolve().parent.parent
SHORTEST = 0.02  # seconds; what takes less is repeated within a round


@dataclass(kw_only=True)
class BenchmarkOptions:
    """Options that all benchmarks share."""

    repeats: int = option(5, at_least=1)
    """Alternations; the medians over them are reported."""
    threads: int | None = option(None, at_least=1)
    """CPU threads (default: all cores)."""
    json: str | None = None
    """File that the results are written to."""


@dataclass
class Row:
    """A line of the table: a value, and its ratio to the value of another line of the same run."""

    what: str
    value: float | None
    unit: str
    ratio: float | None = None
    to: str | None = None
    target: str | None = None


@dataclass
class Report:
    """The rows of a benchmark; with a path they are on disk as soon as they are known."""

    benchmark: str
    options: BenchmarkOptions
    rows: list[Row] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, *rows: Row) -> None:
        """Append rows."""
        self.rows += rows
        self.write()

    def write(self) -> None:
        """Write what is known so far."""
        from nas.runs.files import write_json

        if self.options.json is not None:
            try:
                write_json(Path(self.options.json), self.document())
            except OSError as error:
                raise InputError(f"cannot write --json {self.options.json}: {error}") from None

    def document(self) -> dict[str, Any]:
        """What is written."""
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "options": asdict(self.options),
            "rows": [asdict(row) for row in self.rows],
        } | self.extra

    def table(self) -> str:
        """The rows as text."""
        cells = [("", "value", "ratio", "to", "target")]
        for row in self.rows:
            value = "-" if row.value is None else f"{row.value:.4g} {row.unit}"
            ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
            cells.append((row.what, value, ratio, row.to or "", row.target or ""))
        widths = [max(len(line[i]) for line in cells) for i in range(5)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([f"{self.benchmark}: {description(machine())}", *lines])


def machine() -> dict[str, Any]:
    """Where a benchmark ran."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def description(where: Mapping[str, Any]) -> str:
    """A machine in words."""
    gpu = "" if where["gpu"] is None else f", {where['gpu']}"
    return f"torch {where['torch']}, {where['threads']} threads{gpu}"


def main(
    name: str, options_class: type[Any], benchmark: Callable[[Any], Report], argv: Sequence[str] | None = None
) -> int:
    """Parse options, run the benchmark, print its table; the exit code."""

    def run(options: BenchmarkOptions) -> None:
        import torch

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        Report(name, options).write()  # a file that cannot be written is known before anything is measured
        report = benchmark(options)
        report.write()
        print(report.table())

    return command_line.main(options_class, run, argv, f"python -m benchmarks.{name}")


def alternate(
    actions: Mapping[str, Action], repeats: int, synchronize: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds per call of every action in each of `repeats` rounds, after one round to warm up.

    An action is called with the number of the call, so that those that are compared can be given equal
    draws: in round r every action that takes more than SHORTEST sees the same number.
    """
    numbers = {}
    for name, action in actions.items():
        seconds = _clock(action, 0, 1, synchronize)
        if seconds < 1:
            seconds = _clock(action, 0, 1, synchronize)  # the first call also allocated
        numbers[name] = max(1, math.ceil(SHORTEST / max(seconds, 1e-9)))
        print(f"  {name}: {seconds:.3g} s", file=sys.stderr, flush=True)
    times: dict[str, list[float]] = {name: [] for name in actions}
    for repeat in range(repeats):
        for name, action in actions.items():
            times[name].append(_clock(action, repeat, numbers[name], synchronize))
    return times


def _clock(action: Action, repeat: int, number: int, synchronize: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    for call in range(repeat * number, (repeat + 1) * number):
        action(call)
    synchronize()
    return (time.perf_counter() - start) / number


def ratio(times: Mapping[str, Sequence[float]], name: str, to: str) -> float:
    """Median over the rounds of the time of `name` over the time of `to`."""
    return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))


def timed(
    times: Mapping[str, Sequence[float]], name: str, to: str | None = None, target: str | None = None
) -> Row:
    """The row of a timed action."""
    against = None if to is None else ratio(times, name, to)
    return Row(name, statistics.median(times[name]), "s", against, to, target)


class Cost(NamedTuple):
    """What a call took in a process of its own: seconds, and bytes beyond those of `import torch`."""

    seconds: float
    bytes: int


def in_fresh_process(function: Callable[..., object], *arguments: Any) -> Cost:
    """Call `function` in a new process. It and its arguments are pickled, so it stands at the top level of
    a module. The seconds are those of the call alone."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_cost, args=(sender, function, *arguments))
    process.start()
    sender.close()
    try:
        seconds, peak = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed in a process of its own") from None
    finally:
        process.join()
    return Cost(seconds, peak - _bare_torch())


def _report_cost(sender: Any, function: Callable[..., object], *arguments: Any) -> None:
    start = time.perf_counter()
    function(*arguments)
    sender.send((time.perf_counter() - start, peak_resident()))


@cache
def _bare_torch() -> int:
    code = "import torch; from benchmarks.timing import peak_resident; print(peak_resident())"
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout)


def peak_resident() -> int:
    """Most bytes of memory that this process has used."""
    try:  # VmHWM belongs to this program; ru_maxrss also to the one that it was forked from
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
