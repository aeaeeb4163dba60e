"""Shared helpers. Importing `nas` first prepares torchvision."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import nas  # noqa: E402, F401

SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _quiet_machine(tmp_path, monkeypatch):
    """Tests write under their own folder only, and use one thread (they run in parallel)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def shared_data():
    """Folder with CIFAR-10 as images and published accuracies, where a checkout has one beside it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs data files that are not part of the project ({SHARED_DATA.name} folder)")
    return SHARED_DATA


def run_environment():
    """Environment for subprocesses that run the entry points."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
