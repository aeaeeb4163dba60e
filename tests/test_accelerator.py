"""What steps ask of the host of a GPU, with the meta device in its place; see lane.py."""

import itertools

import pytest
import torch
from lane import META, Watch, WrongDeviceError, accelerator
from torch import nn

import estimators
import search_spaces
from nas import device as devices
from nas.bilevel.architecture import Architecture
from nas.bilevel.search import Search
from nas.bilevel.steps import Bilevel
from nas.bilevel.unroll import unrolled_gradient, unrolled_gradient_exact
from nas.data import Augmentation, Batches, Delivery, Images
from nas.task import Classification
from nas.training.average import Average
from recipes import SearchOptions
from search_spaces.mixed_edge import EDGE_GRADIENTS

THE_READ = [("copy to the host", "nas/bilevel/steps.py _fetch")]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch():
    return torch.empty(6, 1, 8, 8, device=META), torch.zeros(6, dtype=torch.long, device=META)


def setup(
    space_name="micro", estimator="reinmax", edge_gradient="lean", precision="float32", cells=None, **options
):
    space = search_spaces.get(space_name)
    size = {"channels": 4, "cells": cells or space.fewest_cells, "num_classes": 3, "in_channels": 1}
    with torch.device(META):
        supernet = space.supernet(**size, edge_gradient=edge_gradient)
    supernet = devices.place(supernet, META)
    weight_optimizer = torch.optim.SGD(supernet.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True)
    weight_optimizer.param_groups[0]["fused"] = True  # as on CUDA
    architecture = Architecture(space, estimators.get(estimator))
    return Bilevel(
        supernet,
        architecture,
        Classification(3),
        weight_optimizer,
        torch.optim.Adam([architecture.logits], 0.01),
        clip=5.0,
        architecture_clip=1.0,
        precision=devices.autocast(precision, META),
        unroll=unrolled_gradient_exact if edge_gradient == "dense" else unrolled_gradient,
        **options,
    )


def waits_of_both_steps(bilevel):
    """Of a weight step and of an architecture step."""
    found = []
    for step in (
        lambda: bilevel.weight_step(batch(), rng(2)),
        lambda: bilevel.architecture_step(batch(), batch(), rng(1)),
    ):
        with Watch() as watch:
            step()
        found.append(watch.waits)
    return found


@pytest.fixture(autouse=True)
def _accelerator():
    with accelerator():
        yield


QUICKLY = ("micro", "nasbench201", "s3", "nasbench_macro")  # one of each kind; the others take longer


@pytest.mark.parametrize(
    "space",
    [pytest.param(n, marks=[] if n in QUICKLY else [pytest.mark.slow]) for n in search_spaces.names()],
)
@pytest.mark.parametrize("edge_gradient", EDGE_GRADIENTS)
def test_a_pair_of_steps_waits_once(space, edge_gradient):
    """For the gradient of all draws together, and the loss with it; in either precision."""
    small = search_spaces.get(space).num_slots < 10
    combinations = list(itertools.product(("bfloat16", "float32"), (1, 2)))
    for precision, draws in combinations if small else combinations[: 1 + (edge_gradient == "lean")]:
        bilevel = setup(space, "reinmax", edge_gradient, precision, draws=draws)
        weight, architecture = waits_of_both_steps(bilevel)
        assert weight == []
        assert architecture == THE_READ


@pytest.mark.parametrize("estimator", estimators.names())
def test_with_every_estimator(estimator):
    for edge_gradient, draws in itertools.product(("lean", "dense"), (None, 3)):
        bilevel = setup("micro", estimator, edge_gradient, draws=draws)
        if estimator == "reinforce":
            bilevel.architecture.estimator.load_state({"baseline": 0.0})
        assert waits_of_both_steps(bilevel) == [[], THE_READ]


@pytest.mark.parametrize("estimator", ["reinmax", "reinforce_loo"])
def test_with_a_draw_for_every_image(estimator):
    assert waits_of_both_steps(setup(estimator=estimator, draw_per="image")) == [[], THE_READ]


@pytest.mark.parametrize("edge_gradient", ["lean", "dense"])
def test_of_second_order(edge_gradient):
    assert waits_of_both_steps(setup(edge_gradient=edge_gradient, order=2)) == [[], THE_READ]


def test_the_lane_sees_what_waits():
    x = torch.ones(3, device=META)
    with Watch() as watch:
        x.sum().item()
        x.nonzero()
        x.cpu()
        torch.ones(3).to(META)
        torch.ones(3).to(META, non_blocking=True)  # goes on while it is copied
        torch.ones(()).add(x)  # a number that the host has
        with pytest.raises(WrongDeviceError):
            x + torch.ones(3)
    names = ["_local_scalar_dense", "nonzero", "copy to the host", "blocking copy to the device"]
    assert [what for what, _ in watch.waits] == names
    assert watch.launches["sum"] == watch.launches["add"] == 1


def training(**options):
    """A final training, with its network on the stand-in."""
    from benchmarks import subjects
    from nas.training.final import Training
    from recipes import FinalOptions

    sizes = {"channels": 4, "cells": 3, "batch_size": 4, "epochs": 2}
    chosen = FinalOptions(genotype="darts_v2", **sizes, **options)
    found = Training.of(chosen, {"dataset": subjects.random_images(16)})
    found.model.train()
    return found


