"""The alignment of the cells: measured, and as a term of the weight step, against autograd."""

import re
from itertools import combinations

import pytest
import small
import torch
import torch.nn.functional as F
from small import rng

import nas
import search_spaces
from estimators import Schedule
from nas import device
from nas.bilevel.measures.alignment import alignment, cell_gradients, directions, own_weights, repeated_cells
from nas.bilevel.policies import POLICIES
from nas.bilevel.terms import Alignment
from recipes import InputError
from search_spaces.cell import leave_out
from search_spaces.mixed_edge import Choice

DTYPE = torch.float64
TOY = {"data": "digits", "train_limit": 80, "batch_size": 16, "channels": 4, "progress": False}


def setup(**options):
    bilevel = small.bilevel("micro", "softmax", DTYPE, **options)
    images, labels = small.batch(1, DTYPE)
    weights = bilevel.architecture.probabilities()

    def loss_of(draw):
        return F.cross_entropy(bilevel.supernet(images, draw), labels)

    return bilevel, repeated_cells(bilevel.supernet), weights, loss_of


def cosines(gradients):
    pairs = combinations([gradient.flatten() for gradient in gradients], 2)
    return torch.stack([F.cosine_similarity(one, other, 0) for one, other in pairs]).mean()


def test_alignment_is_the_mean_cosine_and_directions_are_its_gradient():
    leaves = [torch.randn(3, 4, generator=rng(i), dtype=DTYPE).requires_grad_() for i in range(4)]
    torch.testing.assert_close(alignment(leaves), cosines(leaves))
    wanted = torch.autograd.grad(cosines(leaves), leaves)
    for found, exact in zip(directions([leaf.detach() for leaf in leaves]), wanted, strict=True):
        torch.testing.assert_close(found, exact)
    dead = [*(leaf.detach() for leaf in leaves), torch.zeros(3, 4, dtype=DTYPE)]
    torch.testing.assert_close(alignment(dead), cosines(leaves).detach() * 6 / 10)
    assert not directions(dead)[-1].any()


def test_every_cell_has_the_gradient_of_its_own_copy():
    bilevel, cells, weights, loss_of = setup()
    assert len(cells) > 1
    found = cell_gradients(loss_of, cells, weights)
    _, _, whole = bilevel.gradient_at(weights, small.batch(1, DTYPE))
    torch.testing.assert_close(sum(found), whole)
    step = 1e-6 * torch.randn(weights.shape, generator=rng(), dtype=DTYPE)
    for number, gradient in enumerate(found):
        moved = [weights + step * (i == number) for i in range(len(cells))]
        back = [weights - step * (i == number) for i in range(len(cells))]
        with torch.no_grad():
            with own_weights(cells, moved):
                above = loss_of(weights)
            with own_weights(cells, back):
                below = loss_of(weights)
        assert float(above - below) == pytest.approx(float(2 * (gradient * step).sum()), rel=1e-4)
    assert float(cosines(found)) < 0.99


@pytest.mark.parametrize(
    ("space", "cells", "count"), [("s4", 8, 6), ("nasbench201", 2, 6), ("mobile", None, 0)]
)
def test_cells_of_the_kind_that_occurs_most_often_are_compared(space, cells, count):
    """In the space of DARTS the normal ones, as the authors do."""
    space = search_spaces.get(space)
    with torch.device("meta"):
        supernet = space.supernet(
            channels=2, cells=cells or space.fewest_cells, num_classes=2, in_channels=1, edge_gradient="lean"
        )
    found = repeated_cells(supernet)
    assert len(found) == count
    assert len({cell.plan for cell in found}) == (count > 0)


@pytest.mark.parametrize("policy", ["draw", "perturbed:epsilon=0.1:0.1"])
def test_the_term_adds_the_gradient_of_the_alignment_to_that_of_the_loss(policy):
    term = Alignment(Schedule(0.0, 0.5), 1e-6)
    bilevel, cells, _, loss_of = setup(policy=POLICIES.build(policy), terms=[term])
    term.cells = cells
    (path,) = bilevel.policy.paths(bilevel.architecture, rng(3), 0, 0.5)
    copies = [path.clone().requires_grad_() for _ in cells]
    with own_weights(cells, copies):
        loss = loss_of(path)
    gradients = torch.autograd.grad(loss, copies, create_graph=True)
    objective = loss - 0.25 * cosines(gradients)
    wanted = torch.autograd.grad(objective, bilevel.parameters)
    bilevel.weight_step(small.batch(1, DTYPE), rng(3), 0, 0.5)
    for parameter, exact in zip(bilevel.parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, exact, rtol=1e-4, atol=1e-7)
    assert bilevel.work.trained == 4 * 6
    bilevel.weight_step(small.batch(1, DTYPE), rng(3), 0, 0.0)  # of weight 0
    assert bilevel.work.trained == 5 * 6


