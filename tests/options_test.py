"""Runs with options drawn at random: each is refused in one line, or ends well, and stopped and continued it
ends in the same bits.

`python tests/options_test.py --search 200 --final 300` does so many; under pytest there are a few, and with
`-m slow` more. What is refused loses an option that the line names, until it is accepted.
"""

import argparse
import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []
FLAG = None  # the value of an option without one
CELLS = ("|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|", "darts_v2", "pc_darts_cifar", "21102201")

BOTH = {
    "channels": [4, 8], "batch-size": [16, 32], "seed": [0, 1, 2], "no-tensorboard": [FLAG],
    "label-smoothing": [0.1], "class-weights": ["balanced"], "sampling": ["balanced"], "crop-padding": [0, 2],
    "flip": ["True", "False"], "cutout": [3], "precision": ["bfloat16", "float32"],
    "no-channels-last": [FLAG], "deterministic": [FLAG], "evaluate-every": [2, 3],
    "clip": [0, 1], "momentum": [0], "weight-decay": [0], "channels-in": ["1", "3"], "lr": [0.5, 0.001],
    "lr-min": [0.01], "checkpoint-every": [2, 3],
    "checkpoint-steps": [1, 2], "data-budget-gb": [0], "sync-batch-norm": [FLAG], "cells": [1, 3, 4, 5],
    "planned-size": [16, 32], "test-fraction": [0.4],
}  # fmt: skip
SEARCH = BOTH | {
    "estimator": ["st", "st_gumbel", "gumbel_rao:samples=5", "softmax", "redge", "dirichlet", "sigmoid",
                  "reinforce_loo", "double_cv", "reinforce_critic", "reinmax_cv"],
    "edge-gradient": ["dense", "captured", "surrogate"], "draws": [1, 2, 5], "draw-per": ["image", "rank"],
    "coupling": ["systematic"], "architecture-loss": ["error"], "partial-channels": [2, 4],
    "edge-normalisation": [FLAG], "order": [2], "no-nesterov": [FLAG], "warmup-epochs": [0, 1, 2],
    "stop-entropy": [0.1, 1, 3], "stop-skips": [1], "val-fraction": [0.3, 0.7], "prior": [0.5, 3],
    "arch-lr": [0.3], "arch-weight-decay": [0], "arch-clip": [0, 0.01], "curvature-every": [1, 2],
    "alignment-every": [1, 2], "keep-weights-every": [1, 2], "tau": ["1", "2:0.5"],
    "terms": ["beta_decay", "entropy:weight=0:0.1", "uniform_decay", "zero_one", "alignment", "oles entropy"],
    "policy": ["uniform", "fair", "dense", "perturbed", "adversarial:steps=2"],
    "shrink": ["probability", "stages:keep=4:2", "information", "zero_cost:by=naswot", "te_nas", "shapley"],
    "grow": ["cells=3", "channels=4", "partial_channels=4", "cells=3:4"],
    "auxiliary-skip": ["1:0", "1,0.5:0"], "skip-dropout": ["0.3:0", "0.3,0.1"],
    "max-skips": ["0", "None", "2"],
    "derive": ["sample:5", "evolution:6", "ascent", "perturbation:1", "shapley", "halving:4",
               "halving:1,draws=20,by=naswot"],
    "budget": ["parameters=10k", "macs=1M", "parameters=20k macs=1M"], "budgets": ["macs=0.2M,0.5M,1M"],
    "budget-channels": [6, 8], "budget-cells": [4], "budget-image-size": [16],
}  # fmt: skip
FINAL = BOTH | {
    "optimizer": ["momentum", "adam", "adamw", "lamb", "rmsprop", "lion", "adafactor", "muon"],
    "scheduler": ["tanh", "step", "poly"], "warmup-epochs": [0, 1, 2], "drop-path": [0.2],
    "auxiliary-weight": [0.4], "mixup": [0.2], "cutmix": [1], "ema-decay": [0.9, 0.99],
    "auto-augment": ["rand-m9-mstd0.5", "augmix-m3-w3", "3a"],
}  # fmt: skip
QUICKLY = ("micro", "nasbench201", "nasbench_macro", "s3")
LONG = ("shrink", "derive", "curvature-every", "alignment-every")
SLOWLY = ("darts", "s4", "nasnet", "mobile_se")  # one in ten


class RunError(Exception):
    """A run that did not end as it should."""


