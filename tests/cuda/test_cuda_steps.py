"""Steps on a GPU: the same gradients as plain autograd, no waits, equal strides, little memory."""

import gc

import pytest
import torch
import torch.nn.functional as F
from small import rng

from benchmarks import gpu, subjects
from nas import device as devices
from nas.bilevel.search import Search
from nas.bilevel.unroll import frozen
from recipes import SearchOptions
from search_spaces.cell import Cell
from search_spaces.mixed_edge import Choice, chosen_in

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Compilers import what torch itself calls deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SPACES = ["micro", "nasbench201", "darts", "s3"]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _prepared():
    with devices.prepared("cuda"):
        yield
    gc.collect()  # captured cells refer to themselves, and keep their memory


def search(space="nasbench201", edge_gradient="lean", device="cuda", **options):
    chosen = SearchOptions(
        space=space, channels=8, batch_size=16, epochs=2, warmup_epochs=0, evaluate_every=2, clip=5.0,
        edge_gradient=edge_gradient, device=device, **options,
    )  # fmt: skip
    return subjects.search(chosen, subjects.random_images(128))


def gradient(job, dtype=None):
    """The gradient at one draw (E, K), on one batch, whose images are given in `dtype`."""
    images, target = next(job.valid.epoch(0))
    batch = images.to(dtype or images.dtype), target
    draw = job.architecture.estimator(job.architecture.masked().detach(), rng(5))
    _, _, found = job.bilevel.gradient_at(Choice(draw.to(batch[0]), chosen_in(draw)), batch)
    return found.double().cpu()


@pytest.mark.parametrize(
    ("space", "precision"), [(space, "float32") for space in SPACES] + [("nasbench201", "bfloat16")]
)
def test_captured_passes_agree_when_they_are_replayed(space, precision):
    """The first pass runs as it is, the second is recorded, the others replay; after weight steps, too."""
    captured, lean = (search(space, mode, precision=precision) for mode in ("captured", "lean"))
    for step in range(8):
        error, cosine = difference(gradient(captured), gradient(lean))
        assert error < (1e-3 if precision == "float32" else 0.3), step
        assert cosine > 0.95, step
        if step < 5:
            for job in (captured, lean):
                job.bilevel.weight_step(next(job.train.epoch(step)), rng(step % 2))
            captured.supernet.load_state_dict(lean.supernet.state_dict())  # rounding would add up
    chain = getattr(captured.supernet, "chain", None)
    cells = [m.captured() for m in captured.supernet.modules() if isinstance(m, Cell)]
    pieces = cells if chain is None else [chain.pieces]
    found = [c for piece in pieces for places in piece.places.values() for c in places.candidates.values()]
    assert any(c.forward.graph is not None and c.backward.graph is not None for c in found)


def test_what_is_replayed_has_the_strength_of_the_auxiliary_skips_of_now():
    captured, lean = (
        search("s3", mode, auxiliary_skip="1:0", precision="float32") for mode in ("captured", "lean")
    )
    for strength in (1.0, 0.7, 0.4, 0.2, 0.0):
        for job in (captured, lean):
            job.supernet.set_skips(strength, 0.0)
        error, _ = difference(gradient(captured), gradient(lean))
        assert error < 1e-3, strength


def difference(a, b):
    return float((a - b).norm() / b.norm()), float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))


MODES = [(space, "lean") for space in SPACES] + [
    pytest.param(
        space,
        "compiled",
        marks=[] if space in ("micro", "nasbench201") else [pytest.mark.slow, pytest.mark.timeout(1800)],
    )
    for space in SPACES
]  # the slow ones have much more to compile


