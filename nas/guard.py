"""Optimizer steps that a loss or a gradient that is not finite does not take."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn


def guarded_step(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float = 0.0) -> Tensor:
    """Let `optimizer` step, unless `loss` or one of its gradients is infinite or not a number.

    A skipped step moves neither the parameters nor the state of the optimizer. A fused optimizer decides on
    the device, as it does for torch's GradScaler, so that nothing waits for it. For others the host reads the
    decision, which costs nothing where the gradients are on the CPU.

    Args:
        loss: (), on any device.
        clip: largest norm of all gradients together, shortened to it; 0: any.

    Returns:
        (), bool, on the device of the gradients: whether the step was skipped.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if clip:
        norm = nn.utils.clip_grad_norm_(parameters, clip)
    else:
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    skipped = ~(norm.isfinite() & loss.detach().isfinite().to(norm.device))
    if all(group.get("fused") for group in optimizer.param_groups):
        _fill_momentum(optimizer, parameters)
        optimizer.grad_scale, optimizer.found_inf = None, skipped.float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif not skipped:
        optimizer.step()
    return skipped


def _fill_momentum(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """Start missing momentum at 0: fused SGD would leave it undefined where its first step is skipped, and
    wants it for all parameters or none, while every drawn architecture brings others."""
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        for p in parameters:
            if optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


class KeptBuffers:
    """The buffers of a module, such as running statistics, as they were when entered:

    >>> with KeptBuffers(model) as kept:
    ...     loss = ...  # a forward pass moves them
    ...     kept.restore(skipped)  # back where the step was skipped, decided on the device
    """

    def __init__(self, module: nn.Module) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in module.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._groups = list(by_type.values())

    def __enter__(self) -> KeptBuffers:
        self._before = [_flat(group) for group in self._groups]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._before

    def restore(self, skipped: Tensor) -> None:
        """Undo what has happened to the buffers if `skipped`, (), bool."""
        for group, before in zip(self._groups, self._before, strict=True):
            values = torch.where(skipped, before, _flat(group)).split([b.numel() for b in group])
            torch._foreach_copy_(group, [v.view_as(b) for v, b in zip(values, group, strict=True)])


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