def test_cells_of_their_own_weights_are_in_the_same_network():
    """Where edges are weighed; and what was taken out is no direction."""
    space = search_spaces.get("micro")
    torch.manual_seed(0)
    supernet = space.supernet(channels=4, cells=2, num_classes=3, in_channels=1).to(DTYPE)
    images, labels = small.batch(1, DTYPE)
    weights = torch.rand(3, 5, generator=rng(), dtype=DTYPE)
    weights[1, 3] = 0
    supernet.weigh_edges(torch.tensor([1.0, 0.3, 0.7], dtype=DTYPE))
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3] = False
    leave_out(supernet, mask)
    cells = repeated_cells(supernet)
    with own_weights(cells, [weights] * len(cells)):
        inside = supernet(images, Choice(weights, None))
    torch.testing.assert_close(inside, supernet(images, weights))
    found = cell_gradients(lambda draw: F.cross_entropy(supernet(images, draw), labels), cells, weights)
    assert not torch.stack(found)[:, 1, 3].any()
    assert torch.stack(found)[:, 1, 4].all()


def test_the_term_is_that_of_float32_in_a_search_in_bfloat16():
    """Its passes differ by less than bfloat16 can tell apart."""
    low = device.autocast("bfloat16", torch.device("cpu"))

    def gradient(dtype, terms, **options):
        bilevel = small.bilevel("micro", "softmax", dtype, terms=terms, **options)
        for term in terms:
            term.cells = repeated_cells(bilevel.supernet)
        own = bilevel.precision
        bilevel.weight_step(small.batch(1, dtype), rng(3), 0, 0.5)
        assert bilevel.precision is own
        return torch.cat([p.grad.flatten() for p in bilevel.parameters if p.grad is not None]).double()

    def term(dtype, **options):
        added = gradient(dtype, [Alignment(Schedule(0.5, 0.5))], **options)
        return added - gradient(dtype, [], **options)

    exact, found = term(DTYPE), term(torch.float32, precision=low)
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_the_term_aligns_the_cells():
    found = {}
    for weight in (0.0, 0.5):
        term = Alignment(Schedule(weight, weight))
        bilevel, cells, weights, loss_of = setup(terms=[term])
        term.cells = cells
        for _ in range(10):
            bilevel.weight_step(small.batch(1, DTYPE), rng(3))
        found[weight] = float(alignment(cell_gradients(loss_of, cells, weights)))
    assert found[0.5] > found[0.0] + 0.03


def test_a_search_measures_its_alignment(tmp_path):
    options = TOY | {"estimator": "softmax", "epochs": 3, "warmup_epochs": 0, "alignment_every": 1}
    out = tmp_path / "run"
    options |= {"terms": "alignment:weight=0:0.25", "tensorboard": False}
    nas.search("micro", **options, out=out, callback=lambda metrics: metrics["epoch"] == 1)
    raised = nas.search(out=out, resume=True, progress=False)
    whole = nas.search("micro", **options)
    assert raised.history == whole.history
    assert all(-1 <= line["alignment"] <= 1 and "terms" not in line for line in whole.history)
    assert "<h2>Alignment</h2>" in (out / "report.html").read_text()
    assert whole.history[-1]["images_trained"] == 6 * 16 * 5 - 3 * 16 + 3 * 16


@pytest.mark.parametrize(
    ("space", "options", "line"),
    [
        ("micro", {"terms": "alignment"}, "needs weight steps that train a mixture"),
        ("nasbench_macro", {"alignment_every": 1}, "`alignment_every` compares cells of a kind"),
        ("nasbench_macro", {"terms": "alignment"}, "compares cells of one kind"),
        ("micro", {"terms": "alignment:epsilon=0"}, "expected a number above 0"),
    ],
)
def test_what_has_no_meaning_is_refused(space, options, line):
    with pytest.raises(InputError, match=re.escape(line)):
        nas.search(space, **TOY, epochs=2, **options)