@pytest.mark.parametrize(("space", "edge_gradient"), MODES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lean_compiled_and_dense_agree(space, edge_gradient, precision):
    dense = gradient(search(space, "dense", precision=precision))
    error, cosine = difference(gradient(search(space, edge_gradient, precision=precision)), dense)
    assert error < (1e-4 if precision == "float32" else 0.05)
    assert cosine > 0.999


@pytest.mark.parametrize("space", SPACES)
def test_float32_is_as_precise_as_on_the_cpu(space):
    """TF32 keeps 10 bits, and would be off by a thousand times as much."""
    exact = search(space, device="cpu", precision="float32")
    rounded = gradient(exact)
    exact.supernet.double()
    true = gradient(exact, torch.float64)
    found = gradient(search(space, precision="float32"))
    assert difference(found, true)[0] < max(1e-4, 10 * difference(rounded, true)[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_chosen_and_other_candidates_are_as_precise(precision):
    job, exact = search(precision=precision), search(device="cpu", precision="float32")
    found, true = gradient(job), gradient(exact)
    draw = exact.architecture.estimator(exact.architecture.masked().detach(), rng(5)).bool()
    for where in (draw, ~draw):
        assert difference(found[where], true[where])[0] < (1e-4 if precision == "float32" else 0.5)


def strides(tensor):
    """Of the dimensions that have more than one entry, which are all that an optimizer compares."""
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("edge_gradient", ["lean", "dense"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_parameters_gradients_and_momentum_lie_alike(space, edge_gradient, precision):
    """Otherwise fused SGD refuses them; after a resume, too."""
    job = search(space, edge_gradient, precision=precision)
    for _ in range(2):
        for step in gpu.steps(job):
            step()
        found = 0
        for p, state in job.weight_optimizer.state.items():
            for other in (state.get("momentum_buffer"), p.grad):
                if other is not None:
                    assert strides(other) == strides(p)
                    found += 1
        assert found
        job.restore(job.state())


@pytest.mark.parametrize("preset", ["nasbench201-gdas", "darts-first-order"])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("edge_gradient", ["lean", "captured"])
def test_when_a_step_of_a_search_waits(preset, draws, edge_gradient):
    options = gpu.GpuOptions(channels=4, cells=3, batch_size=8)
    job = gpu.build_search(options, preset, draws=draws, edge_gradient=edge_gradient)
    architecture, weight = (gpu.waits(step, CUDA) for step in gpu.steps(job))
    assert weight == 0
    assert architecture == 1  # for the gradient of the logits, and the loss with it


def test_a_step_of_a_final_training_never_waits():
    options = gpu.GpuOptions(channels=4, cells=3, batch_size=8)
    step = gpu.training_step(gpu.build_final(options, plain=False))
    step()
    assert gpu.waits(step, CUDA) == 0


def test_data_in_host_memory_are_not_waited_for():
    job = search(data_budget_gb=0.0)
    batches = job.train.endless(0)
    assert gpu.waits(lambda: next(batches), CUDA) == 0


def peak(edge_gradient):
    """Bytes that an architecture step adds at most."""
    job = search(edge_gradient=edge_gradient)
    architecture, _ = gpu.steps(job)
    architecture()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    architecture()
    return torch.cuda.max_memory_allocated() - before


def test_lean_needs_less_memory_than_dense():
    torch.backends.cudnn.benchmark = False  # whose trials take what memory there is
    assert peak("lean") < 0.5 * peak("dense")


def test_a_compiled_final_training_is_the_same():
    options = gpu.GpuOptions(channels=4, cells=3, batch_size=8)
    losses = []
    for compiled in (False, True):
        job = gpu.build_final(options, plain=False, compiled=compiled)
        job.model.set_drop_path(0.0)
        batch = next(job.train.epoch(0))
        losses.append([float(job.step(*batch).loss) for _ in range(3)])
        for p in job.parameters:
            assert strides(p.grad) == strides(p)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_weights_of_a_step_agree_with_the_frozen_ones():
    """An architecture step leaves the weights as they were."""
    job: Search = search()
    before = [p.detach().clone() for p in job.bilevel.parameters]
    with frozen(job.bilevel.parameters):
        gpu.steps(job)[0]()
    assert all(torch.equal(p, q) for p, q in zip(job.bilevel.parameters, before, strict=True))
