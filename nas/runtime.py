"""What searching and final training share while they run."""

from __future__ import annotations

import importlib.util
import logging
import os
import resource
import subprocess
import sys
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas import distributed
from nas.bilevel.steps import StepResult
from nas.data import Batches
from recipes import InputError, RunOptions
from search_spaces import SearchSpace
from search_spaces.mixed_edge import Draw

Model = TypeVar("Model", bound=nn.Module)

# A run of one epoch is a legitimate one; timm warns that its learning rate will not decay.
logging.getLogger("timm.scheduler").setLevel(logging.ERROR)


def select_device(options: RunOptions) -> torch.device:
    """The device that the options name, prepared as they say for the process. Raises InputError."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(options.deterministic)
    torch.backends.cudnn.deterministic = options.deterministic
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if distributed.world() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise InputError(f"--device is {name}, but every rank has a device of its own: give cuda or auto")
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
            f"device '{options.device}' is not available here, expected auto, cpu or one of "
            f"{torch.cuda.device_count()} CUDA devices"
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


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: by tensors on a CUDA device, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def autocast(options: RunOptions, device: torch.device) -> torch.autocast | nullcontext[None]:
    """The precision that the options ask for."""
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def cells(options: RunOptions, space: SearchSpace) -> int:
    """Number of cells that the options ask for. Raises InputError if a kind of cell would be missing."""
    count = options.cells or space.fewest_cells
    if count < space.fewest_cells:
        raise InputError(
            f"--cells is {count}, expected at least {space.fewest_cells} in the space '{space.name}' "
            f"({space.cells_help})"
        )
    return count


def place(model: Model, options: RunOptions, device: torch.device) -> Model:
    """`model` on `device`, in the memory order that the options ask for."""
    order = torch.channels_last if options.channels_last else torch.contiguous_format
    return model.to(device=device, memory_format=order)  # type: ignore[call-overload, no-any-return]


class Mean:
    """Running mean loss and accuracy over the steps that were taken, and the number of the others.

    Everything is summed on the device and read when asked for.
    """

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0
        self.images: Tensor | float = 0.0
        self.skipped: Tensor | float = 0.0

    def add(self, step: StepResult) -> None:
        """Add what a step saw."""
        loss = step.loss.double() * step.images
        taken: Tensor | float = 1.0
        if step.skipped is not None:
            skipped = step.skipped.to(loss.device, non_blocking=True)
            taken, loss = 1.0 - skipped.double(), torch.where(skipped, 0.0, loss)
        self.loss = self.loss + loss
        self.correct = self.correct + taken * step.correct
        self.images = self.images + taken * step.images
        self.skipped = self.skipped + (1.0 - taken)

    def read(self) -> tuple[float | None, float | None]:
        """Mean loss and accuracy in %, None before the first batch. Waits for the device."""
        if float(self.images) == 0:
            return None, None
        return float(self.loss) / float(self.images), 100.0 * float(self.correct) / float(self.images)

    def sum_over_ranks(self) -> None:
        """Add up what the ranks have seen. Waits for the device."""
        names = list(vars(self))
        sums = torch.tensor([float(getattr(self, name)) for name in names], dtype=torch.float64)
        for name, value in zip(names, distributed.gather(sums.unsqueeze(0)).sum(0).tolist(), strict=True):
            setattr(self, name, value)

    def state(self) -> dict[str, float]:
        """The sums, for a checkpoint. Waits for the device."""
        return {name: float(value) for name, value in vars(self).items()}

    @classmethod
    def restored(cls, state: dict[str, float]) -> Mean:
        """The mean whose `state` this is."""
        mean = cls()
        for name in vars(mean):
            setattr(mean, name, float(state[name]))
        return mean


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Batches, precision: Any, draw: Draw | None = None
) -> tuple[float, float]:
    """Mean loss and accuracy (%) over all images; `draw` is for supernets, see `read_draw`."""
    was_training = model.training
    model.eval()
    mean = Mean()
    for images, labels in batches.evaluation(distributed.rank(), distributed.world()):
        with precision:
            output = model(images) if draw is None else model(images, draw)
        loss = F.cross_entropy(output.float(), labels)
        mean.add(StepResult(loss, (output.argmax(1) == labels).sum(), len(labels)))
    model.train(was_training)
    mean.sum_over_ranks()
    loss_value, accuracy = mean.read()
    assert loss_value is not None
    assert accuracy is not None
    return loss_value, accuracy
