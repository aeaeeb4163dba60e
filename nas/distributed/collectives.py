"""Tensors, flags, texts and structures of all ranks.

Not by torch's collectives of objects: these unpickle what they receive, and no file or message of a run is to
be able to execute code.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas.distributed.processes import rank, world


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


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


class _Sum(torch.autograd.Function):
    """Sum over the ranks. Its gradient is the sum of the gradients, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total: Tensor = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_with_graph(grad)


def sum_with_graph(tensor: Tensor) -> Tensor:
    """The sum over the ranks, through which autograd reaches the tensors of all ranks."""
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def mean_with_graph(tensor: Tensor) -> Tensor:
    """The mean over the ranks, through which autograd reaches the tensors of all ranks."""
    return tensor if world() == 1 else sum_with_graph(tensor) / world()
