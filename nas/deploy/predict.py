"""`nas predict`: classes and probabilities of pictures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nas import device as places
from nas.data import Batches, Delivery, Images
from nas.data.preprocessing import Preprocessing
from nas.data.sources.layout import picture_files
from nas.data.sources.pictures import Array, prepared
from nas.deploy.trained import Trained, of_path, of_result
from nas.runs.files import atomic_path
from recipes import InputError
from recipes.deploy import PredictOptions

if TYPE_CHECKING:
    from nas.api import TrainResult

AT_A_TIME = 256  # pictures


@dataclass(frozen=True)
class Prediction:
    """What a network says of a picture.

    Attributes:
        image: the file.
        label: name of the most probable class.
        probabilities: of every class, in the order of `classes`.
    """

    image: str
    label: str
    probabilities: tuple[float, ...]
    classes: tuple[str, ...]

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return max(self.probabilities)


def predict(
    model: str | Path | TrainResult,
    images: str | Path | Iterable[str | Path],
    *,
    device: str = "auto",
    bad: list[str] | None = None,
) -> list[Prediction]:
    """Classes and probabilities of pictures, prepared exactly as those that the network was trained on.

    Args:
        model: the result of a training, the folder of one or of an export, or a model.safetensors.
        images: picture files, and folders, of which all picture files count, in the order of their names.
        bad: gets a sentence about each picture that cannot be read; the others are predicted.

    Raises:
        InputError: bad input; without `bad`, one picture that cannot be read is enough.
    """
    problems: list[str] = [] if bad is None else bad
    with places.prepared(device) as place:
        trained = of_path(os.fspath(model)) if isinstance(model, str | Path) else of_result(model)
        paths = _paths([images] if isinstance(images, str | Path) else images)
        found = list(_predictions(trained, paths, place, problems))
    if bad is None:
        _require_good(problems, len(paths))
    return found


def _paths(images: Iterable[str | Path]) -> list[Path]:
    """The files, with those in folders in place of the folders. Raises InputError."""
    found = [path for image in images for path in picture_files(Path(image))]
    if not found:
        raise InputError("no pictures are given, expected files or folders")
    return found


def _predictions(
    trained: Trained, paths: Sequence[Path], place: torch.device, bad: list[str]
) -> Iterator[Prediction]:
    """Those of the pictures that can be read; `bad` gets what is wrong with each of the others."""
    if (task := trained.description.get("task")) is not None:
        raise InputError(
            f"the network was trained for the task {task}, whose outputs are no classes: take "
            "the network that `nas.load` gives, and call it"
        )
    network = places.place(trained.network, place)
    classes = tuple(trained.classes)
    for start in range(0, len(paths), AT_A_TIME):
        chunk = paths[start : start + AT_A_TIME]
        good, pixels = _read(chunk, trained.preprocessing, bad)
        if good:
            probabilities = _probabilities(network, pixels, trained.preprocessing, place)
            for path, row in zip(good, probabilities.tolist(), strict=True):
                yield Prediction(str(path), classes[row.index(max(row))], tuple(row), classes)


def _read(paths: Sequence[Path], preprocessing: Preprocessing, bad: list[str]) -> tuple[list[Path], Tensor]:
    """The paths that can be read, and their pixels (N, C, H, W)."""

    def read(path: Path) -> Array | str:
        try:
            return prepared(path, preprocessing)
        except InputError as error:
            return str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # about harmless flaws, as in training
        decoded = list(pool.map(read, paths))
    good = [(path, image) for path, image in zip(paths, decoded, strict=True) if not isinstance(image, str)]
    bad += [problem for problem in decoded if isinstance(problem, str)]
    pixels = np.stack([image for _, image in good]) if good else np.empty((0, 1, 1, 1), np.uint8)
    return [path for path, _ in good], torch.from_numpy(pixels)


@torch.no_grad()
def _probabilities(
    network: torch.nn.Module,
    pixels: Tensor,
    preprocessing: Preprocessing,
    place: torch.device,
) -> Tensor:
    """(N, classes) in the order of the pixels, on the CPU."""
    delivery = Delivery(place, list(preprocessing.mean), list(preprocessing.std), resident=False)
    numbers = torch.arange(len(pixels))  # in place of labels: batches are mixed
    found: Tensor | None = None
    for images, which in Batches(Images(pixels, numbers), AT_A_TIME, delivery):
        part = network(images).float().softmax(1).cpu()
        found = part.new_empty(len(pixels), part.shape[1]) if found is None else found
        found[which.cpu()] = part
    assert found is not None
    return found


def _require_good(bad: Sequence[str], count: int) -> None:
    if bad:
        more = f" (and {len(bad) - 1} more of {count} pictures)" if len(bad) > 1 else ""
        raise InputError(f"{bad[0]}{more}")


def table(found: Iterable[Prediction], form: str) -> Iterator[str]:
    """Lines of CSV, the first with the names of the columns, or of JSON."""
    for i, one in enumerate(found):
        image = one.image.encode(errors="replace").decode()  # a name of a file need not be UTF-8
        if form == "jsonl":
            probabilities = dict(zip(one.classes, one.probabilities, strict=True))
            row = {"image": image, "class": one.label, "probability": one.probability}
            yield json.dumps(row | {"probabilities": probabilities}, ensure_ascii=False) + "\n"
        else:
            if i == 0:
                yield _csv(["image", "class", "probability", *one.classes])
            yield _csv([image, one.label, one.probability, *one.probabilities])


def _csv(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def run(options: PredictOptions) -> None:
    """What `nas predict` does: pictures that cannot be read are named, and the others are predicted.

    Raises InputError in the end where there were such.
    """
    bad: list[str] = []
    with places.prepared(options.device, options.threads) as place:
        trained = of_path(options.model)
        paths = _paths(options.images)
        lines = table(_predictions(trained, paths, place, bad), options.format)
        try:
            with _output(options.out) as write:
                for line in lines:
                    write.write(line)
        except BrokenPipeError:  # nobody reads the output: the exit code says so
            raise
        except OSError as error:
            raise InputError(f"cannot write the predictions {options.out or ''}: {error}") from None
    for problem in bad[1:]:
        print(f"note: {problem}", file=sys.stderr)
    _require_good(bad, len(paths))


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[Any]:
    """The terminal, or a file that appears when it is whole."""
    if path is None:
        yield sys.stdout
        return
    with atomic_path(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file
