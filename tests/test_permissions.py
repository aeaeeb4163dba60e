"""What a run writes can be read by those whom the umask lets read."""

import os

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import train_final
import train_search
from nas import data
from nas.runs.files import atomic_path, cache_folder, write_text

SMALL = ["--channels", "4", "--train-limit", "160", "--batch-size", "16", "--epochs", "2"]


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    """Permissions of all files and folders in a folder."""
    return {p: p.stat().st_mode & 0o777 | p.is_dir() * 0o1000 for p in folder.rglob("*")}


def test_files_of_runs_follow_the_umask(umask, tmp_path):
    search, final = tmp_path / "search", tmp_path / "final"
    assert train_search.main(["--space", "micro", "--out", str(search), *SMALL]) == 0
    genotype = str(search / "genotype.json")
    assert train_final.main(["--genotype", genotype, "--out", str(final), *SMALL]) == 0
    found = modes(tmp_path)
    names = {path.name for path in found}
    assert {"model.safetensors", "checkpoint.pt", "result.json", "report.html", "metrics.jsonl"} <= names
    assert any("tfevents" in name for name in names)
    wrong = {p: oct(m) for p, m in found.items() if m not in (0o666 & ~umask, 0o1777 & ~umask)}
    assert not wrong


def test_decoded_images_follow_the_umask(umask, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "p" / label).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (4, 4)).save(tmp_path / "p" / label / f"{i}.png")
    data.load(f"folder:{tmp_path}/p", image_size=4)
    assert set(modes(cache_folder()).values()) == {0o666 & ~umask}


def test_a_file_that_is_replaced_follows_the_umask_too(umask, tmp_path):
    path = tmp_path / "file"
    path.touch(0o600)
    path.chmod(0o640)
    with atomic_path(path) as temporary:
        assert temporary.read_bytes() == b""
        save_file({"x": torch.zeros(2)}, temporary)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    path.chmod(0o640)
    write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("old", 0o640)
    assert list(tmp_path.iterdir()) == [path]
