"""Where a run computes, and how exactly."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from nas import distributed
from nas.seeding import kept_generators
from recipes import InputError

try:
    import resource
except ImportError:  # not on this system
    resource = None  # type: ignore[assignment]

Model = TypeVar("Model", bound=nn.Module)
Precision = Callable[[], AbstractContextManager[Any]]
_TURN = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """What the threads of a process share is this one's until the block is left, others wait for it: global
    random generators and settings. Gradients are on and new tensors float32, whatever holds around the block.
    """
    with _TURN, torch.inference_mode(False), torch.enable_grad():
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def prepared(name: str, threads: int | None = None, deterministic: bool = False) -> Iterator[torch.device]:
    """The device `name` (auto, cpu, cuda, cuda:N), with torch set up as said until the block is left.

    A CUDA device becomes the current one, before anything is done on another: what a rank does not place
    itself, such as pinned memory, comes to its own device. There, float32 means float32, not TF32, and cudnn
    chooses its algorithms by trying them, unless they have to be deterministic.

    All this, threads and the states of the global random generators are then what they were; until then other
    threads wait. Raises InputError where there is no such device.
    """
    with alone():
        before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        place = select(name)
        deterministic_kernels = deterministic or torch.backends.cudnn.deterministic
        kernels = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=not deterministic_kernels,
            deterministic=deterministic_kernels,
            allow_tf32=False,
        )
        with _current(place), kernels, _exact_products(), kept_generators():
            try:
                if threads is not None:
                    torch.set_num_threads(threads)
                if deterministic:
                    # Read when CUDA is first used.
                    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(
                    deterministic or before[1], warn_only=warned and not deterministic
                )
                yield place
            finally:
                torch.set_num_threads(before[0])
                torch.use_deterministic_algorithms(before[1], warn_only=warned)


@contextmanager
def _current(place: torch.device) -> Iterator[None]:
    """A CUDA device is the current one, and has generators, whose states can be kept."""
    if place.type != "cuda":
        yield
        return
    with torch.cuda.device(place):
        torch.cuda.init()
        yield


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products of float32 in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def select(name: str) -> torch.device:
    """The device of that name; with several ranks, this rank's. Raises InputError."""
    given = name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if distributed.world() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise InputError(f"`device` is {name}, but every rank has a device of its own: give cuda or auto")
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
        usable = device.type == "cpu" or (
            device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
        )
    except RuntimeError:
        usable = False
    if not usable:
        raise InputError(
            f"device '{given}' is not available here, expected auto, cpu or one of "
            f"{torch.cuda.device_count()} CUDA devices: give another `device`"
        )
    if device.type == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def require_compiler(device: torch.device, option: str) -> None:
    """Raises InputError where torch.compile, which `option` asks for, has nothing to compile with."""
    if device.type == "cuda":
        found, what = importlib.util.find_spec("triton") is not None, "the package triton"
    else:
        compiler = os.environ.get("CXX", "g++")
        found, what = _answers(compiler), f"a C++ compiler, and '{compiler}' is none"
    if not found:
        raise InputError(f"{option} needs {what}: install it, or leave the option out")


def _answers(command: str) -> bool:
    try:
        return subprocess.run([command, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use so far: by tensors on a CUDA device, else by this process; None: it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def autocast(precision: str, device: torch.device) -> Precision:
    """A maker of contexts in which a network computes in `precision`: auto, float32 or bfloat16.

    Every context is a new object: torch keeps the state that it restores on the object, so that one that is
    entered twice at a time would leave autocast on. float32 holds inside somebody else's autocast, too.
    """
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    low = precision == "bfloat16"
    return partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=low, cache_enabled=False)


def place(model: Model, device: torch.device, channels_last: bool = True) -> Model:
    """`model` on `device`, its weights in that memory order."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device=device, memory_format=order)  # type: ignore[call-overload, no-any-return]
