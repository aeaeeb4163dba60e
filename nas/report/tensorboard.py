"""TensorBoard events of a run: scalars, probabilities of the operations, the cell, the options."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from nas.report import cell_picture, figures, plots
from search_spaces import Genotype, SearchSpace

IMAGE_EVERY = 10  # epochs between two images of the probabilities; the last epoch has one, too
_GROUPS = {
    **dict.fromkeys(("entropy", "skip_connects", "nones", "curvature", "alignment"), "search"),
    **dict.fromkeys(("lr", "tau", "drop_path"), "schedule"),
    **dict.fromkeys(("step", "epoch_seconds", "skipped_steps"), "time"),
}


class Board:
    """Writes the events of a run into the folder `tensorboard` of its run folder.

    Args:
        folder: the run folder.
        space: that the run searches, or trains an architecture of.
        start_epoch: number of epochs done before; events of later ones, which a run that was
            interrupted had written, are not shown any more.
        epochs: number of epochs in all.
    """

    def __init__(self, folder: Path, space: SearchSpace, start_epoch: int, epochs: int) -> None:
        self._space, self._epochs = space, epochs
        self._excepthook, threading.excepthook = threading.excepthook, self._excepted
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start_epoch + 1)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Write the numbers of a line of metrics, and every IMAGE_EVERY epochs its probabilities."""
        epoch = metrics["epoch"]
        for name, value in _scalars(metrics):
            self._writer.add_scalar(name, value, epoch)
        if metrics.get("probabilities") and (epoch % IMAGE_EVERY == 0 or epoch == self._epochs):
            figure = plots.plot_heat_map(self._space, metrics["probabilities"])
            self._image("probabilities", figures.to_pixels(figure), epoch)
        self._writer.flush()  # before the checkpoint, after which nobody writes it again

    def conclude(self, genotype: Genotype, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write the architecture, and the options of the run beside the numbers in its result.

        The step is the one after the last epoch, so that a run whose end is repeated replaces them.
        """
        step = self._epochs + 1
        self._image("cell", figures.to_pixels(cell_picture.plot_cell(genotype)), step)
        self._writer.add_text("genotype", f"    {self._space.format(genotype)}", step)
        options = {k: v for k, v in config.items() if isinstance(v, bool | int | float | str)}
        numbers = {f"result/{k}": v for k, v in result.items() if _is_number(v) and k not in config}
        self._writer.add_hparams(options, numbers, run_name=".", global_step=step)

    def close(self) -> None:
        """Close the file. Once is enough; again does nothing."""
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._writer.add_image(name, pixels, epoch, dataformats="HWC")

    def _excepted(self, arguments: threading.ExceptHookArgs) -> None:
        """What the writer's thread dies of, such as a full disk, the writer raises at the next call."""
        if not type(arguments.thread).__module__.startswith("tensorboard"):
            self._excepthook(arguments)


def _scalars(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of every finite number: train_loss is loss/train, tau is schedule/tau."""
    for name, value in metrics.items():
        what, _, measure = name.rpartition("_")
        if name == "epoch":
            continue
        if name == "gradient":
            yield "gradient/norm", value["norm"]
            for estimator, row in value["estimators"].items():
                yield from ((f"gradient {key}/{estimator}", row[key]) for key in ("bias", "std", "cosine"))
        elif isinstance(value, Mapping):
            group = _GROUPS.get(name, "other")
            yield from ((f"{group}/{name}/{key}", v) for key, v in value.items() if _is_number(v))
        elif _is_number(value):
            grouped = what and measure in ("loss", "accuracy")
            yield (f"{measure}/{what}" if grouped else f"{_GROUPS.get(name, 'other')}/{name}"), value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