class Options:
    """Draws options, does the runs, and counts.

    Args:
        seed: of what is drawn.
        folder: for data and runs.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.folder = random.Random(seed), folder
        self.runs = self.refused = self.pieces = 0
        self.data = ["digits", "digits", *made_data(folder)]

    def draw(self, kind: str) -> dict[str, object]:
        """Options and their values."""
        rng = self.rng
        fixed: dict[str, object] = {"epochs": rng.choice([1, 2, 3]), "dataset": rng.choice(self.data)}
        fixed |= {"train-limit": 200, "image-size": 8, "threads": 1, "channels": 4, "batch-size": 16}
        fixed |= (
            {"space": rng.choice(QUICKLY if rng.random() < 0.9 else SLOWLY)}
            if kind == "search"
            else {"genotype": rng.choice(CELLS)}
        )
        values = SEARCH if kind == "search" else FINAL
        drawn = rng.sample(sorted(values), rng.choice([2, 4, 7, 11]))
        if fixed.get("space") in SLOWLY:
            drawn = [name for name in drawn if name not in LONG]
        self.fixed = {*fixed} - {"channels", "batch-size"}
        return fixed | {name: rng.choice(values[name]) for name in drawn}

    def accepted(self, main, kind: str) -> tuple[list[str], Path]:
        """Arguments of a run that has ended well, and its folder."""
        options, out = self.draw(kind), self.folder / "whole"
        for _ in range(50):
            shutil.rmtree(out, ignore_errors=True)
            arguments = words(options)
            code, told = call(main, [*arguments, "--out", str(out)])
            if code == 0:
                return arguments, out
            if code != 2 or told.count("\n") != 1 or not told.startswith("error: ") or out.exists():
                raise RunError(f"{' '.join(arguments)}: exit code {code}, {told}")
            self.refused += 1
            if "too few for one batch" in told:
                options["batch-size"] = 8
                continue
            if not (free := [name for name in options if name not in self.fixed]):
                break
            told = told.replace(str(self.folder), "")
            named = [
                name
                for name in free
                if re.search(rf"(?<![\w-])(--)?({name}|{name.replace('-', '_')})(?![\w-])", told)
            ]
            del options[self.rng.choice(named or free)]
        raise RunError(f"{' '.join(arguments)}: refused without end, {told}")

    def run(self, main, job, kind: str) -> None:
        """One run, then the same in pieces."""
        began = time.monotonic()
        arguments, whole = self.accepted(main, kind)
        self.runs += 1
        broken = self.folder / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        todo = [*arguments, "--out", str(broken)]
        for piece in range(4):
            steps = self.rng.randrange(1, 12) if piece < 3 else None
            code, told = call(main, todo, job, steps)
            self.pieces += 1
            if code != 75:
                break
            todo = ["--resume", "--out", str(broken)]
        if code != 0:
            raise RunError(f"{' '.join(arguments)}: continued, exit code {code}, {told}")
        if different := differences(whole, broken):
            raise RunError(f"{' '.join(arguments)}: continued, other {different}")
        print(f"{time.monotonic() - began:5.1f} s  {' '.join(arguments)}", flush=True)


def made_data(folder: Path) -> list[str]:
    """Small data sets of other kinds than digits."""
    from PIL import Image

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [90, 60, 30, 20])
    np.savez(
        folder / "colours.npz", images=rng.integers(0, 256, (200, 12, 12, 3)).astype(np.uint8), labels=labels
    )
    np.savez(folder / "grey.npz", images=rng.random((200, 1, 10, 10)).astype(np.float32), labels=labels % 3)
    for label in range(3):
        (folder / "pictures" / f"class {label}").mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (9 + label, 11, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"class {label}" / f"{number}.png")
    return [
        f"arrays:{folder / 'colours.npz'}",
        f"arrays:{folder / 'grey.npz'}",
        f"folder:{folder / 'pictures'}",
    ]


def words(options: dict[str, object]) -> list[str]:
    """Options as they are typed."""
    found = []
    for name, value in options.items():
        several = str(value).split() if name in ("terms", "budget") else [str(value)]
        found += [f"--{name}", *([] if value is FLAG else several)]
    return found


def call(main, arguments, job=None, steps=None) -> tuple[int, str]:
    """The exit code of main(arguments), and what is on stderr; in step `steps` of `job` a signal comes."""
    left = [steps or 0]

    def stopped(method):
        def steps_of(self, *position):
            for done in method(self, *position):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield done

        return steps_of

    error = io.StringIO()
    with contextlib.ExitStack() as stack:
        for name in ("epoch", "finish") if job and steps else ():
            stack.enter_context(mock.patch.object(job, name, stopped(getattr(job, name))))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(error))
        return main(arguments), error.getvalue()


def differences(whole: Path, broken: Path) -> list[str]:
    """What two run folders do not have in common but should."""
    from torch.utils._pytree import tree_flatten_with_path

    from nas.runs import checkpoint

    files = {p.relative_to(f) for f in (whole, broken) for p in f.rglob("*") if p.is_file()}
    kept = [
        f
        for f in sorted(files)
        if re.search(r"(metrics.jsonl|genotype.json|splits.json|safetensors)$", str(f))
    ]
    found = [
        str(file)
        for file in kept
        if not all((f / file).exists() for f in (whole, broken))
        or (whole / file).read_bytes() != (broken / file).read_bytes()
    ]
    (one, _), (two, _) = (
        tree_flatten_with_path(checkpoint.read(f / checkpoint.NEWEST)["state"]) for f in (whole, broken)
    )
    return found + [
        str(path) for (path, a), (other, b) in zip(one, two, strict=True) if path != other or not same(a, b)
    ]


def same(a, b) -> bool:
    """Whether two entries of a state are equal to the last bit."""
    import torch

    if isinstance(a, torch.Tensor):
        one, two = (t.reshape(-1).contiguous().view(torch.uint8) for t in (a, b))
        return a.shape == b.shape and torch.equal(one, two)
    return bool(a == b or (a != a and b != b))


def main(argv=None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for kind in ("search", "final"):
        parser.add_argument(f"--{kind}", type=int, default=0, help=f"runs of train_{kind}.py")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    chosen = parser.parse_args(argv)
    import train_final
    import train_search
    from nas.bilevel.search import Search
    from nas.training.final import Training

    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.dict(os.environ, {"XDG_CACHE_HOME": f"{name}/cache"}),
    ):
        options = Options(chosen.seed, Path(name))
        for _ in range(chosen.search):
            options.run(train_search.main, Search, "search")
        for _ in range(chosen.final):
            options.run(train_final.main, Training, "final")
    print(f"{options.runs} runs, in {options.pieces} pieces all identical; {options.refused} times refused")
    return 0


def test_a_few_of_each():
    assert main(["--search", "4", "--final", "4", "--seed", "1"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_more():
    assert main(["--search", "50", "--final", "80", "--seed", "2"]) == 0


if __name__ == "__main__":
    sys.exit(main())
