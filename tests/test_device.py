"""How torch is set up for a run, and that nothing falls back in silence."""

import functools
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from benchmarks import subjects
from nas import device as devices
from nas.training.final import Training
from recipes import FinalOptions, SearchOptions
from search_spaces import batched_products
from search_spaces.short_cuts import without_short_cuts
from search_spaces.split import Split

CUDNN = torch.backends.cudnn


def settings():
    return {
        "tf32": CUDNN.allow_tf32,
        "trials": CUDNN.benchmark,
        "deterministic": CUDNN.deterministic,
        "products": torch.get_float32_matmul_precision(),
    }


@pytest.fixture
def _high():
    """A program that has asked for fast products of matrices."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_high")
@pytest.mark.parametrize("deterministic", [False, True])
def test_float32_is_float32_while_a_run_lasts(deterministic):
    before = settings()
    assert (before["tf32"], before["products"]) == (True, "high")
    with devices.prepared("cpu", deterministic=deterministic):
        assert settings() == {
            "tf32": False,
            "trials": not deterministic,
            "deterministic": deterministic,
            "products": "highest",
        }
    assert settings() == before


def test_the_device_of_a_rank_is_the_current_one(monkeypatch):
    """From before anything is done on a device, and until the run is over."""
    told = []

    @contextmanager
    def device(place):
        told.append(f"enter {place}")
        yield
        told.append("leave")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(devices, "select", lambda name: torch.device("cuda", 3))
    monkeypatch.setattr(torch.cuda, "init", lambda: told.append("ready"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: told.append("first use") and False)
    with devices.prepared("cuda") as place:
        told.append(str(place))
    assert told[:3] == ["enter cuda:3", "ready", "first use"]  # so that its generators are kept
    assert told[-1] == "leave"
    assert told.index("cuda:3") < len(told) - 1


def split(channels):
    layers = nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)
    return Split.of(nn.Sequential(*layers, nn.BatchNorm2d(channels, affine=False, track_running_stats=False)))


def test_products_that_can_be_compiled_no_more_are_an_error(monkeypatch):
    """Beyond its limit torch would run them uncompiled, at ten times the cost, without a word."""
    torch.compiler.reset()
    function = torch.compile(batched_products.batched_products, dynamic=False, backend="eager")
    monkeypatch.setattr(batched_products, "_compiled", lambda: function)
    monkeypatch.setattr(batched_products, "RECOMPILE_LIMIT", 2)

    def products(channels):
        x = torch.randn(2, channels, 4, 4)
        batches, _ = batched_products.planned([(0, 1, [split(channels)])], residuals=False)
        return batched_products.compiled_products(batches, [x, x.clone()], [None, x])

    for channels in (2, 3):
        assert products(channels).isfinite().all()
    limit = torch._dynamo.config.recompile_limit
    with pytest.raises(Exception, match="limit"):
        products(4)
    assert torch._dynamo.config.recompile_limit == limit  # nobody else's
    torch.compiler.reset()


def strides(tensor):
    """Of the dimensions that have more than one entry, which are all that a fused optimizer compares."""
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("space", ["nasbench201", "darts"])
@pytest.mark.parametrize(
    ("edge_gradient", "precision"), [("lean", "float32"), ("lean", "bfloat16"), ("dense", "float32")]
)
def test_parameters_gradients_and_momentum_lie_alike(space, edge_gradient, precision):
    """Channels last, as fused SGD demands, also in a search that was taken up from its state."""
    options = SearchOptions(
        space=space, channels=4, batch_size=4, epochs=2, warmup_epochs=0, edge_gradient=edge_gradient,
        precision=precision, device="cpu",
    )  # fmt: skip
    search = subjects.search(options, subjects.random_images(32))
    train, rng = search.train.endless(0), torch.Generator().manual_seed(0)
    for _ in range(2):
        search.bilevel.weight_step(next(train), rng)
        found = 0
        for p in search.bilevel.parameters:
            momentum = search.weight_optimizer.state.get(p, {}).get("momentum_buffer")
            for other in (p.grad, momentum):
                if other is not None:
                    assert strides(other) == strides(p)
                    found += p.dim() == 4 and min(p.shape) > 1 and not p.is_contiguous()
        assert found
        search.restore(search.state())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch's tracing
def test_a_compiled_final_training_is_one_graph_and_the_same(monkeypatch):
    """With the auxiliary head; torch's tracing without its code generation, which takes minutes."""
    torch.compiler.reset()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(real, backend="aot_eager", fullgraph=True))
    found = []
    for compiled in (False, True):
        options = FinalOptions(
            genotype="darts_v2", channels=4, cells=3, batch_size=4, auxiliary_weight=0.4,
            clip=5.0, compile=compiled, device="cpu",
        )  # fmt: skip
        job = Training.of(options, {"dataset": subjects.random_images(16)})
        job.model.train()
        batch = next(job.train.epoch(0))
        with without_short_cuts():  # as on a GPU
            found.append([float(job.step(*batch).loss) for _ in range(2)])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    torch.compiler.reset()
