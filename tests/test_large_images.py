"""Large images: the stem of DARTS networks for them, and the warning where nothing reduces them."""

import copy
import random

import pytest
import torch

import nas
import search_spaces
from nas.large_images import forward_cost, last_map, warn_of_large_images
from nas.training.final import count_macs
from search_spaces.zoo import PUBLISHED

DARTS = search_spaces.get("darts")


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("darts_v2", 4_718_752, 529_911_552), ("pc_darts_imagenet", 5_342_464, 581_627_328)],
)
def test_published_imagenet_networks(name, parameters, macs):
    """The publication of the first states 4.7 M and 574 M; here convolutions and linear layers count."""
    with torch.device("meta"):
        network = DARTS.network(
            DARTS.parse(PUBLISHED[name][1]), channels=48, cells=14, num_classes=1000, planned_size=224
        )
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert count_macs(network, (3, 224, 224)) == macs
    assert last_map(network, (3, 224, 224), None) == (7, 7)


@pytest.mark.parametrize(("size", "stem", "before_cells"), [(127, 12, 1), (128, 4, 8), (224, 4, 8)])
def test_the_stem_follows_the_size(size, stem, before_cells):
    network = DARTS.network(DARTS.random(random.Random(0)), channels=4, cells=3, planned_size=size)
    assert network.stem[-1].num_features == stem
    reduction = size / last_map(network.to("meta"), (3, size, size), None)[0]
    assert round(reduction) == 4 * before_cells


def test_the_first_cells_see_two_resolutions():
    genotype = DARTS.random(random.Random(1))
    network = DARTS.network(genotype, channels=4, cells=3, planned_size=224, auxiliary=True).train()
    seen = []
    network.cells[0].register_forward_pre_hook(lambda _, inputs: seen.extend(x.shape for x in inputs[:2]))
    logits, auxiliary = network(torch.randn(2, 3, 224, 224))
    assert seen == [(2, 4, 56, 56), (2, 4, 28, 28)]
    assert logits.shape == auxiliary.shape == (2, 10)


@pytest.mark.parametrize("name", ["darts", "mobile"])
def test_networks_for_large_images_reduce_them(name):
    space = search_spaces.get(name)
    supernet = space.supernet(channels=4, cells=space.fewest_cells, planned_size=160)
    assert warn_of_large_images(space, supernet, (3, 160, 160), 64) == []


def test_the_estimate_is_what_a_step_takes():
    space = search_spaces.get("micro")
    network = space.network(space.parse("|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|"), channels=4)
    macs, memory = forward_cost(copy.deepcopy(network).to("meta"), (3, 40, 40), 6, None)
    network.train()
    assert macs == 6 * count_macs(network, (3, 40, 40))
    kept, weights = {}, {t.untyped_storage().data_ptr() for t in network.state_dict().values()}
    alive = []

    def keep(tensor):
        alive.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(6, 3, 40, 40))
    real = sum(size for storage, size in kept.items() if storage not in weights)
    assert memory == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("call", ["search", "train"])
def test_runs_warn_before_they_start(call, capsys):
    data = torch.rand(16, 1, 96, 96), torch.arange(16) % 2
    small = {"channels": 1, "batch_size": 4, "epochs": 1, "callback": lambda metrics: True}
    if call == "search":
        nas.search("micro", data, **small)
    else:
        nas.train("|none~0|+|none~0|skip_connect~1|", data, space="micro", **small)
    said = capsys.readouterr().out
    assert said.count("warning: this network of the space 'micro' does not reduce large images") == 1
    assert "of 96 x 96 pixels 24 x 24 are left" in said
    assert "The forward pass of 4 images takes" in said


def test_small_images_warn_of_nothing(capsys):
    data = torch.rand(16, 1, 64, 64), torch.arange(16) % 2
    nas.search("micro", data, channels=1, batch_size=4, epochs=1)
    assert "does not reduce" not in capsys.readouterr().out
