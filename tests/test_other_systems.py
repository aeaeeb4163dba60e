"""What Windows and macOS do not have is hidden; everything else has to work. Nothing ran on these systems."""

import subprocess
import sys

from conftest import run_environment

HIDDEN = """
import os, signal, sys
import torch, matplotlib, tensorboard, filelock  # with builds of their own for these systems
for name in ("fcntl", "resource", "termios", "pwd", "grp", "posix_ipc"):
    sys.modules[name] = None
gone = {
    os: "fchmod sysconf uname O_DIRECTORY getuid geteuid killpg setsid mkfifo posix_fallocate fork",
    signal: "SIGUSR1 SIGUSR2 SIGHUP SIGKILL pthread_sigmask",
}
for module, names in gone.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
WORK = """
from pathlib import Path
import numpy as np
from PIL import Image
import nas, nas.data
from nas.runs import files
assert files.fcntl is None
for label, name in enumerate(("ant", "bee")):
    Path("p", name).mkdir(parents=True)
    for i in range(12):
        Image.new("L", (8, 8), 100 * label + i).save(f"p/{name}/{i}.png")
small = {"channels": 4, "batch_size": 4, "epochs": 2, "image_size": 8, "tensorboard": False}
stop = lambda metrics: metrics["epoch"] == 1
assert nas.search("micro", "folder:p", out="s", callback=stop, **small).stopped
found = nas.search(out="s", resume=True)
trained = nas.train(found.genotype, "folder:p", out="f", **small)
model = nas.load("f/model.safetensors")
x = torch.rand(2, 1, 8, 8)
assert torch.allclose(model(x), trained.model(x), atol=1e-5)
print(trained.summary["peak_memory_bytes"], len(found.history))
held = files.lock(Path("s/lock"))
try:
    nas.search("micro", "folder:p", out="s", overwrite=True, **small)
except nas.InputError as error:
    print(error)
held.close()
"""


def run(code, folder):
    environment = run_environment() | {"XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


def test_a_search_a_training_and_a_lock_without_what_only_posix_has(tmp_path):
    """The lock is a file of the package filelock."""
    done = run(HIDDEN + WORK, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2] == "None 2"
    assert lines[-1].endswith("is in use by another process: wait for it, or give another `out`")
    assert lines[0].startswith(
        "data: folder:p: 20 training and 4 test images (1 x 8 x 8, uint8) of 2 classes"
    )


def test_help_of_the_entry_points(tmp_path):
    code = "\nimport train_final\nsys.exit(train_final.main(['--help']))"
    assert "--dataset" in run(HIDDEN + code, tmp_path).stdout


def test_names_of_run_folders_from_paths_of_windows():
    from nas.runs.run_folder import default_path
    from recipes import SearchOptions

    for dataset in (r"folder:C:\images\pets", "folder:/images/pets/", "folder:C:\\images\\pets\\"):
        assert default_path(SearchOptions(dataset=dataset), "search").name == "search-pets-s0"
