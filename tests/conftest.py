"""Shared helpers. Importing `nas` first prepares torchvision."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import nas  # noqa: E402, F401
from recipes.registry import Registry  # noqa: E402
from search_spaces import operations  # noqa: E402

torch.set_num_threads(1)  # before the fixture below, for what modules share

SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _quiet_machine(tmp_path, monkeypatch):
    """Tests write under their own folder only, and use one thread (they run in parallel)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _names_of_one_test():
    """What a test registers is gone after it."""
    before = {kind: dict(registry._things) for kind, registry in Registry.kinds.items()}
    yield
    for kind, registry in Registry.kinds.items():
        registry._things = dict(before.get(kind, registry._things))


@pytest.fixture
def fixed_noise(monkeypatch):
    """The operation `noise` is the same on every call with an input of the same shape."""

    def forward(self, x):
        like = operations._shaped(x, self.channels, self.stride)
        values = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
        return values.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(operations.Noise, "forward", forward)


@pytest.fixture
def shared_data():
    """Folder with CIFAR-10 as images and published accuracies, where a checkout has one beside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs data files that are not part of the project ({SHARED_DATA.name} folder)")
    return SHARED_DATA


def run_environment():
    """Environment for subprocesses that run the entry points."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@contextmanager
def little_memory(megabytes):
    """Fails if the peak of the process's memory is more than `megabytes` above what it has now."""
    status, peak = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(peak, os.W_OK):
        yield
        return

    def read(name):
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) // 1024

    peak.write_text("5")  # the peak is what there is now
    before = read("VmRSS")
    yield
    assert read("VmHWM") - before < megabytes
