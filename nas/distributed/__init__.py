"""Several processes that do one run: `torchrun train_search.py ...`, `torchrun train_final.py ...`.

Every rank does every step with its slice of the global batch; what it finds is averaged before an optimizer
sees it, so that weights, logits and statistics stay the same on all ranks. In a process that torchrun has not
started, there is one rank, and nothing here does anything.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from recipes import InputError

TIMEOUT = timedelta(minutes=30)  # longest wait for another rank


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
        started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        name = f"{os.uname().nodename} {os.getppid()} {started}"
    return name


@contextmanager
def group() -> Iterator[None]:
    """Join the other ranks, if torchrun has started this process with others; only rank 0 prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        yield
        return
    # The logits live on the CPU, whatever the device.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, own, ranks = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    # torchrun keeps one store through all restarts; in it are the addresses of processes that have ended.
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')} of {ranks}"
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


def agreed(error: Exception, code: int) -> BaseException:
    """What to raise for an error that all ranks run into at once: on rank 0 the error, on the others a
    silent exit with `code`."""
    return error if rank() == 0 else SystemExit(code)


@contextmanager
def together() -> Iterator[None]:
    """A block whose InputErrors are those of all ranks: rank 0 raises the first, the others exit."""
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    failures = gather_texts("" if failure is None else str(failure))
    failed = [r for r, text in enumerate(failures) if text]
    if not failed:
        return
    raise agreed(failure or InputError(f"on rank {failed[0]}: {failures[failed[0]]}"), 2)


@contextmanager
def one_first() -> Iterator[None]:
    """Let one rank of every machine do the block before the others, which find what it has cached."""
    if local_rank():
        _barrier()
    try:
        yield
    finally:
        if not local_rank():
            _barrier()


def _barrier() -> None:
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of floating point, in place, by their means over the ranks."""
    if world() == 1:
        return
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for same in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        dist.all_reduce(flat)
        parts = (flat / world()).split([tensor.numel() for tensor in same])
        torch._foreach_copy_(same, [p.view_as(t) for p, t in zip(parts, same, strict=True)])


def gradients(parameters: Iterable[nn.Parameter], union: bool = False) -> list[Tensor]:
    """The gradients that the last backward pass has left.

    Args:
        union: the ranks may have touched different parameters; those that only others have touched get a
            gradient of 0 here.
    """
    known = list(parameters)
    if union and world() > 1:
        touched = torch.tensor([p.grad is not None for p in known], dtype=torch.uint8)
        dist.all_reduce(touched, dist.ReduceOp.MAX)
        for p, anywhere in zip(known, touched.tolist(), strict=True):
            if anywhere and p.grad is None:
                p.grad = torch.zeros_like(p)
    return [p.grad for p in known if p.grad is not None]


def gather(tensor: Tensor) -> Tensor:
    """(N, ...) of every rank, in the order of the ranks: (ranks * N, ...)."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def any_of(*flags: bool) -> list[bool]:
    """Whether each flag is raised on any rank."""
    if world() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def gather_texts(text: str) -> list[str]:
    """The text of every rank."""
    if world() == 1:
        return [text]
    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    sizes = gather(torch.tensor([len(data)])).tolist()
    padded = nn.functional.pad(data, (0, max(sizes) - len(data)))
    rows = gather(padded).view(len(sizes), -1)
    return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]


def broadcast(content: Any) -> Any:
    """What rank 0 has, on all ranks: tensors, numbers and texts in dicts, lists and tuples."""
    if world() == 1:
        return content
    buffer = io.BytesIO()
    if rank() == 0:
        torch.save(content, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, 0)
    payload = torch.empty(int(size), dtype=torch.uint8)
    if rank() == 0:
        payload = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    dist.broadcast(payload, 0)
    return torch.load(io.BytesIO(payload.numpy().tobytes()), map_location="cpu", weights_only=True)


def require_agreement(content: Any, what: str) -> None:
    """Raise InputError if `content`, as for `broadcast`, is not the same to the last bit on all ranks."""
    if world() == 1:
        return
    digest = hashlib.sha256()
    _digest(content, digest.update)
    found = gather_texts(digest.hexdigest())
    if different := [r for r, text in enumerate(found) if text != found[0]]:
        error = InputError(
            f"{what} differ between rank 0 and rank {different[0]}: every rank must read the same data with "
            "the same versions on the same kind of device; the last checkpoint is kept"
        )
        raise agreed(error, 2)


def _digest(content: Any, update: Any) -> None:
    if isinstance(content, Tensor):
        flat = content.detach().cpu().contiguous().view(-1)
        update(str((tuple(content.shape), content.dtype)).encode())
        update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(content, dict):
        for key in sorted(content, key=str):
            update(repr(key).encode())
            _digest(content[key], update)
    elif isinstance(content, list | tuple):
        update(str(len(content)).encode())
        for part in content:
            _digest(part, update)
    else:
        update(repr(content).encode())


class _Sum(torch.autograd.Function):
    """Sum over the ranks. Its gradient is the sum of the gradients, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total: Tensor = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(grad)  # type: ignore[no-untyped-call]
        return total


def mean_with_graph(tensor: Tensor) -> Tensor:
    """The mean over the ranks, through which autograd reaches those of all ranks."""
    if world() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total / world()


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that, in training, takes its statistics from the slices of all ranks.

    torch's own is for CUDA only. The slices have equal sizes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training or world() == 1:
            return super().forward(x)
        z = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        # Every rank fills its own row: the means differ little, so that a sum of squares would lose digits.
        row = torch.stack([mean, variance]).unsqueeze(0)
        rows = nn.functional.pad(row, (0, 0, 0, 0, rank(), world() - 1 - rank()))
        means, variances = _Sum.apply(rows).unbind(1)  # type: ignore[no-untyped-call]
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        if self.running_mean is not None:
            self._track(mean.detach(), variance.detach(), z.numel() // z.shape[1] * world())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        y: Tensor = z * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return y.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def synchronise(model: nn.Module) -> None:
    """Turn every batch normalisation of `model` into one over all ranks, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
