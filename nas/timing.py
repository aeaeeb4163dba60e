"""How long networks take on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from nas import device, distributed
from recipes import InputError, first_line
from search_spaces.batched_products import compiled_up_to

Run = Callable[[], Any]
_SHORTEST = 200_000  # ns: shorter runs are repeated within a measurement


@dataclass(frozen=True)
class Settings:
    """How networks are run when they are timed.

    Attributes:
        engine: `eager`, `compiled` or `onnxruntime`.
        batch_size: images of a run.
        rounds: see `LatencyOptions`.
    """

    engine: str
    device: str
    threads: int
    precision: str
    channels_last: bool
    batch_size: int
    rounds: int


def runner(network: nn.Module, shape: Sequence[int], settings: Settings) -> Run:
    """A function that runs `network` once on random images (C, H, W) as the settings say, and waits for the
    end.

    Raises InputError where the engine is missing.
    """
    require_engine(settings)
    place = torch.device(settings.device)
    images = torch.randn(settings.batch_size, *shape)
    if settings.engine == "onnxruntime":
        return _onnx_runner(network, images, settings.threads)
    network = device.place(network.eval().requires_grad_(False), place, settings.channels_last)
    order = torch.channels_last if settings.channels_last else torch.contiguous_format
    images = images.to(place, memory_format=order)
    precision = device.autocast(settings.precision, place)
    forward: Callable[[Tensor], Tensor] = network
    if settings.engine == "compiled":
        forward = torch.compile(network, dynamic=False)

    def run() -> None:
        with torch.no_grad(), precision():
            forward(images)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return run


def require_engine(settings: Settings) -> None:
    """Raises InputError where what the engine of the settings needs is missing."""
    if settings.engine == "compiled":
        device.require_compiler(torch.device(settings.device), "`engine=compiled`")
    needed = ("onnx", "onnxscript", "onnxruntime") if settings.engine == "onnxruntime" else ()
    if missing := [p for p in needed if importlib.util.find_spec(p) is None]:
        raise InputError(
            f"`engine=onnxruntime` needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )


def _onnx_runner(network: nn.Module, images: Tensor, threads: int) -> Run:
    import onnxruntime

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: sizes are those of the run
        torch.onnx.export(network.eval().cpu(), (images,), file, dynamo=False)  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    inputs = {entry.name: images.numpy() for entry in session.get_inputs()}
    return lambda: session.run(None, inputs)


def timed(runs: Sequence[Run], settings: Settings, progress: bool | None = None) -> np.ndarray:
    """Time of every run in ns: the mean of the fastest tenth of some rounds of measurements, which take
    turns, so that what else happens on the machine happens to all of them.

    Of a single CPU thread it is the time that the thread has computed: waiting for others does not count.
    """
    alone = settings.device == "cpu" and settings.threads == 1
    clock = time.thread_time_ns if alone else time.perf_counter_ns
    rounds = settings.rounds
    compiled = settings.engine == "compiled"  # the networks share their code
    with compiled_up_to(len(runs) + 64) if compiled else contextlib.nullcontext():
        return _timed(runs, rounds, clock, progress)


def _timed(runs: Sequence[Run], rounds: int, clock: Callable[[], int], progress: bool | None) -> np.ndarray:
    repeats = []
    for run in runs:
        run()
        best = min(_once(run, 1, clock) for _ in range(3))
        repeats.append(max(1, round(_SHORTEST / best)))
    taken = np.zeros((rounds, len(runs)))
    shown = None if progress is None else not progress
    for number in tqdm(range(rounds), desc="rounds", leave=False, disable=shown):
        for i, run in enumerate(runs):
            run()  # brings its weights back into the caches
            taken[number, i] = _once(run, repeats[i], clock)
    taken.sort(axis=0)
    times: np.ndarray = taken[: max(1, rounds // 10)].mean(0)
    return times


def _once(run: Run, repeats: int, clock: Callable[[], int]) -> float:
    began = clock()
    for _ in range(repeats):
        run()
    return max(1, clock() - began) / repeats


def machine(settings: Settings) -> dict[str, Any]:
    """What latencies were measured on."""
    gpu = torch.cuda.get_device_name(torch.device(settings.device)) if "cuda" in settings.device else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # not on Windows
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def network_latency(network: nn.Module, shape: Sequence[int], settings: Settings) -> int | str:
    """What one network takes, in ns, or why that cannot be measured; with several ranks as rank 0 finds it,
    on a device of its own."""
    settings = replace(settings, device=place_of(settings))
    found: int | str
    try:
        with device.prepared(settings.device, settings.threads):
            found = round(float(timed([runner(network, shape, settings)], settings, False)[0]))
    except Exception as error:  # whatever a compiler or an exporter ends in
        found = first_line(error)
    known: int | str = distributed.broadcast(found)
    return known


def place_of(settings: Settings) -> str:
    """The device of the settings; with several ranks, which have one each, its kind."""
    return settings.device if distributed.world() == 1 else settings.device.partition(":")[0]
