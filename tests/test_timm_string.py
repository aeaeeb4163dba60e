"""Networks of chains in timm's notation: timm alone builds them, and computes the same."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
import search_spaces
from nas import compat, timm_string
from recipes import InputError
from tests.conftest import run_environment

WITHOUT_US = """\
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nas", "search_spaces", "estimators", "recipes", "ablation"):
            raise ImportError(f"{name} is not to be had here")


sys.meta_path.insert(0, Refuse())
try:
    import nas
except ImportError:
    pass
else:
    raise SystemExit("this process can import the project")
"""


def trained(space, genotype, size, **arguments):
    """A derived network with statistics and weights that are not those of a new one."""
    torch.manual_seed(0)
    network = space.network(genotype, planned_size=size, **arguments).train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, arguments.get("in_channels", 3), size, size))
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval()


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("mobile", 16, 32), ("mobile", 24, 48), ("mobile_se", 8, 128), ("nasbench_macro", 8, 32)],
)
def test_timm_computes_the_same(name, channels, size):
    space = search_spaces.get(name)
    genotype = space.parse("10212200") if name == "nasbench_macro" else space.random(random.Random(3))
    network = trained(space, genotype, size, channels=channels, num_classes=7)
    arch = timm_string.timm_arch(genotype, channels=channels, planned_size=size, num_classes=7)
    model = timm_string.timm_model(arch)
    model.load_state_dict(timm_string.timm_weights(network, arch))  # strict: nothing is missing or left over
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=0, atol=0)
    last = model.feature_info[-1]
    assert last["reduction"] == size // network.forward_features(x).shape[-1]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in network.parameters())


def test_the_notation():
    space = search_spaces.get("mobile_se")
    names = ["identity" if slot.source > 1 else "ir_k5_e3" for slot in space.slots]
    names[1] = "ir_k3_e6_se"
    arch = timm_string.timm_arch(space.genotype(names), channels=16, planned_size=224)
    assert arch.arch_def[:3] == [
        ["ds_r1_k3_s1_c16"],
        ["ir_r1_k5_s2_e3_c24", "ir_r1_k3_s1_e6_c24_se0.25"],
        ["ir_r1_k5_s2_e3_c40", "ir_r1_k5_s1_e3_c40"],
    ]
    assert (arch.stem_size, arch.stem_stride, arch.num_features) == (16, 2, 1280)
    assert arch.act_layer == "hard_swish"
    json.dumps(arch.arch_def)


@pytest.mark.parametrize("size", [32, 128])
def test_a_process_without_this_project_builds_and_loads_it(size, tmp_path):
    space = search_spaces.get("mobile_se")
    genotype = space.random(random.Random(1))
    network = trained(space, genotype, size, channels=8, num_classes=5, in_channels=1)
    arch = timm_string.timm_arch(genotype, channels=8, planned_size=size, num_classes=5, in_chans=1)
    weights = {name: tensor.contiguous() for name, tensor in timm_string.timm_weights(network, arch).items()}
    save_file(weights, tmp_path / timm_string.TIMM_WEIGHTS)
    images = torch.randn(3, 1, size, size)
    save_file({"images": images}, tmp_path / "images.safetensors")
    after = """\
import torch
from safetensors.torch import save_file

with torch.no_grad():
    save_file({"outputs": model(load_file("images.safetensors")["images"])}, "outputs.safetensors")
"""
    program = tmp_path / "program.py"
    repair = Path(compat.__file__).read_text() + "\nprepare_torchvision()\n"  # of this machine's torchvision
    program.write_text(repair + WITHOUT_US + timm_string.timm_code(arch) + after)
    environment = {k: v for k, v in run_environment().items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-I", str(program)], cwd=tmp_path, env=environment, check=True)
    with torch.no_grad():
        expected = network(images)
    assert torch.equal(load_file(tmp_path / "outputs.safetensors")["outputs"], expected)


def test_a_saved_network_says_how_timm_builds_it(tmp_path):
    data = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    genotype = search_spaces.get("mobile").random(random.Random(0))
    small = {"channels": 4, "batch_size": 8, "epochs": 1, "planned_size": 32}
    nas.train(genotype, data, **small).save_model(tmp_path / "model.safetensors")
    network = nas.load(tmp_path / "model.safetensors")
    arch = timm_string.arch_of(network.description)
    model = timm_string.timm_model(arch)
    model.load_state_dict(timm_string.timm_weights(network, arch))
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=0, atol=0)


def test_training_goes_on_in_the_size_that_a_network_was_planned_for(tmp_path):
    data = torch.rand(24, 1, 16, 16), torch.arange(24) % 3
    genotype = search_spaces.get("mobile").random(random.Random(0))
    small = {"channels": 4, "batch_size": 8, "epochs": 1}
    nas.train(genotype, data, planned_size=64, **small).save_model(tmp_path / "model.safetensors")
    again = nas.train(data=data, weights=tmp_path / "model.safetensors", epochs=1, batch_size=8)
    assert again.model.description["planned_size"] == 64
    with pytest.raises(InputError, match=r"`planned_size` is 128, but the network in .* has 64"):
        nas.train(data=data, weights=tmp_path / "model.safetensors", planned_size=128)


@pytest.mark.parametrize(
    ("space", "text", "channels", "message"),
    [
        (
            "micro",
            "|none~0|+|none~0|none~1|",
            4,
            "no blocks for networks of the space 'micro': give a genotype of",
        ),
        ("nasbench_macro", "01111111", 32, "an identity that changes the shape"),
        ("nasbench_macro", "11111111", 6, "from 6 to 12 channels"),
    ],
)
def test_what_timm_has_no_blocks_for(space, text, channels, message):
    genotype = search_spaces.get(space).parse(text)
    with pytest.raises(nas.InputError, match=message):
        timm_string.timm_arch(genotype, channels=channels)
