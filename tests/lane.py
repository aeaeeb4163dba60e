"""A lane without a GPU: the meta device stands in for one, and is watched.

What would make the host of a GPU wait is counted under the name of the function that asks for it; tensors of
two devices in one operation are an error; what would launch kernels is counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from search_spaces import batched_products

ROOT = Path(__file__).resolve().parent.parent
META = torch.device("meta")
# Results whose size, or whose work, depends on the values: the host has to know these.
SIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal", "bincount")
COPIES = ("_to_copy", "copy_", "_copy_from", "_foreach_copy_")


class WrongDeviceError(AssertionError):
    """An operation on tensors of two devices, which a GPU refuses."""


def asker():
    """The function of this project that the operation comes from: nas/bilevel/steps.py architecture_step."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT in path.parents and path.parent.name != "tests" and "site-packages" not in path.parts:
            return f"{path.relative_to(ROOT)} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


class Watch(TorchDispatchMode):
    """Counts waits and launches.

    Attributes:
        waits: (what, who asks for it) of everything that the host would wait for.
        launches: operations on the device that compute something, by name.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.launches = [], Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._opname
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if t.device == META]
        here = [t for t in tensors if t.device != META]
        to = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if there and (name == "_local_scalar_dense" or name in SIZED):
            self.waits.append((name, asker()))
            if name == "_local_scalar_dense":
                return {torch.bool: False}.get(there[0].dtype, 1)
            if name == "nonzero":
                return there[0].new_empty(0, there[0].dim(), dtype=torch.long)
        if name == "_to_copy" and there and to is not None and to != META:
            self.waits.append(("copy to the host", asker()))
            return torch.ones(there[0].shape, dtype=kwargs.get("dtype") or there[0].dtype)
        if name == "_to_copy" and here and to == META and not kwargs.get("non_blocking") and here[0].dim():
            self.waits.append(("blocking copy to the device", asker()))
        if name == "copy_" and there and here:
            if args[0].device != META:
                self.waits.append(("copy to the host", asker()))
                return args[0]
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])) and args[1].dim():
                self.waits.append(("blocking copy to the device", asker()))
        elif there and any(t.dim() for t in here) and name not in COPIES:
            raise WrongDeviceError(f"{function} on two devices, from {asker()}")
        if name.startswith("_fused_") and there:
            self.launches[name] += 1
            return None
        result = function(*args, **kwargs)
        on_device = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.device == META]
        if not function.is_view and (on_device or there) and not name.startswith("empty"):
            self.launches[name] += 1
        return result


class Autocast(TorchFunctionMode):
    """What autocast does to the operations of these networks, for the meta device, which has none."""

    LOW = (F.conv2d, F.linear, torch.conv2d, torch.nn.functional.linear)

    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        super().__init__()
        self.dtype, self.enabled = dtype, enabled
        self.before = []

    current = (torch.bfloat16, False)  # dtype, enabled

    def __enter__(self):
        self.before.append(Autocast.current)
        Autocast.current = (self.dtype, self.enabled)
        return super().__enter__()

    def __exit__(self, *error):
        Autocast.current = self.before.pop()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}

        def cast(dtype):
            return lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

        if Autocast.current[1] and function in self.LOW:
            args, kwargs = tree_map(cast(self.dtype), (args, kwargs))
        if Autocast.current[1] and function is F.cross_entropy:
            args, kwargs = tree_map(cast(torch.float32), (args, kwargs))
        return function(*args, **kwargs)


@contextmanager
def accelerator():
    """Lets the meta device do what a GPU does: autocast, fused optimizers, and what is compiled, as it is."""
    real, dtype, enabled = torch.autocast, torch.get_autocast_dtype, torch.is_autocast_enabled

    def autocast(device_type, **options):
        return (Autocast if device_type == "meta" else real)(device_type, **options)

    def about(question, index):
        return lambda device="cuda": Autocast.current[index] if device == "meta" else question(device)

    with ExitStack() as patches:
        patches.enter_context(mock.patch("torch.autocast", autocast))
        patches.enter_context(mock.patch("torch.get_autocast_dtype", about(dtype, 0)))
        patches.enter_context(mock.patch("torch.is_autocast_enabled", about(enabled, 1)))
        for what in ("foreach", "fused"):
            devices = f"torch.utils._foreach_utils._get_{what}_kernels_supported_devices"
            patches.enter_context(mock.patch(devices, return_value=["cpu", "cuda", "meta"]))
        check = "torch.optim.sgd._device_dtype_check_for_fused"
        patches.enter_context(mock.patch(check, return_value=None))
        function = batched_products.batched_products
        patches.enter_context(mock.patch.object(batched_products, "_compiled", return_value=function))
        yield
