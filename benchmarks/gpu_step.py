"""What a step does to a GPU: how long it takes, whether it waits, in what arithmetic, and how far it is from
what the hardware allows."""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.timing import Report, Row

Step = Callable[[], object]


def machine_limits(report: Report, device: torch.device, seconds: float) -> tuple[float, float]:
    """Bytes a second that a copy moves, and operations a second of a product of bfloat16 matrices."""
    large = device.type == "cuda"
    source = torch.empty(2**28 if large else 2**22, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    n = 8192 if large else 256
    matrix = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    wait = synchronizer(device)
    copying = median_seconds(lambda: copy.copy_(source), seconds / 2, wait)
    multiplying = median_seconds(lambda: matrix @ matrix, seconds / 2, wait)
    bandwidth, rate = 2 * source.numel() / copying, 2 * n**3 / multiplying
    report.add(
        Row("bandwidth of a copy", bandwidth / 1e9, "GB/s"),
        Row("rate of a matrix product, bfloat16", rate / 1e12, "TFLOP/s"),
    )
    return bandwidth, rate


def median_seconds(step: Step, seconds: float, wait: Step) -> float:
    """Median time of a step over so many seconds, at least three steps, after two to warm up."""
    for _ in range(2):
        step()
    wait()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronizer(device: torch.device) -> Step:
    """What waits for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def waits(step: Step, device: torch.device) -> int | None:
    """How often the host waits for the GPU in a step."""
    if device.type != "cuda":
        return None
    step()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in found)


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """What public code that sets nothing gets: convolutions of float32 in TF32, algorithms by rule."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
        yield


def ours(device: torch.device) -> torch.dtype:
    """What passes compute in unless an option says otherwise."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def require_arithmetic(network: nn.Module, step: Step, dtype: torch.dtype, channels_last: bool) -> None:
    """Take a step. Raises RuntimeError unless all its convolutions compute in `dtype` and that order."""
    seen: set[tuple[torch.dtype, bool]] = set()

    def look(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if min(output.shape[1:]) > 1:  # else it is both orders
            seen.add((output.dtype, not output.is_contiguous()))

    hooks = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    if seen != {(dtype, channels_last)}:
        raise RuntimeError(f"convolutions compute as {seen}, expected only {(dtype, channels_last)}")


class WorkCounter(TorchDispatchMode):
    """Floating-point operations of convolutions and matrix products, and bytes that all operations read
    and write if each reads its inputs and writes its outputs once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(t.nbytes for t in leaves if isinstance(t, torch.Tensor))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        return out


def floors(report: Report, name: str, step: Step, seconds: float, bandwidth: float, rate: float) -> None:
    """How far a step is from what moving its bytes, and its operations, would take at least."""
    with WorkCounter() as work:
        step()
    moving, computing = work.bytes / bandwidth, work.operations / rate
    measured = f"{name}: a step"
    report.add(
        Row(f"{name}: bytes of a step / bandwidth", moving, "s", moving / seconds, measured),
        Row(f"{name}: operations of a step / rate", computing, "s", computing / seconds, measured),
    )


def where(report: Report, name: str, step: Step, device: torch.device) -> None:
    """Profile a few steps: how busy the device is, kernels a step, and what takes the time (in the JSON)."""
    cuda, steps, wait = device.type == "cuda", 5, synchronizer(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    wait()
    start = time.perf_counter()
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        wait()
    wall = (time.perf_counter() - start) / steps

    def own(event: FunctionEventAvg) -> float:
        return (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6 / steps

    events = [e for e in profiler.key_averages() if own(e) > 0]
    events.sort(key=own, reverse=True)
    total = sum(map(own, events))
    launches = sum(e.count for e in profiler.key_averages() if "Launch" in e.key) / steps if cuda else None
    report.add(
        Row(f"{name}: device busy, of a profiled step", total, "s", total / wall, "its wall time"),
        Row(f"{name}: launches of a profiled step", launches, ""),
    )
    lines = [
        {"what": e.key[:100], "seconds": own(e), "share": own(e) / total, "calls": e.count / steps}
        for e in events[:12]
    ]
    report.extra.setdefault("profile", {})[name] = lines
    report.write()
    for line in lines:
        print("    {share:6.1%} {calls:7.1f} calls  {what}".format(**line), file=sys.stderr, flush=True)
