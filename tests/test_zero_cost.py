"""Scores of untrained networks, against references written out."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import nas
from nas.task import Classification
from nas.zero_cost import SCORES, Naswot, Synflow, ZeroCost, Zico, relu_codes
from recipes import InputError
from search_spaces.nasbench201 import micro

TASK = Classification(3)


def flat(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def data(count=8, size=(1, 2, 2), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, *size, generator=rng), torch.arange(count) % 3


def network(cell="|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|"):
    torch.manual_seed(0)
    return micro.network(micro.parse(cell), channels=4, num_classes=3, in_channels=1)


# Synflow


def test_synflow_is_the_sum_over_paths():
    first, second = nn.Linear(4, 3), nn.Linear(3, 2)
    a, b = first.weight.tolist(), second.weight.tolist()
    paths = sum(abs(a[j][i] * b[k][j]) for i in range(4) for j in range(3) for k in range(2))
    # The weights of the first layer carry the paths; those of the second also what the bias brings.
    through_bias = sum(abs(first.bias.tolist()[j] * b[k][j]) for j in range(3) for k in range(2))
    net = flat(first, nn.ReLU(), second)
    assert Synflow()(net, *data(), TASK) == pytest.approx(math.log(2 * paths + through_bias), rel=1e-6)


def test_synflow_by_hand():
    net = flat(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
        net[4].weight.copy_(torch.tensor([[-2.0, 4.0]]))
    images = torch.randn(4, 1, 1, 2)
    # Paths 1*2 + 2*2 + 0.5*4 + 3*4 = 20, once for each of the two layers; the normalisation is left out.
    assert Synflow()(net, images, torch.zeros(4).long(), TASK) == pytest.approx(math.log(40))


def test_synflow_of_a_cell_does_not_overflow_or_look_at_the_data():
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1e6)
    score = Synflow()(net, *data(size=(1, 8, 8)), TASK)
    assert 50 < score < 1000
    assert score == Synflow()(net, *data(size=(1, 8, 8), seed=1), TASK)


def test_a_network_that_nothing_gets_through():
    net = flat(nn.Linear(4, 2))
    nn.init.zeros_(net[1].weight)
    assert Synflow()(net, *data(), TASK) == -math.inf


# Codes of ReLUs


def codes_by_hand(net, images):
    """Bits (B, N) of two hidden layers, by explicit products."""
    x = images.flatten(1)
    first = (x @ net[1].weight.T + net[1].bias).clamp_min(0)
    second = first @ net[3].weight.T + net[3].bias
    return torch.cat([first > 0, second > 0], 1).tolist()


@pytest.fixture
def net():
    torch.manual_seed(1)
    return flat(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))


def test_naswot_against_hamming_distances(net):
    images, labels = data(6)
    bits = codes_by_hand(net, images)
    kernel = [[50 - sum(a != b for a, b in zip(one, two, strict=True)) for two in bits] for one in bits]
    expected = np.linalg.slogdet(np.array(kernel, float))
    assert expected[0] == 1
    assert Naswot()(net, images, labels, TASK) == pytest.approx(expected[1], rel=1e-9)


def test_images_that_look_alike():
    same = data(1)[0].repeat(4, 1, 1, 1)
    net = flat(nn.Linear(4, 10), nn.ReLU())
    assert Naswot()(net, same, torch.zeros(4).long(), TASK) < -20  # a singular matrix


# ZiCo


@pytest.mark.parametrize(("batches", "parts"), [(2, (6, 5)), (3, (4, 4, 3))])
def test_zico_of_a_linear_model(batches, parts):
    net = flat(nn.Linear(4, 3))
    images, labels = data(11)
    x, start, sizes = images.flatten(1).double().numpy(), 0, []
    weight, bias = (p.detach().double().numpy() for p in net.parameters())
    for part in parts:  # the gradient of the cross entropy is (p - y) x^T, averaged
        here, answers = x[start : start + part], np.eye(3)[labels[start : start + part]]
        e = np.exp(here @ weight.T + bias)
        sizes.append(np.abs((e / e.sum(1, keepdims=True) - answers).T @ here / part))
        start += part
    expected = math.log((np.mean(sizes, 0) / np.std(sizes, 0)).sum())
    assert Zico(11, batches)(net, images, labels, TASK) == pytest.approx(expected, rel=1e-4)


def test_zico_of_two_layers_is_the_sum_of_their_logarithms(net):
    images, labels = data(8)
    gradients = []
    for part in (slice(0, 4), slice(4, 8)):
        TASK.loss(net(images[part]), labels[part]).backward()
        gradients.append([net[i].weight.grad.abs().double() for i in (1, 3, 5)])
        net.zero_grad()
    expected = 0.0
    for a, b in zip(*gradients, strict=True):
        mean, std = (a + b) / 2, (a - b).abs() / 2  # of two
        expected += math.log(float((mean / std)[std > 0].sum()))
    assert Zico(8)(net, images, labels, TASK) == pytest.approx(expected, rel=1e-6)


def test_batches_that_agree_say_nothing(net):
    images = data(4)[0].repeat(2, 1, 1, 1)
    assert Zico(8)(net, images, torch.tensor([0, 1, 2, 0]).repeat(2), TASK) == 0.0


# Both


@pytest.mark.parametrize(("name", "rel"), [("naswot", 1e-9), ("zico", 1e-3)])
def test_the_order_of_images_and_units_does_not_matter(name, rel, net):
    images, labels = data(12)
    score = SCORES.build(f"{name}:images=12")
    before = score(net, images, labels, TASK)
    half = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    order = torch.cat([half, half + 6])  # the batches of zico stay
    assert score(net, images[order], labels[order], TASK) == pytest.approx(before, rel=rel)
    with torch.no_grad():
        for p in (net[1].weight, net[1].bias):
            p.copy_(p.flip(0))
        net[3].weight.copy_(net[3].weight.flip(1))
    assert score(net, images, labels, TASK) == pytest.approx(before, rel=rel)


def test_normalisations_take_the_statistics_of_the_batch():
    images, _ = data(16)
    norm = nn.BatchNorm2d(1)
    norm.running_mean += 100.0
    (on,) = relu_codes(nn.Sequential(norm, nn.ReLU(), nn.Dropout(1.0)), images)
    assert 0.2 < on.float().mean() < 0.8


def test_other_activations_count_as_relus():
    images, labels = data(16)
    layers = [nn.Flatten(), nn.Linear(4, 10)]
    values = {
        type(act): Naswot()(nn.Sequential(*layers, act), images, labels, TASK)
        for act in (nn.ReLU(), nn.Hardswish(inplace=True), nn.SiLU(), nn.GELU())
    }
    assert len(set(values.values())) == 1


def test_more_images_than_asked_for_are_left_out(net):
    images, labels = data(40)
    for score in (Naswot(8), Zico(8)):
        assert score(net, images, labels, TASK) == score(net, images[:8], labels[:8], TASK)


# All of them


@pytest.mark.parametrize("name", SCORES.names())
def test_nothing_is_changed(name):
    net, (images, labels) = network(), data(size=(1, 8, 8))
    net.blocks[0].eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    seen = images.clone()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = SCORES.build(name)(net, images, labels, TASK)
    assert math.isfinite(found)
    assert found == SCORES.build(name)(net, images, labels, TASK)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(images, seen)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[:2]
    assert torch.equal(torch.get_rng_state(), generators[2])


@pytest.mark.parametrize("name", SCORES.names())
def test_convolutions_score_above_nothing(name):
    images, labels = data(32, (1, 8, 8))
    score = SCORES.build(name)
    poor = score(network("|none~0|+|skip_connect~0|none~1|"), images, labels, TASK)
    assert score(network("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"), images, labels, TASK) > poor


@pytest.mark.parametrize(
    "text",
    ["naswot:images=1", "zico:images=3", "zico:batches=1", "naswot:images=x", "synflow:images=3", "naswt"],
)
def test_bad_settings(text):
    with pytest.raises(InputError):
        SCORES.build(text)


def test_a_network_without_relus():
    for kinds, says in (((nn.ReLU,), "no ReLU, whose"), ((nn.ReLU, nn.SiLU), "no ReLU or SiLU, whose")):
        with pytest.raises(InputError, match=says):
            relu_codes(flat(nn.Linear(4, 3), nn.GELU()), data()[0], kinds)


def test_a_score_of_ones_own():
    class Outputs(ZeroCost):
        """Takes the network apart, of which it has a copy."""

        def __init__(self, factor: float = 1.0) -> None:
            self.factor = factor

        def score(self, network, images, labels, task):
            network.zeroed = nn.init.zeros_(network[1].weight)
            return self.factor * len(images)

    nas.register_zero_cost("outputs", Outputs)
    net = flat(nn.Linear(4, 2))
    assert SCORES.build("outputs:factor=0.5")(net, *data(40), TASK) == 16
    assert net[1].weight.abs().sum() > 0
