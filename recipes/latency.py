"""Options of measuring latencies. Like all of this package it imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recipes.options import option


@dataclass(kw_only=True)
class LatencyOptions:
    """Measure how long the networks of a search space take on this machine."""

    space: str = "nasbench201"
    """Search space, as for train_search.py."""
    channels: int = option(16, at_least=1, at_most=4096)
    """Channels of the first cells of the networks (C)."""
    cells: int | None = option(None, at_least=1, at_most=1000)
    """Cells of the networks, as for train_final.py; default: the fewest."""
    image_size: int = option(32, at_least=4, at_most=4096)
    """Side of the images in pixels."""
    planned_size: int | None = option(None, at_least=4, at_most=4096)
    """Side of the images that strides and stem are meant for, as for searches (default: --image-size)."""
    in_channels: int = option(3, at_least=1, at_most=4096)
    """Channels of the images."""
    classes: int = option(10, at_least=1, at_most=10**6)
    """Classes of the images."""
    batch_size: int = option(1, at_least=1, at_most=10**6)
    """Images that go through a network at once; latencies are those of the whole batch."""
    engine: Literal["eager", "compiled", "onnxruntime"] = "eager"
    """What runs the networks: PyTorch as it is, torch.compile, or ONNX Runtime (on the CPU)."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int | None = option(None, at_least=1, at_most=1024)
    """CPU threads (default: all cores)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto is bfloat16 autocast on CUDA and float32 on the CPU."""
    channels_last: bool = True
    """Keep feature maps in channels-last memory order."""
    networks: int = option(40, at_least=10, at_most=10_000)
    """Random networks that the model of the latencies is fitted to."""
    check: int = option(20, at_least=5, at_most=10_000)
    """Further random networks that tell how far the model is from the truth."""
    rounds: int = option(40, at_least=3, at_most=10_000)
    """Runs of every network, in turns; its latency is the mean of the fastest tenth, which nothing else on
    the machine has disturbed."""
    seed: int = option(0, at_least=0, at_most=2**63 - 1)
    """Seed of the random networks."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are imported first, e.g. with a space of your own."""
    out: str = "latency.json"
    """The file of the table, which `--latency-table` names."""
    overwrite: bool = False
    """Replace the file in --out where there is one."""
