"""The processes of a job: which of them this one is, and how it joins the others."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from itertools import count
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

TIMEOUT = timedelta(minutes=30)  # longest wait for another rank
_groups = count()  # that this process has joined


def world() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if world() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine: the CUDA device that is its own."""
    return int(os.environ["LOCAL_RANK"]) if world() > 1 else 0


def job() -> str | None:
    """What tells this job of torchrun from others, through all its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":  # torchrun's default; the processes it restarts have the same parent
        stat = Path(f"/proc/{os.getppid()}/stat")  # not on every system
        started = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""
        name = f"{platform.node()} {os.getppid()} {started}"
    return name


def is_restarted() -> bool:
    """Whether torchrun has started the processes of this job again after one had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def group() -> Iterator[None]:
    """Join the other ranks, if torchrun has started this process with others; only rank 0 prints. Inside a
    group this does nothing."""
    if world() > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        yield
        return
    # The logits live on the CPU, whatever the device.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, own, ranks = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    # torchrun keeps one store; in it are the addresses of processes and groups that have ended.
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {ranks}, group {next(_groups)}"
    store = dist.PrefixStore(start, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=own, world_size=ranks)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    finally:
        dist.destroy_process_group()


def is_loss(error: RuntimeError) -> bool:
    """Whether this is what a collective operation raises when another rank has ended."""
    return world() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))
