"""Networks of blocks that timm has leave as programs of timm alone, and its weights come back."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import run_environment
from safetensors.torch import load_file, save_file

import nas
import search_spaces
from nas import compat
from nas.training import weights

DESCRIBED = {"cells": 1, "num_classes": 3, "in_chans": 3, "image_size": [32, 32]}
DESCRIBED |= {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2], "classes": ["a", "b", "c"]}


@pytest.fixture
def mobile(tmp_path):
    """A saved network of the space, with its folder."""
    space = search_spaces.get("mobile_se")
    genotype = space.random(random.Random(0))
    about = {
        "genotype": genotype.to_json(),
        "text": space.format(genotype),
        "channels": 8,
        "planned_size": 32,
    }
    torch.manual_seed(0)
    model = nas.nas_net(genotype=genotype, channels=8, num_classes=3, planned_size=32).train()
    model(torch.randn(8, 3, 32, 32))
    nas.save(tmp_path / "m.safetensors", model, DESCRIBED | about)
    return nas.load(tmp_path / "m.safetensors"), tmp_path


def test_an_export_runs_where_there_is_only_timm(mobile):
    model, root = mobile
    out = nas.export(root / "m.safetensors", ["timm", "safetensors"], root / "out")
    x = torch.randn(2, 3, 32, 32)
    save_file({"x": x}, root / "x.safetensors")
    code = """
from timm_model import model, load_file
from timm.data import resolve_model_data_config
import torch
from safetensors.torch import save_file
assert not {"nas", "search_spaces"} & set(sys.modules)
config = resolve_model_data_config(model)
assert (config["input_size"], config["mean"], config["crop_mode"]) == ((3, 32, 32), [0.4, 0.5, 0.6], "squash")
with torch.no_grad():
    save_file({"y": model(load_file("x.safetensors")["x"])}, "y.safetensors")
"""
    repair = Path(compat.__file__).read_text() + "\nprepare_torchvision()\n"  # of this machine's torchvision
    (out / "program.py").write_text(repair + "sys.path.insert(0, 'out')\n" + code)
    environment = {k: v for k, v in run_environment().items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-I", "out/program.py"], cwd=root, env=environment, check=True)
    with torch.no_grad():
        torch.testing.assert_close(load_file(root / "y.safetensors")["y"], model(x), rtol=0, atol=1e-6)
    assert "timm_model.py" in (out / "README.md").read_text()


def test_weights_of_timm_come_back_by_its_names(mobile):
    model, root = mobile
    out = nas.export(root / "m.safetensors", "timm", root / "out")
    torch.save(load_file(out / "timm.safetensors"), root / "timm.pth")
    fresh = nas.nas_net(
        genotype=nas.load(root / "m.safetensors").description["text"], channels=8, num_classes=3
    )
    taken = weights.take(fresh, root / "timm.pth", weights.timm_layers(model.description))
    assert taken["new"] == taken["unused"] == []
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in fresh.state_dict().items())
    theirs = timm.create_model("efficientnet_b0", num_classes=3)  # others of its kind bring what fits
    torch.save(theirs.state_dict(), root / "b0.pth")
    wide = nas.nas_net(genotype=model.description["text"], channels=16, num_classes=3)
    some = weights.take(wide, root / "b0.pth", weights.timm_layers(model.description | {"channels": 16}))
    assert 0 < some["taken"] < len(wide.state_dict())


def test_an_auxiliary_head_is_no_part_of_an_export(tmp_path):
    """Of a training in this process, whose network still has it."""
    options = {"channels": 4, "cells": 3, "epochs": 1, "train_limit": 32, "batch_size": 16}
    result = nas.train("darts_v2", auxiliary_weight=0.4, tensorboard=False, progress=False, **options)
    out = nas.export(result, ["timm", "torchscript"], tmp_path / "out")
    facts = json.loads((out / "model.json").read_text())
    assert facts["parameters"] == result.summary["parameters"]
    again = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert sum(p.numel() for p in again.parameters()) == facts["parameters"]
    assert result.model.auxiliary is not None
