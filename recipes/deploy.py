"""The options of `nas export` and `nas predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from recipes.options import option


@dataclass(kw_only=True)
class ExportOptions:
    """Write a trained network for other programs, with a card that says what it is."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]] = ""
    """Folder of a training, or its model.safetensors."""
    format: tuple[Literal["onnx", "torch", "torchscript", "safetensors", "timm"], ...] = ("safetensors",)
    """onnx: for ONNX Runtime and others, any number of images at a time; torch: a program of torch.export;
    torchscript: for libtorch; safetensors: for nas.load and for training on; timm: a folder that
    timm.create_model reads. Several at once: --format onnx timm."""
    out: str | None = None
    """Folder to write, new or empty; by default the name of the run with -export behind it."""
    overwrite: bool = False
    """Replace an earlier export in --out."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are imported first: they register what the network is made of."""


@dataclass(kw_only=True)
class PredictOptions:
    """Classes and probabilities of pictures."""

    model: Positional[Annotated[str, arg(metavar="MODEL")]] = ""
    """Folder of a training or of an export, or a model.safetensors."""
    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGES ...")]] = ()
    """Picture files, and folders of them, looked through with all that is in them."""
    format: Literal["csv", "jsonl"] = "csv"
    """csv: a line for every picture, with a column for the probability of each class; jsonl: the same as an
    object of JSON in every line."""
    out: str | None = None
    """File to write (default: the terminal)."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int | None = option(None, at_least=1, at_most=1024)
    """CPU threads (default: all cores)."""
    plugins: tuple[str, ...] = ()
    """Python files or modules that are imported first: they register what the network is made of."""
