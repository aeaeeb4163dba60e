"""The Hessian of the validation loss by the logits: against torch's own, and against differences."""

import pytest
import small
import torch
from small import rng
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nas
from nas.bilevel.curvature import MOST, Hessian, lanczos, largest_eigenvalue
from search_spaces.mixed_edge import Choice

DTYPE = torch.float64
TOY = {"data": "digits", "train_limit": 80, "batch_size": 16, "channels": 4, "val_fraction": 0.25}


def setup(space_name="micro", estimator="reinmax", masked=False):
    bilevel = small.bilevel(space_name, estimator, DTYPE)
    if masked:  # 5, 3 and 1 candidates
        logits = bilevel.architecture.logits
        bilevel.architecture.mask = torch.arange(logits.shape[1]) < torch.tensor([[5], [3], [1]])
    return bilevel, small.batch(2, DTYPE)


def full(bilevel, batch):
    """The Hessian (E * K, E * K), by torch."""
    masked = bilevel.architecture.masked().detach()
    there = masked.isfinite()

    def loss(values):
        logits = masked.masked_scatter(there, values)
        return bilevel.task.loss(bilevel.supernet(batch[0], Choice(logits.softmax(-1), None)), batch[1])

    found = torch.zeros(masked.numel(), masked.numel(), dtype=DTYPE)
    rows = there.flatten().nonzero().flatten()
    found[rows.unsqueeze(1), rows] = torch.autograd.functional.hessian(loss, masked[there])
    return found


CASES = [("micro", "reinmax", False), ("micro", "softmax", True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_and_the_largest_eigenvalue_are_those_of_the_whole_hessian(case):
    """Whatever the estimator is."""
    bilevel, batch = setup(*case)
    hessian, exact = Hessian(bilevel, batch), full(bilevel, batch)
    vector = torch.randn(bilevel.architecture.logits.shape, generator=rng(2), dtype=DTYPE)
    torch.testing.assert_close(hessian(vector).flatten(), exact @ vector.flatten())
    assert all(p.grad is None and p.requires_grad for p in bilevel.parameters)
    wanted = float(torch.linalg.eigvalsh(exact)[-1])
    assert wanted > 1e-3
    assert largest_eigenvalue(bilevel, batch, rng(3)) == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("space", ["micro", "s4"])
def test_a_product_is_the_difference_of_the_gradients_of_the_mixture(space, fixed_noise):
    """Of those that architecture steps compute, at a step too short for a kink of the network."""
    bilevel, batch = setup(space, "st_gumbel")
    logits, step = bilevel.architecture.logits.detach(), 1e-6
    vector = torch.randn(logits.shape, generator=rng(2), dtype=DTYPE)

    def gradient(at):
        leaf = at.clone().requires_grad_()
        mixture = leaf.softmax(-1)
        _, _, at_mixture = bilevel.gradient_at(mixture.detach(), batch)
        return torch.autograd.grad(mixture, leaf, at_mixture)[0]

    wanted = (gradient(logits + step * vector) - gradient(logits - step * vector)) / (2 * step)
    torch.testing.assert_close(Hessian(bilevel, batch)(vector), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "values",
    [[3.0], [0.0, 0.0], [-9.0, 1.0, 2.0], [-3.0, -1.0, 0.0], [-50.0, *range(60)], [2.0] * 7 + [1.0] * 3],
)
def test_lanczos_finds_the_largest_even_where_a_negative_one_is_longer(values):
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=rng(), dtype=DTYPE))[0]
    matrix = basis @ torch.diag(torch.tensor(values, dtype=DTYPE)) @ basis.T
    products = []

    def product(vector):
        products.append(vector)
        return matrix @ vector

    found = lanczos(product, torch.randn(len(values), generator=rng(1)))
    assert found == pytest.approx(max(values), rel=1e-2, abs=1e-9)
    assert len(products) <= min(MOST, len(values) + 1)
    assert lanczos(product, torch.zeros(len(values))) == 0


def test_a_search_tells_its_curvature_and_is_otherwise_the_same(tmp_path):
    plain = nas.search("micro", **TOY, epochs=4, warmup_epochs=0, progress=False)
    options = TOY | {"epochs": 4, "warmup_epochs": 0, "curvature_every": 2, "progress": False}
    nas.search("micro", **options, out=tmp_path / "run", callback=lambda metrics: metrics["epoch"] == 3)
    measured = nas.search(out=tmp_path / "run", resume=True, progress=False)
    whole = nas.search("micro", **options)
    assert measured.history == whole.history
    assert ["curvature" in line for line in whole.history] == [False, True, False, True]
    assert all(line["curvature"] > 0 for line in whole.history[1::2])
    assert torch.equal(whole.search.architecture.logits, plain.search.architecture.logits)
    counts = [line["images_trained"] for line in whole.history]
    more = [count - line["images_trained"] for count, line in zip(counts, plain.history, strict=True)]
    assert more[0] == 0 < more[1] == more[2] < more[3]
    assert more[3] % 16 == 0
    assert "<h2>Curvature</h2>" in (tmp_path / "run" / "report.html").read_text()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    told = {event.step: event.value for event in board.Scalars("search/curvature")}
    assert told == pytest.approx({line["epoch"]: line["curvature"] for line in whole.history[1::2]})
