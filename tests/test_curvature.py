"""The Hessian of the validation loss by the logits: against torch's own, and against differences."""

import re

import pytest
import small
import torch
from small import rng
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import nas
from nas.bilevel.measures import watch
from nas.bilevel.measures.curvature import MOST, Hessian, lanczos, largest_eigenvalue
from nas.bilevel.measures.early_stop import CurvatureStop
from recipes import InputError
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
    """Also where it was interrupted."""
    options, out = TOY | {"epochs": 4, "warmup_epochs": 0, "progress": False}, tmp_path / "run"
    plain = nas.search("micro", **options)
    nas.search("micro", **options, curvature_every=2, out=out, callback=lambda metrics: metrics["epoch"] == 3)
    measured = nas.search(out=out, resume=True, progress=False)
    told = {line["epoch"]: line.pop("curvature") for line in measured.history if "curvature" in line}
    assert list(told) == [2, 4]
    assert min(told.values()) > 0
    counts = [[line.pop("images_trained") for line in r.history] for r in (measured, plain)]
    more = [count - alone for count, alone in zip(*counts, strict=True)]
    assert more[0] == 0 < more[1] == more[2] < more[3]
    assert all(images % 16 == 0 for images in more)
    assert measured.history == plain.history
    assert torch.equal(measured.search.architecture.logits, plain.search.architecture.logits)
    assert "<h2>Curvature</h2>" in (out / "report.html").read_text()
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    shown = {event.step: event.value for event in board.Scalars("search/curvature")}
    assert shown == pytest.approx(told)


def stops(values, factor):
    """When a search stops, and whose architecture it takes, by the words of the paper: the mean of five
    around one is above `factor` times that four earlier, which is the sixth at least."""
    padded = torch.tensor([float("nan")] * 2 + list(values) + [float("nan")] * 2, dtype=DTYPE)
    means = padded.unfold(0, 5, 1).nanmean(-1)
    for now in range(len(values) - 2):
        if now - 4 >= 5 and means[now] / means[now - 4] > factor:
            return now + 2, now - 4
    return None


def test_a_search_stops_where_the_mean_has_risen():
    met = set()
    for seed in range(40):
        steps = torch.randn(25, generator=rng(seed), dtype=DTYPE)
        values = (0.15 * steps).cumsum(0).exp().tolist()
        stop, found = CurvatureStop(1.3, 25), None
        for number, value in enumerate(values):
            stop.add(2 * number, value, {"logits": torch.full((1, 1), float(number))})
            again = CurvatureStop(1.3, 25)
            again.restore(stop.state())
            assert again.state().keys() == stop.state().keys()
            stop = again
            if stop.found is not None:
                found = number, stop.found
                assert stop.learned[stop.found]["logits"] == stop.found
                assert stop.describe() == {"after": 2 * number, "logits_of": 2 * stop.found}
                break
        assert found == stops(values, 1.3)
        met.add(found)
    assert None in met
    assert len(met) > 5


LONG = TOY | {"epochs": 16, "warmup_epochs": 2, "train_limit": 40, "val_fraction": 0.5, "progress": False}
LONG |= {"evaluate_every": 20, "checkpoint_every": 20, "tensorboard": False}
ES = {"curvature_every": 1, "stop_curvature": 1.3, "arch_lr": 0.5}


def test_a_stopped_search_finds_what_it_would_have_found_before(tmp_path, monkeypatch):
    """The curvature, which is measured after epoch 3 for the first time that counts, rises in the 11th."""

    def rising(bilevel, batch, draws):
        return 1.0 if bilevel.work.trained < 10 * 2 * 16 else 2.0

    monkeypatch.setattr(watch, "largest_eigenvalue", rising)
    result = nas.search("micro", **LONG, **ES, edge_normalisation=True)
    values = [line["curvature"] for line in result.history]
    after, of = (number + 3 for number in stops(values[2:], 1.3))
    assert result.summary["stopped"] == {"after": after, "logits_of": of}
    assert of + 6 == after == len(result.history) < 16
    assert result.genotype == result.search.space.parse(result.history[of - 1]["genotype"])
    assert result.history[of - 1]["probabilities"] != result.history[-1]["probabilities"]
    weights = result.edge_weights.tolist()
    assert weights == result.supernet.edge_weights.tolist()
    assert weights == pytest.approx(result.history[of - 1]["edge_weights"], abs=1e-5)
    assert weights != pytest.approx(result.history[-1]["edge_weights"], abs=1e-5)
    out = tmp_path / "run"
    nas.search(
        "micro",
        **LONG,
        **ES,
        edge_normalisation=True,
        out=out,
        callback=lambda metrics: metrics["epoch"] == after - 1,
    )
    for _ in range(2):  # the second finds it finished
        resumed = nas.search(out=out, resume=True, progress=False)
        assert resumed.history == result.history
        assert resumed.genotype == result.genotype
        assert torch.equal(resumed.search.architecture.logits, result.search.architecture.logits)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"curvature_every": 0}, "`stop_curvature` needs `curvature_every`: give both, or drop it"),
        ({"epochs": 14}, "needs 12 measurements between warm-up and the last epoch"),
        ({"stop_curvature": 1.0}, "`stop_curvature` is 1.0, expected a number above 1"),
    ],
)
def test_what_could_never_stop_is_refused(options, line):
    with pytest.raises(InputError, match=re.escape(line)):
        nas.search("micro", **(LONG | ES | options))
