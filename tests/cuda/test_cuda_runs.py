"""Whole runs on a GPU: resumed bit for bit, out of memory, and by several ranks."""

import json
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_environment
from test_survival import CELL, QUIET, assert_same, stop_in

import train_final
import train_search
from nas.bilevel.search import Search
from nas.training.final import Training

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Compilers import what torch itself calls deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
KINDS = {
    "search": (train_search.main, Search, []),
    "captured search": (train_search.main, Search, ["--edge-gradient", "captured"]),
    "darts search": (train_search.main, Search, ["--space", "darts", "--cells", "3"]),
    "final": (train_final.main, Training, CELL),
    "darts final": (
        train_final.main,
        Training,
        ["--space", "darts", "--genotype", "darts_v2", "--cells", "3", "--auxiliary-weight", "0.4",
         "--drop-path", "0.2", "--cutout", "4", "--clip", "5"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_deterministic_runs_are_resumed_exactly(kind, tmp_path, monkeypatch):
    main, job, words = KINDS[kind]
    arguments = [*QUIET, *words, "--deterministic", "--device", "cuda"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments, "--out", str(one)]) == 0
    stop_in(monkeypatch, job, 6)
    assert main([*arguments, "--out", str(two)]) == 75
    monkeypatch.undo()
    assert main(["--resume", "--out", str(two)]) == 0
    for name in ("metrics.jsonl", "genotype.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    if "search" in kind:
        assert_same(two, one)


@pytest.mark.parametrize("resident", [True, False])
def test_an_undisturbed_run_ends_well(resident, tmp_path):
    words = [
        *QUIET,
        "--device",
        "cuda",
        "--data-budget-gb",
        "8" if resident else "0",
        "--out",
        str(tmp_path / "r"),
    ]
    assert train_search.main(words) == 0


def test_out_of_memory_is_one_line(tmp_path, capsys):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3e9 / total))
    try:
        words = [*QUIET, "--device", "cuda", "--channels", "2048", "--out", str(tmp_path / "run")]
        assert train_search.main(words) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "out of memory: lower --channels" in error


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_of_torchrun(ranks, tmp_path):
    """One is a plain run; two have a device each, and speak to each other by nccl."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
              "--master-port", str(port)]  # fmt: skip
    out = tmp_path / "run"
    words = [*QUIET, "--device", "cuda", "--deterministic", "--precision", "float32", "--out", str(out)]
    done = subprocess.run(
        [*launch, str(ROOT / "train_search.py"), *words],
        env=run_environment(), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain = tmp_path / "plain"
    assert train_search.main([*words[:-1], str(plain)]) == 0
    losses = [
        json.loads((f / "metrics.jsonl").read_text().splitlines()[0])["train_loss"] for f in (out, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if ranks == 1 else 0.2)
    if ranks == 1:
        assert (out / "genotype.json").read_bytes() == (plain / "genotype.json").read_bytes()
