"""A variational auto-encoder of MNIST whose latent variables are categorical."""

from __future__ import annotations

import functools
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import Estimator
from nas.report.page import Picture
from nas.runs.files import atomic_path
from nas.seeding import derive_seed, generator
from recipes import InputError, first_line
from studies.tasks.task_grid import Comparison, Result, Setting, Task
from studies.tasks.task_plots import Panel, plot_dots

PIXELS = 784
VALIDATION = 10_000  # images; the last of the training images


class CategoricalVAE(nn.Module):
    """Encoder and decoder with two hidden layers: pixels-512-256-latents, mirrored, with ReLU.

    The prior of every latent variable is uniform. Pixels are Bernoulli variables.

    Args:
        classes: values of a latent variable.
        latents: number of latent variables.
        pixels: of an image.
        hidden: widths of the hidden layers of the encoder.
    """

    def __init__(
        self, classes: int, latents: int, pixels: int = PIXELS, hidden: tuple[int, int] = (512, 256)
    ) -> None:
        super().__init__()
        self.classes, self.latents = classes, latents
        size = classes * latents
        self.encoder = _perceptron(pixels, hidden[0], hidden[1], size)
        self.decoder = _perceptron(size, hidden[1], hidden[0], pixels)

    def begin_with(self, mean: Tensor) -> None:
        """Let the bias of the decoder be the log-odds of the mean image (pixels,), within ± 6.9.

        From a bias of 0 the first steps only learn the mean, and in them the code often collapses.
        """
        bias = self.decoder[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(mean.logit(1e-3))

    def encode(self, images: Tensor) -> Tensor:
        """Logits of the latent variables: (B, pixels) in [0, 1] to (B, latents, classes)."""
        logits: Tensor = self.encoder(images)
        return logits.view(-1, self.latents, self.classes)

    def reconstruction(self, images: Tensor, draws: Tensor) -> Tensor:
        """-log p(x | z) in nats: images (B, pixels) and draws (N, B, latents, classes) to (N, B)."""
        pixel_logits = self.decoder(draws.flatten(-2))
        targets = images.expand_as(pixel_logits)
        return F.binary_cross_entropy_with_logits(pixel_logits, targets, reduction="none").sum(-1)

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(q(z | x) || uniform) in nats: (B, latents, classes) to (B,)."""
        log_q = logits.log_softmax(-1)
        return (log_q.exp() * (log_q + math.log(self.classes))).sum((-2, -1))

    def objective(self, images: Tensor, estimator: Estimator, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What to differentiate, and the mean negative ELBO (nats) of the images (B, pixels); scalars.

        The gradient of the first is that of the second, as the estimator has it.
        """
        logits = self.encode(images)
        draws = estimator(logits.expand(estimator.default_draws, *logits.shape), rng)
        reconstruction = self.reconstruction(images, draws)
        value = reconstruction.mean() + self.divergence(logits).mean()
        if estimator.signal == "gradient":
            return value, value.detach()
        log_probability = (draws * logits.log_softmax(-1)).sum((-2, -1))
        surrogate = (estimator.advantages(reconstruction.detach()) * log_probability).mean()
        return value + surrogate, value.detach()


def _perceptron(first: int, second: int, third: int, last: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(first, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(), nn.Linear(third, last)
    )


@dataclass(frozen=True)
class MnistVAE(Task):
    """Train the auto-encoder on MNIST; the result is the negative ELBO in nats.

    Grey values are taken as the probabilities of the pixels, as usual where these estimators are
    compared. 50,000 images are trained on and the last 10,000 training images are for validation. The
    decoder begins with the mean image, and the ELBO is estimated with one draw for every image.

    Sources: Jang et al., 2017, arXiv 1611.01144; Liu et al., 2023, section 5.2, arXiv 2304.08612.

    Attributes:
        classes, latents: number of values of a latent variable, number of variables.
        epochs: of Adam at a constant learning rate.
        data: root folder of torchvision.datasets.MNIST.
    """

    classes: int
    latents: int
    epochs: int
    data: str
    batch_size: int = 100

    family = "vae"
    lrs = (0.001, 0.002)
    heading = "Auto-encoder: negative ELBO, nats"
    validated = "negative ELBO on validation, nats"
    figures = ("test", "train")

    @property
    def name(self) -> str:
        return f"vae-{self.classes}x{self.latents}"

    @property
    def title(self) -> str:
        return f"{self.classes}×{self.latents}"

    @property
    def budget(self) -> str:
        return f"{self.epochs} epoch{'s'[: self.epochs != 1]} of MNIST for the auto-encoder"

    @classmethod
    def pictures(cls, parts: Sequence[Comparison[Self]]) -> list[Picture]:
        panels = []
        for task, runs in ((part.task, part.runs) for part in parts):
            test, train = (
                {name: [run[key] for run in of_seeds.values()] for name, of_seeds in runs.items()}
                for key in cls.figures
            )
            panels.append(Panel(f"{task.latents} latents of {task.classes} classes", test, train))
        return [
            Picture(
                "Auto-encoder: negative ELBO",
                plot_dots(panels, "nats an image", best=min, digits=1),
                "Filled dots: test images, means with one standard deviation, strokes are the single seeds. "
                "Rings: training images. An arrow points to what lies far outside. Left is better.",
            )
        ]

    @property
    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity.items() if key != "data"}

    def train(self, setting: Setting, seed: int) -> Result:
        """Train; "train", on 10,000 of the images, is measured like "valid" and "test": at the end."""
        images = load_mnist(self.data)
        estimator, draws = setting.build(), generator(seed, "vae draws")
        torch.manual_seed(derive_seed(seed, "vae weights"))
        model = CategoricalVAE(self.classes, self.latents)
        model.begin_with(_unit(images.train).mean(0))
        optimizer = torch.optim.Adam(model.parameters(), lr=setting.lr, fused=True)
        for epoch in range(self.epochs):
            order = torch.randperm(len(images.train), generator=generator(seed, "vae order", epoch))
            for indices in order.split(self.batch_size):
                loss, _ = model.objective(_unit(images.train[indices]), estimator, draws)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        sampler = generator(seed, "vae evaluation")
        parts = {
            "train": negative_elbo(model, images.train[:VALIDATION], sampler),
            "valid": negative_elbo(model, images.valid, sampler),
            "test": negative_elbo(model, images.test, sampler),
        }
        return {"validation": parts["valid"], **parts}


class Mnist(NamedTuple):
    """Images (N, 784) uint8."""

    train: Tensor
    valid: Tensor
    test: Tensor


@functools.cache
def load_mnist(root: str, download: bool = False) -> Mnist:
    """The images under `root`, unpacked beside their .gz files if need be.

    Raises:
        InputError: they are missing or damaged.
    """
    from torchvision.datasets import MNIST

    try:
        _unpack(Path(root) / "MNIST" / "raw")
        train, test = (MNIST(root, train=part, download=download).data.flatten(1) for part in (True, False))
    except Exception as error:  # torchvision may end in any of them on a damaged file
        raise InputError(
            f"MNIST is missing or damaged in {Path(root)}, expected MNIST/raw/*-ubyte or *-ubyte.gz: "
            f"give --download, or --data FOLDER ({first_line(error)})"
        ) from None
    if len(train) <= VALIDATION:
        raise InputError(f"MNIST in {Path(root)} has {len(train)} training images, expected 60000")
    return Mnist(train[:-VALIDATION], train[-VALIDATION:], test)


def _unpack(folder: Path) -> None:
    """Unpack what is there only as .gz; torchvision does so with the very files that it fetched itself."""
    for packed in folder.glob("*-ubyte.gz"):
        if not packed.with_suffix("").exists():
            with atomic_path(packed.with_suffix("")) as path:
                path.write_bytes(gzip.decompress(packed.read_bytes()))


@torch.no_grad()
def negative_elbo(model: CategoricalVAE, images: Tensor, rng: torch.Generator) -> float:
    """Mean over images (N, 784) uint8 of the negative ELBO in nats, with one draw each."""
    draw = Setting("st", 1.0, 0.0).build()
    total = 0.0
    for part in images.split(1000):
        _, value = model.objective(_unit(part), draw, rng)
        total += float(value) * len(part)
    return total / len(images)


def _unit(images: Tensor) -> Tensor:
    """uint8 to [0, 1]."""
    return images.float() / 255
