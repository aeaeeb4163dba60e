"""The two steps of the search, first and second order."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from small import batch, rng, slow_in
from small import bilevel as setup
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import estimators
import search_spaces
from nas.bilevel.unroll import unrolled_gradient, unrolled_gradient_exact
from nas.steps import evaluating
from search_spaces import operations

pytestmark = pytest.mark.usefixtures("fixed_noise")
drawn_noise = operations.Noise.forward


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("estimator", estimators.names())
@pytest.mark.parametrize("order", [1, 2])
def test_architecture_step_moves_the_logits_only(estimator, order):
    if order == 2 and estimators.family(estimator).signal == "loss":
        pytest.skip("second order differentiates the loss, which this estimator does not")
    bilevel = setup(estimator=estimator, order=order)
    if estimator == "reinforce":
        bilevel.architecture.estimator.load_state({"baseline": 0.0})
    weights, logits = snapshot(bilevel.supernet), bilevel.architecture.logits.detach().clone()
    result = bilevel.architecture_step(batch(1), batch(2), rng(3))
    assert not torch.equal(bilevel.architecture.logits, logits)
    assert all(torch.equal(v, weights[k]) for k, v in bilevel.supernet.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in bilevel.supernet.parameters())
    assert result.images == 6 * bilevel.draws
    assert result.loss.isfinite()
    assert not result.loss.requires_grad


@pytest.mark.parametrize("estimator", ["reinmax", "concrete", "st_gumbel"])
def test_more_draws_are_the_average_of_single_ones(estimator):
    """The gradient from N draws is the mean of the gradients at each of the same N draws."""
    bilevel = setup(estimator=estimator, dtype=torch.float64, draws=3)
    valid = batch(1, torch.float64)
    before = bilevel.architecture.logits.detach().clone()
    bilevel.architecture_step(valid, valid, rng(3))
    step = before - bilevel.architecture.logits.detach()  # plain SGD with learning rate 1
    logits = before.expand(3, *before.shape).clone().requires_grad_()
    draws = bilevel.architecture.estimator(logits, rng(3))
    losses = [F.cross_entropy(bilevel.supernet(valid[0], draw), valid[1]) for draw in draws]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
    torch.testing.assert_close(step, gradient.sum(0))


def test_more_draws_have_the_same_mean_and_less_variance():
    """Against the exact gradient of E[L(D)] by enumeration of all 125 architectures, REINFORCE with
    leave-one-out baseline is unbiased (within 4.5 standard errors) and N draws shrink its variance."""
    space = search_spaces.get("micro")
    bilevel = setup(estimator="reinforce_loo", dtype=torch.float64)
    valid = batch(1, torch.float64)
    logits = bilevel.architecture.logits.detach().clone()
    with torch.no_grad():
        values = torch.stack(
            [
                F.cross_entropy(bilevel.supernet(valid[0], list(choice)), valid[1])
                for choice in itertools.product(range(5), repeat=space.num_slots)
            ]
        ).view(5, 5, 5)
    leaf = logits.clone().requires_grad_()
    p = leaf.softmax(-1)
    (exact,) = torch.autograd.grad(torch.einsum("ijk,i,j,k->", values, *p), leaf)
    variances = {}
    for count in (2, 8):
        estimates = []
        for seed in range(1200 // count):
            draws = bilevel.architecture.estimator(logits.expand(count, *logits.shape), rng(seed))
            i, j, k = draws.argmax(-1).unbind(1)
            estimates.append(bilevel.architecture.estimator.gradient(logits, draws, values[i, j, k]))
        stacked = torch.stack(estimates)
        error = stacked.mean(0) - exact
        assert (error.abs() < 4.5 * stacked.std(0) / len(estimates) ** 0.5 + 1e-12).all()
        variances[count] = stacked.var(0).sum()
    assert variances[8] < 0.4 * variances[2]


def without_normalisation(supernet):
    """Replace every normalisation, by which images of a batch see each other."""
    for module in list(supernet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def test_a_draw_per_image_is_each_images_own_architecture():
    """The output of an image is that of the network it drew, as if it were alone."""
    bilevel = setup("nasbench201", dtype=torch.float64)
    without_normalisation(bilevel.supernet)
    images, _ = batch(1, torch.float64)
    draws = bilevel.architecture.estimator(bilevel.architecture.logits.detach().expand(6, 6, 5), rng(2))
    together = bilevel.supernet(images, draws)
    for i, choice in enumerate(draws.argmax(-1).tolist()):
        torch.testing.assert_close(together[i : i + 1], bilevel.supernet(images[i : i + 1], choice))


@pytest.mark.parametrize("estimator", slow_in(["reinmax", "reinforce_loo"], "reinforce_loo"))
def test_draws_per_image_have_the_same_mean(estimator):
    """Estimates of draws for the batch and of a draw per image agree in the mean (within 4.5 standard
    errors), for REINFORCE also with the exact gradient by enumeration.

    Their variance may be either way: the images' gradients no longer cancel before the draw. The images are
    alike and of one class, so that the means stand out from it.
    """
    dtype = torch.float64
    images, labels = batch(1, dtype)
    valid = images[:1] + 0.3 * images, torch.zeros_like(labels)
    estimates = {}
    for per_image in (False, True):
        bilevel = setup(estimator=estimator, dtype=dtype, draw_per="image" if per_image else "step")
        without_normalisation(bilevel.supernet)
        start = bilevel.architecture.logits.detach().clone()
        rows = []
        for seed in range(400):
            with torch.no_grad():
                bilevel.architecture.logits.copy_(start)
            bilevel.architecture_step(valid, valid, rng(seed))
            rows.append(start - bilevel.architecture.logits.detach())
        estimates[per_image] = torch.stack(rows)
    one, many = estimates[False], estimates[True]
    error = ((one.var(0) + many.var(0)) / 400).sqrt()
    assert ((one.mean(0) - many.mean(0)).abs() < 4.5 * error + 1e-12).all()
    for found in (one, many):
        assert found.mean(0).norm() > 4 * found.std(0).norm() / 20
    if estimator == "reinforce_loo":
        with torch.no_grad():
            choices = itertools.product(range(5), repeat=3)
            values = [F.cross_entropy(bilevel.supernet(valid[0], list(c)), valid[1]) for c in choices]
        leaf = start.clone().requires_grad_()
        mean = torch.einsum("ijk,i,j,k->", torch.stack(values).view(5, 5, 5), *leaf.softmax(-1))
        (exact,) = torch.autograd.grad(mean, leaf)
        assert ((many.mean(0) - exact).abs() < 4.5 * many.std(0) / 20 + 1e-12).all()


def test_loss_based_architecture_steps_build_no_graph():
    bilevel = setup(estimator="reinforce")
    seen = []
    bilevel.supernet.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    bilevel.architecture_step(batch(1), batch(2), rng(3))
    assert seen == [False]
    assert "baseline" in bilevel.architecture.estimator.state()


class WeightGradients(TorchDispatchMode):
    """Whether each convolution that is differentiated is asked for the gradient of its weight."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.asked.append(args[-1][1])
        return function(*args, **(kwargs or {}))