def on_meta(job):
    """`job` with its network, and the lists made of it, on the stand-in."""
    from nas.guard import KeptBuffers
    from nas.training.timm_parts import build_optimizer

    job.model = job.forward = devices.place(job.model, META)
    job.parameters = list(job.model.parameters())
    job.statistics = [b for b in job.model.buffers() if b.is_floating_point()]
    job.kept_buffers = KeptBuffers(job.model)
    job.optimizer = build_optimizer(job.model, job.options, torch.device("cpu"))
    job.optimizer.param_groups[0]["fused"] = job.options.optimizer == "sgd"
    job.precision = devices.autocast(job.options.precision, META)
    if job.ema is not None:
        job.ema = Average(job.model, job.ema.decay)
    return job


OPTIONS = {
    "plain": {},
    "everything": {
        "precision": "bfloat16", "drop_path": 0.2, "auxiliary_weight": 0.4, "clip": 5.0, "mixup": 0.2,
        "label_smoothing": 0.1, "class_weights": "balanced", "ema_decay": 0.9,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_of_a_final_training_does_not_wait(name):
    job = on_meta(training(**OPTIONS[name]))
    images = torch.empty(4, 3, 32, 32, device=META), torch.zeros(4, dtype=torch.long, device=META)
    with Watch():
        job.step(*images)  # brings the weights of the classes to the device
    with Watch() as watch:
        result = job.step(*images)
        job.mean.add(result)
    assert watch.waits == []
    assert watch.launches["_fused_sgd_"] == 1


def test_an_optimizer_that_is_not_fused_waits_for_the_decision():
    job = on_meta(training(optimizer="lamb"))
    images = torch.empty(4, 3, 32, 32, device=META), torch.zeros(4, dtype=torch.long, device=META)
    with Watch() as watch:
        job.step(*images)
    assert ("_local_scalar_dense", "nas/guard.py guarded_step") in watch.waits


def test_steps_walk_through_the_modules_no_more(monkeypatch):
    """What a step needs of the network is collected once."""
    job = training(ema_decay=0.9)
    batch = next(job.train.epoch(0))

    def refuse(*_):
        raise AssertionError("a walk through all modules")

    monkeypatch.setattr(job.model, "buffers", refuse)
    monkeypatch.setattr(job.model, "parameters", refuse)
    monkeypatch.setattr(nn.Module, "named_modules", refuse)
    monkeypatch.setattr(nn.Module, "state_dict", refuse)
    job.step(*batch)


class Generator(torch.Generator):
    """A generator of the device that is asked for; the stand-in has none."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.place = torch.device(device)
        return made

    @property
    def device(self):
        return self.place


@pytest.mark.parametrize("resident", [True, False])
def test_the_data_pipeline_does_not_wait(resident, monkeypatch):
    """Neither on the device nor, pinned, on the host; and what is pinned is small: pixels of one byte,
    labels, and where the squares are."""
    pinned = []
    monkeypatch.setattr("nas.data.batches.torch.Generator", Generator)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    images = Images(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 2)
    delivery = Delivery(META, [0.5] * 3, [0.5] * 3, resident=resident)
    batches = Batches(images, 8, delivery, Augmentation(crop_padding=2, flip=True, cutout=4))
    with Watch() as watch:
        for part in (batches.epoch(0), batches.evaluation(0, 1)):
            for x, y in part:
                assert x.device == y.device == META
    assert watch.waits == []
    assert all(t.nbytes <= 20 * 3 * 8 * 8 for t in pinned)
    assert bool(pinned) != resident


SEARCHES = {
    "stopped operations": {"terms": ("oles:comparisons=9",), "policy": "fair", "skip_dropout": "0.2:0"},
    "a mixture": {"estimator": "softmax", "policy": "perturbed", "terms": ("alignment", "beta_decay")},
    "independent candidates": {"estimator": "sigmoid", "policy": "dense", "terms": ("zero_one", "entropy")},
    "parts of channels": {"partial_channels": 2, "edge_normalisation": True, "policy": "uniform", "draws": 3},
    "an auxiliary skip": {"auxiliary_skip": "1:0", "coupling": "systematic", "draws": 2, "prior": 3.0},
    "a budget": {"budget": ("parameters=9k",), "shrink": "probability", "clip": 0.0, "momentum": 0.0},
    "a value": {"estimator": "reinforce_loo", "architecture_loss": "error", "class_weights": "balanced"},
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_steps_of_a_whole_search(name, precision, monkeypatch):
    """With batches that are made on the device, and all that a search does around the two steps."""
    monkeypatch.setattr("nas.data.batches.torch.Generator", Generator)
    options = {"space": "s3" if "channels" in name else "nasbench201"}
    options |= {"channels": 4, "epochs": 2, "warmup_epochs": 0, "train_limit": 120, "batch_size": 8}
    search = Search.of(SearchOptions(**options | {"precision": precision} | SEARCHES[name]), {}, META)
    search.weight_optimizer.param_groups[0]["fused"] = True  # as on CUDA
    steps = search.epoch(1, 0)
    with Watch():
        next(steps)  # brings what stays there to the device
    for _ in range(2):
        with Watch() as watch:
            next(steps)
        assert watch.waits == THE_READ


def test_a_term_that_judges_operations_reads_once(monkeypatch):
    monkeypatch.setattr("nas.data.batches.torch.Generator", Generator)
    options = SearchOptions(
        space="micro", policy="fair", terms=("oles:comparisons=1",), warmup_epochs=1, derive="ascent",
        channels=4, epochs=1, train_limit=120, batch_size=8,
    )  # fmt: skip
    search = Search.of(options, {}, META)
    search.weight_optimizer.param_groups[0]["fused"] = True  # as on CUDA
    steps = search.epoch(0, 0)
    with Watch() as watch:
        next(steps)
    assert watch.waits == [("copy to the host", "nas/bilevel/measures/operation_stopping.py compare")]
