"""Randomness as a function of (seed, purpose, position): there is no generator state to save.

A run that resumes at step n draws the numbers that the uninterrupted run draws at step n.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed that is unrelated for different seeds, purposes and positions."""
    entropy = [seed, zlib.crc32(purpose.encode()), *position]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded by `derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *position))


def seed_everything(seed: int, purpose: str, *position: int) -> None:
    """Seed the global generators, which drop-path, Mixup and image policies draw from."""
    value = derive_seed(seed, purpose, *position)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # where it is not, torch.manual_seed keeps a stack trace, at each call
        torch.cuda.manual_seed_all(value)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators behind as they were, whatever the block seeds and draws."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