def kept_for_backward(action):
    """Bytes of the tensors that `action` keeps for backward passes."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        action()
    return sum(sizes)


def test_first_order_architecture_steps_compute_no_weight_gradients():
    """No convolution is asked for the gradient of its weight, and nothing is kept for it."""
    bilevel = setup("darts")
    with WeightGradients() as gradients:
        bilevel.architecture_step(batch(1), batch(2), rng())
    assert gradients.asked
    assert not any(gradients.asked)
    assert all(p.grad is None for p in bilevel.supernet.parameters())
    draw = bilevel.architecture.estimator(bilevel.architecture.logits.detach(), rng()).requires_grad_()
    kept = kept_for_backward(lambda: bilevel.architecture_step(batch(1), batch(2), rng()))
    with_weights = kept_for_backward(lambda: bilevel.supernet(batch(1)[0], draw))
    assert 0 < kept < 0.8 * with_weights


@pytest.mark.parametrize("estimator", estimators.names())
def test_weight_step_moves_the_weights_only(estimator):
    bilevel = setup(estimator=estimator)
    weights, logits = snapshot(bilevel.supernet), bilevel.architecture.logits.detach().clone()
    bilevel.weight_step(batch(1), rng(3))
    assert torch.equal(bilevel.architecture.logits, logits)
    assert bilevel.architecture.logits.grad is None
    assert any(not torch.equal(v, weights[k]) for k, v in bilevel.supernet.state_dict().items())


def test_weight_step_trains_the_drawn_architecture_and_leaves_the_others():
    bilevel = setup("nasbench201")
    choice = bilevel.architecture.draw(rng(3))
    weights = snapshot(bilevel.supernet)
    bilevel.weight_step(batch(1), rng(3))
    moved = {k for k, v in bilevel.supernet.state_dict().items() if not torch.equal(v, weights[k])}
    operations = search_spaces.get("nasbench201").operations
    for name in moved:
        if ".candidates." in name:
            row = int(name.split(".edges.")[1].split(".")[0])
            assert name.split(".candidates.")[1].split(".")[0] == operations[choice[row]]


def test_clipping_bounds_the_gradient():
    bilevel = setup(clip=1e-3)
    bilevel.weight_step(batch(1), rng(3))
    norms = [p.grad.norm() for p in bilevel.supernet.parameters() if p.grad is not None]
    assert torch.stack(norms).norm() <= 1.001e-3


@pytest.mark.parametrize(
    "space_name", slow_in(sorted({*search_spaces.names()} - {"mobile_se"}), "mobile", "nasnet", "darts")
)
@pytest.mark.parametrize("estimator", ["reinmax", "softmax"])
def test_second_order_by_finite_differences_equals_double_backward(space_name, estimator, monkeypatch):
    """Lean central differences against exact double backward through the dense supernet.

    With smooth activations, as a second derivative does not exist at the kinks of a ReLU.
    """
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))
    monkeypatch.setattr(F, "hardswish", lambda x, inplace=False: F.silu(x))
    dtype, rate = torch.float64, 0.3
    valid, train = batch(1, dtype), batch(2, dtype)
    results = {}
    for mode, unroll in (("lean", unrolled_gradient), ("dense", unrolled_gradient_exact)):
        bilevel = setup(space_name, estimator, dtype, mode)
        draw = bilevel.architecture.estimator(bilevel.architecture.masked(), rng(5)).detach().requires_grad_()
        small = {"epsilon": 1e-5} if mode == "lean" else {}
        results[mode] = unroll(bilevel.supernet, F.cross_entropy, draw, valid, train, rate, **small)
    torch.testing.assert_close(results["lean"][0], results["dense"][0], rtol=1e-10, atol=1e-10)
    lean, dense = results["lean"][2], results["dense"][2]
    assert (lean - dense).norm() / dense.norm() < 1e-4

    bilevel = setup(space_name, estimator, dtype)
    draw = bilevel.architecture.estimator(bilevel.architecture.masked(), rng(5)).detach().requires_grad_()
    loss = F.cross_entropy(bilevel.supernet(valid[0], draw), valid[1])
    (first_order,) = torch.autograd.grad(loss, draw)
    assert (first_order - dense).norm() / dense.norm() > 0.05  # the second order does matter


def test_differences_see_the_same_noise(monkeypatch):
    """Otherwise the noise, divided by the length of their step, is all that they consist of."""
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: F.softplus(x))
    monkeypatch.setattr(operations.Noise, "forward", drawn_noise)
    torch.manual_seed(0)
    bilevel = setup("s4", "reinmax", torch.float64)
    draw = bilevel.architecture.estimator(bilevel.architecture.logits, rng(5)).detach().requires_grad_()
    arguments = (bilevel.supernet, F.cross_entropy, draw, batch(1, torch.float64), batch(2, torch.float64))
    found = []
    for epsilon in (1e-4, 1e-5):
        torch.manual_seed(1)
        found.append(unrolled_gradient(*arguments, 0.3, epsilon)[2])
    assert (found[0] - found[1]).norm() < 1e-3 * found[0].norm()


class HostReads(TorchDispatchMode):
    """Counts what makes a GPU's host wait: a number that is read out of a tensor, a result whose size depends
    on values, a copy to another device."""

    SIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "equal", "repeat_interleave")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read = function is torch.ops.aten._local_scalar_dense.default
        sized = function._opname in self.SIZED
        tensors = [t for t in (*args, result) if isinstance(t, torch.Tensor)]
        copied = function._opname in ("_to_copy", "copy_") and len({t.device for t in tensors}) > 1
        self.count += read or sized or copied
        return result


@pytest.mark.parametrize("estimator", ["reinmax", "st_gumbel", "softmax", "reinforce_loo"])
def test_steps_read_nothing_from_the_device(estimator):
    """No number is read from a tensor for an edge, a candidate or a cell, in forward or backward.

    The choice itself is read from the draw, whose tensors live on the CPU, as do the logits. Whether their
    step is skipped is the one thing that is read; that of the weights is decided on the device by a fused
    optimizer, which a search has on CUDA.
    """
    bilevel = setup("nasbench201", estimator, clip=5.0, architecture_clip=1.0)
    bilevel.weight_optimizer.param_groups[0]["fused"] = True
    with HostReads() as reads:
        torch.ones(1).item()
        torch.ones(1).nonzero()
        torch.ones(1).to("meta")
        assert reads.count == 3
        bilevel.weight_step(batch(1), rng(2))
        assert reads.count == 3
        bilevel.architecture_step(batch(1), batch(2), rng(1))
        assert reads.count == 4


def test_unrolling_restores_the_weights_even_after_an_error():
    bilevel = setup()
    weights = snapshot(bilevel.supernet)
    draw = bilevel.architecture.estimator(bilevel.architecture.logits, rng(5)).detach().requires_grad_()
    bad = (batch(1)[0], torch.tensor([9] * 6))
    with pytest.raises(IndexError):
        unrolled_gradient(bilevel.supernet, F.cross_entropy, draw, bad, batch(2), 0.1)
    assert all(torch.equal(v, weights[k]) for k, v in bilevel.supernet.state_dict().items())
    assert all(p.requires_grad for p in bilevel.supernet.parameters())


def test_search_learns_which_candidate_helps():
    """On a task that `none` cannot solve, the logits leave it behind on the edge that decides, and the
    networks that are drawn are better than those of uniform logits. After so short a training it is open
    which of the others they prefer."""
    bilevel = setup("micro")
    bilevel.architecture_optimizer = torch.optim.Adam([bilevel.architecture.logits], 0.05)
    images = torch.randn(60, 1, 8, 8, generator=rng(0))
    labels = torch.arange(60) % 3
    for label in range(3):
        images[labels == label] += 2 * torch.sin(torch.arange(8.0) * (label + 1))
    with torch.no_grad():
        bilevel.architecture.logits.zero_()
    for step in range(80):
        bilevel.weight_step((images[:30], labels[:30]), rng(2 * step))
        bilevel.architecture_step((images[30:], labels[30:]), (images[:30], labels[:30]), rng(2 * step + 1))
    p = bilevel.architecture.logits.detach().softmax(-1)
    with torch.no_grad():
        choices = itertools.product(range(5), repeat=3)
        losses = [F.cross_entropy(bilevel.supernet(images[30:], list(c)), labels[30:]) for c in choices]
    losses = torch.stack(losses).view(5, 5, 5)
    assert p[1, 0] < 0.15  # from the input straight to the output
    assert torch.einsum("ijk,i,j,k->", losses, *p) < 0.7 * losses.mean()


@pytest.mark.parametrize("training", [False, True])
def test_an_evaluation_that_fails_leaves_the_mode(training):
    model = nn.Sequential(nn.Dropout()).train(training)
    with pytest.raises(KeyError), evaluating(model):  # noqa: PT012
        assert not model[0].training
        raise KeyError
    assert model[0].training == training
