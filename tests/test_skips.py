"""What supernets do about skip connections, in exact gradients and exact schedules; how many are derived."""

import copy
import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from lane import META, Watch, accelerator
from safetensors.torch import load_file
from small import batch, rng

import estimators
import nas
import search_spaces
from benchmarks import subjects
from nas.bilevel import Bilevel
from nas.bilevel.budget import Budget
from nas.bilevel.skips import most_skips, skip_limits
from nas.bilevel.unroll import frozen
from recipes import InputError, SearchOptions
from recipes.presets import SEARCH
from search_spaces import operations, skips
from search_spaces.batched_products import _compiled
from search_spaces.cell import Cell
from search_spaces.cost import NetworkSize
from search_spaces.darts import DartsSpace
from search_spaces.mixed_edge import read_draw
from search_spaces.nasbench201 import DenseCellSpace
from search_spaces.slot import ABSENT

pytestmark = pytest.mark.usefixtures("fixed_noise")
PATHWISE = [name for name in estimators.names() if estimators.family(name).signal == "gradient"]
SMALL = {"channels": 4, "train_limit": 160, "batch_size": 32, "tensorboard": False}


def build(name="micro", edge_gradient="lean", **asked):
    torch.manual_seed(0)
    space = search_spaces.get(name)
    supernet = space.supernet(
        channels=4,
        cells=space.fewest_cells,
        num_classes=3,
        in_channels=1,
        edge_gradient=edge_gradient,
        **asked,
    )
    return space, supernet.double().to(memory_format=torch.channels_last)


def gradients(space, supernet, mode, estimator="reinmax", seed=1):
    """The loss, and its gradients at the logits and the weights; zero where there is none."""
    supernet.set_edge_gradient(mode)
    logits = torch.randn(space.num_slots, space.width, generator=rng(seed), dtype=torch.float64)
    if (mask := space.mask()) is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    logits.requires_grad_()
    x, y = batch(3, torch.float64)
    draw = estimators.get(estimator)(logits, generator=rng(seed))
    weights = list(supernet.parameters())
    loss = F.cross_entropy(supernet(x.contiguous(memory_format=torch.channels_last), draw), y)
    found = torch.autograd.grad(loss, [logits, *weights], allow_unused=True)
    return [
        loss.detach(),
        *(torch.zeros(()).double() if g is None else g.norm() for g in found[1:]),
        found[0],
    ]


# The auxiliary skip connection (DARTS-)


def test_a_node_is_the_sum_of_its_edges_and_of_what_skips_beside_them():
    _, supernet = build(auxiliary_skip=True)
    supernet.set_skips(0.3, 0.0)
    cell = next(m for m in supernet.modules() if isinstance(m, Cell))
    first, second, third = (edge.operations for edge in cell.edges)  # 0→1, 0→2, 1→2
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=rng())
    for a, b, c in ((3, 2, 4), (0, 0, 1), (0, 0, 0), (1, 3, ABSENT)):

        def value(candidates, k, x):
            return 0.3 * x + (candidates[k](x) if k != ABSENT else 0.0)

        middle = value(first, a, x)
        expected = value(second, b, x) + value(third, c, middle)
        torch.testing.assert_close(cell([x], read_draw([a, b, c], x.device)), expected)
    weights = torch.rand(3, 5, dtype=torch.float64, generator=rng())
    mixed = [sum(w * o(x) for w, o in zip(weights[i], edge, strict=True)) + 0.3 * x for i, edge in
             enumerate((first, second))]  # fmt: skip
    expected = (
        mixed[1] + sum(w * o(mixed[0]) for w, o in zip(weights[2], third, strict=True)) + 0.3 * mixed[0]
    )
    torch.testing.assert_close(cell([x], read_draw(weights, x.device)), expected)


def test_where_the_resolution_is_halved_the_space_s_own_skip_does_it():
    _, supernet = build("s4", auxiliary_skip=True)  # has none among its candidates
    supernet.set_skips(0.5, 0.0)
    cells = [m for m in supernet.modules() if isinstance(m, Cell)]
    halving = next(edge for cell in cells for edge in cell.edges if edge.nothing.stride == 2)
    relu, reduction = halving.auxiliary.skip
    x = torch.randn(2, halving.nothing.channels, 6, 6, dtype=torch.float64, generator=rng())
    torch.testing.assert_close(halving.auxiliary(x), 0.5 * reduction(x.relu()))
    assert isinstance(relu, torch.nn.ReLU)
    others = [edge for cell in cells for edge in cell.edges if edge.nothing.stride == 1]
    assert {type(edge.auxiliary.skip) for edge in others} == {torch.nn.Identity}


@pytest.mark.parametrize(
    ("space", "estimator"),
    [("micro", name) for name in PATHWISE]
    + [(space, "reinmax") for space in ("nasbench201", "s1", "s4", "nasbench_macro")],
)
def test_lean_is_dense_is_captured_with_an_auxiliary_skip(space, estimator):
    space, supernet = build(space, auxiliary_skip=True)
    plain = gradients(space, supernet, "lean", estimator)
    supernet.set_skips(0.7, 0.0)
    discrete = estimators.family(estimator).discrete
    lean, dense = (gradients(space, supernet, mode, estimator) for mode in ("lean", "dense"))
    torch.testing.assert_close(lean, dense, rtol=1e-10, atol=1e-12)
    assert float((dense[-1] - plain[-1]).abs().max()) > 1e-5  # it takes part
    if discrete and estimator == "reinmax":
        captured = [gradients(space, supernet, "captured", estimator) for _ in range(2)]
        torch.testing.assert_close(captured, [dense] * 2, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_compiled_is_dense_with_both(fixed_masks, traced):
    space, supernet = build("micro", auxiliary_skip=True, skip_dropout=True)
    supernet.set_skips(0.7, 0.4)
    found = [gradients(space, supernet, mode) for mode in ("compiled", "dense")]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)
    assert traced


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a compiler: what is traced is run. The list of what was traced."""
    torch._dynamo.reset()
    _compiled.cache_clear()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    yield graphs
    _compiled.cache_clear()


def test_at_strength_zero_there_is_none_and_no_derived_network_has_one():
    space, plain = build("s1")
    _, supernet = build("s1", auxiliary_skip=True, skip_dropout=True)
    assert len(supernet.state_dict()) > len(plain.state_dict())
    plain.load_state_dict({name: supernet.state_dict()[name] for name in plain.state_dict()})
    x = batch(1, torch.float64)[0]
    choice = [0] * space.num_slots
    assert torch.equal(plain(x, choice), supernet(x, choice))
    supernet.set_skips(1.0, 0.0)
    assert not torch.allclose(plain(x, choice), supernet(x, choice))


def test_a_copy_has_a_strength_of_its_own():
    _, supernet = build(auxiliary_skip=True)
    supernet.set_skips(0.5, 0.0)
    other = copy.deepcopy(supernet)
    other.set_skips(0.0, 0.0)
    x, path = batch(1, torch.float64)[0], [3, 3, 3]
    assert not torch.allclose(supernet(x, path), other(x, path))
    other.load_state_dict(supernet.state_dict())
    assert torch.equal(supernet(x, path), other(x, path))


def test_a_schedule_is_a_function_of_the_progress_and_ends_with_the_search(monkeypatch):
    moved = []
    move = search_spaces.skeleton.Skeleton.set_skips
    monkeypatch.setattr(
        search_spaces.skeleton.Skeleton, "set_skips", lambda self, *a: (moved.append(a), move(self, *a))[1]
    )
    found = nas.search("micro", auxiliary_skip="1:0", skip_dropout="0.3:0.1", epochs=2, **SMALL)
    steps = found.search.steps * 2
    assert steps > 2
    assert moved[0] == (1.0, 0.3)
    expected = [(1 - i / steps, 0.3 - 0.2 * i / steps) for i in range(steps)]
    torch.testing.assert_close(moved[1:], [*expected, (0.0, 0.1)])
    assert float(found.supernet.auxiliary_skip.value) == 0.0


def test_a_search_that_breaks_off_within_an_epoch_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    options = {"auxiliary_skip": "1:0", "skip_dropout": "0.5:0", "derive": "sample:3", "epochs": 2} | SMALL
    options |= {"warmup_epochs": 0, "keep_weights_every": 1, "checkpoint_steps": 1}
    whole = nas.search("micro", **options)
    steps, step, done = whole.search.steps, Bilevel.weight_step, []

    def breaks(self, *arguments):
        done.append(step(self, *arguments))
        if len(done) == steps + 2:
            raise RuntimeError("the machine")
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Bilevel, "weight_step", breaks)
        with pytest.raises(RuntimeError, match="the machine"):
            nas.search("micro", out=tmp_path / "run", **options)
    result = nas.search(out=tmp_path / "run", resume=True)
    assert result.history == whole.history
    assert result.summary["considered"] == whole.summary["considered"]
    assert torch.equal(result.logits, whole.logits)
    kept = load_file(tmp_path / "run" / "weights" / "epoch-1.safetensors")
    strength = kept["supernet.auxiliary_skip.value"]  # weights are never without their strength
    torch.testing.assert_close(float(strength), 1 - (steps - 1) / (2 * steps))


# Dropout behind skips (P-DARTS)


@pytest.fixture
def fixed_masks(monkeypatch):
    """Dropout drops the same of every input of the same shape."""

    def forward(self, x):
        numbers = torch.arange(x[0].numel(), dtype=x.dtype).view(x.shape[1:])
        keep = 1 - self._probability[0].value
        return x * ((0.618 * numbers).frac() < keep) / keep

    monkeypatch.setattr(skips.SkipDropout, "forward", forward)


@pytest.mark.parametrize("space", ["micro", "s2"])
def test_lean_is_dense_is_captured_with_dropout(space, fixed_masks):
    space, supernet = build(space, skip_dropout=True)
    supernet.set_skips(0.0, 0.4)
    for seed in range(4):  # with skips, and without
        found = [gradients(space, supernet, mode, seed=seed) for mode in ("dense", "lean", "captured")]
        torch.testing.assert_close(found[1:], found[:1] * 2, rtol=1e-10, atol=1e-12)


def test_the_product_of_the_drawn_skip_is_with_what_was_drawn():
    """<g, y> of the chosen candidate has the mask of the forward pass."""
    _, supernet = build(skip_dropout=True)
    supernet.set_skips(0.0, 0.5)
    cell = next(m for m in supernet.modules() if isinstance(m, Cell))
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=rng())
    weights = torch.eye(5, dtype=torch.float64)[[0, 1, 0]].requires_grad_()
    upstream = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=rng(1))
    y = cell([x], read_draw(weights, x.device))
    (at_weights,) = torch.autograd.grad(y, weights, upstream)
    torch.testing.assert_close(at_weights[1, 1], (upstream * y).sum())
    dropped = y.detach() == 0
    assert 0.3 < dropped.double().mean() < 0.7
    torch.testing.assert_close(y.detach(), torch.where(dropped, 0.0, 2 * x))
    supernet.eval()
    torch.testing.assert_close(cell([x], read_draw([0, 1, 0], x.device)), x)


def test_only_candidates_that_are_the_identity_have_dropout():
    """As in the code of P-DARTS: not where the skip halves the resolution, and not the auxiliary one."""
    _, supernet = build("s2", skip_dropout=True, auxiliary_skip=True)
    for module in supernet.modules():
        if isinstance(module, Cell):
            for edge in module.edges:
                dropped = isinstance(edge.operations[0], skips.SkipDropout)
                assert dropped == (edge.nothing.stride == 1)
                assert not isinstance(edge.auxiliary.skip, skips.SkipDropout)


# The limit of skips in derived cells (P-DARTS)


def limited(name, most):
    space = search_spaces.get(name)
    size = NetworkSize(4, space.fewest_cells, 10, 1, (8, 8))
    return space, Budget(space, size, {}, {}, skip_limits(space, most))


def counted(genotype, cell):
    return operations.count(genotype, "skip")[cell]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_best_cell_with_few_skips_is_found_by_enumeration(most):
    space, budget = limited("micro", most)
    cells = [cell for cell in space.all() if space.is_connected(cell)]
    for seed in range(20):
        scores = torch.randn(space.num_slots, space.width, generator=rng(seed), dtype=torch.float64)
        scores[:, 1] += 2.0

        def value(cell, scores=scores):
            return float(sum(scores[row, k] for row, k in enumerate(space.choice(cell))))

        live = [cell for cell in cells if counted(budget.fit(cell) or cell, "cell") <= most]
        found = budget.derive(scores)
        assert counted(found, "cell") <= most
        best = max(live, key=value)
        assert found == budget.fit(best)
        assert budget.fit(found) == found


@pytest.mark.parametrize("most", [0, 2, 3])
def test_the_best_normal_cell_of_darts_with_few_skips(most):
    """By the best two edges of every node with no, one and two skips; the reduction cell is as it is."""
    space, budget = limited("darts", most)
    skip = space.slots[0].candidates.index("skip_connect")
    for seed in range(3):
        scores = torch.randn(space.num_slots, space.width, generator=rng(seed), dtype=torch.float64)
        scores[:, skip] += 3.0
        of_node = []
        for target in range(2, 6):
            best = [-torch.inf] * 3
            for a, b in itertools.combinations([space.row("normal", s, target) for s in range(target)], 2):
                for j, k in itertools.product(range(1, 8), repeat=2):
                    skips = (j == skip) + (k == skip)
                    best[skips] = max(best[skips], float(scores[a, j] + scores[b, k]))
            of_node.append(best)
        wanted = max(
            sum(best[n] for best, n in zip(of_node, numbers, strict=True))
            for numbers in itertools.product(range(3), repeat=4)
            if sum(numbers) <= most
        )
        found, free = budget.derive(scores), space.discretise(scores)
        chosen = space.choice(found)
        rows = [space.row("normal", e.source, e.target) for e in found.cells[0].edges]
        assert float(sum(scores[row, chosen[row]] for row in rows)) == pytest.approx(wanted)
        assert counted(found, "normal") <= most < counted(free, "normal")
        assert found.cells[1] == free.cells[1]


@pytest.mark.parametrize("rule", ["argmax", "sample:6", "evolution:12", "ascent", "perturbation:0"])
def test_every_rule_keeps_to_it(rule):
    free = nas.search("micro", epochs=1, warmup_epochs=0, **SMALL)
    with torch.no_grad():
        free.search.architecture.logits[:, 1] += 9.0
    assert counted(free.search.would_find(), "cell") == 3
    free.search.budget = limited("micro", 1)[1]
    assert counted(free.select(rule), "cell") <= 1


def test_what_is_usual_holds_unless_said_otherwise():
    """2 in darts and spaces like it where every normal edge has something else; a preset as published has no
    limit, nor has a run whose stored options know none."""
    usual = {name: search_spaces.get(name).usual_skips for name in search_spaces.names()}
    assert usual["darts"] == usual["s1"] == usual["s2"] == usual["s3"] == 2
    assert usual["s4"] is usual["micro"] is usual["nasbench201"] is usual["mobile"] is None
    skips = DartsSpace("skips", ("skip_connect",), ("sep_conv_3x3",))
    assert skips.usual_skips is None
    scores = torch.zeros(14 + 14, 2)
    scores[:, search_spaces.get("s2").slots[0].candidates.index("skip_connect")] = 1.0
    for options, most in (({}, 2), ({"max_skips": None}, 8), ({"max_skips": 5}, 5), ({"max_skips": 0}, 0)):
        chosen = SearchOptions(space="s2", channels=4, cells=3, batch_size=8, **options)
        job = subjects.search(chosen, subjects.random_images(40, size=8))
        assert counted(job.budget.derive(scores), "normal") == most
    published = {name: SEARCH[name]["max_skips"] for name in SEARCH if name.startswith("darts-")}
    assert {name for name, limit in published.items() if limit is not None} == {"darts-p-darts"}


def test_a_limit_does_not_hide_a_collapse():
    job = nas.search("s2", cells=3, epochs=1, warmup_epochs=0, **SMALL).search
    skip = job.space.slots[0].candidates.index("skip_connect")
    for raised, warned in ((9.0, True), (-9.0, False)):
        with torch.no_grad():
            job.architecture.logits[:, skip] = raised
        found, messages = job.conclude()[1:]
        text = "the most probable cell has 8 skip connections on 8 edges, the derived one 2"
        assert any(text in warning for warning in found["warnings"]) == warned
        assert any(text in message for message in messages) == warned


def test_with_a_budget_both_are_kept():
    found = nas.search("micro", budget="parameters=5k", max_skips=1, epochs=1, **SMALL)
    assert found.summary["budget"]["costs"]["parameters"] <= 5000
    assert set(found.summary["budget"]["limits"]) == {"parameters"}  # it draws the search nowhere
    assert counted(found.genotype, "cell") <= 1
    two, only = (
        DenseCellSpace(name, 3, 4, 1, ("skip_connect", other))
        for name, other in (("two", "nor_conv_3x3"), ("only", "identity"))
    )
    for space, said in (
        (two, "no single architecture of the space 'two' with `max_skips=1` is within it"),
        (only, "the space 'only' has no architecture with `max_skips=1`: raise it"),
    ):
        with pytest.raises(InputError, match=said):
            nas.search(space, max_skips=1, budget="parameters=8k" if space is two else (), **SMALL)


# The end of a search (DARTS+)


def test_a_search_ends_when_it_has_come_to_two_skips_and_so_does_one_in_pieces(tmp_path, monkeypatch):
    """The logits go where a script has them; with fewer skips derived than ended it."""
    options = {"epochs": 6, "warmup_epochs": 1, "stop_skips": 2, "max_skips": 1} | SMALL
    original = Bilevel.architecture_step

    def step(self, valid, train, generator, progress=0.0):
        logits, epoch = self.architecture.logits, int(progress * 6)
        with torch.no_grad():
            logits.zero_()
            for row in range(3):
                logits[row, 1 if row < epoch - 1 else 3] = 1.0  # none in the first, one in the second, ...
        return original(self, valid, train, generator, progress)

    monkeypatch.setattr(Bilevel, "architecture_step", step)
    whole = nas.search("micro", **options)
    assert len(whole.history) == 4
    cells = [whole.space.parse(line["genotype"]) for line in whole.history[1:]]
    assert [most_skips(whole.space, cell) for cell in cells] == [0, 1, 1]
    assert most_skips(whole.space, whole.genotype) == 1
    result = nas.search("micro", out=tmp_path / "run", callback=bool, **options)
    while result.stopped:
        result = nas.search(out=tmp_path / "run", resume=True, callback=bool)
    assert result.history == whole.history
    assert len(nas.search("micro", **options | {"stop_skips": 4}).history) == 6  # there are three edges


def test_what_counts_is_the_normal_cell_with_most():
    space = search_spaces.get("s2")
    scores = torch.zeros(space.num_slots, 2)
    for row, slot in enumerate(space.slots):
        scores[row, 0 if slot.cell == "reduce" or slot.target == 2 else 1] = 1.0
    assert most_skips(space, space.discretise(scores)) == 2
    chain = search_spaces.get("nasbench_macro")
    assert most_skips(chain, chain.parse("10120010")) == 2


# Both


@pytest.mark.parametrize("edge_gradient", ["lean", "captured", "dense"])
def test_steps_do_not_wait_for_a_gpu(edge_gradient):
    with accelerator():
        space, supernet = build("micro", edge_gradient, auxiliary_skip=True, skip_dropout=True)
        supernet = supernet.float().to(META)
        x = torch.zeros(6, 1, 8, 8, device=META)
        with Watch() as watch:
            supernet.set_skips(0.5, 0.1)
            draw = F.one_hot(torch.tensor([1, 3, 1]), space.width).float().requires_grad_()
            with frozen(supernet.parameters()):
                supernet(x, draw).sum().backward()
            supernet(x, [1, 3, 1]).sum().backward()
        assert {what for what, _ in watch.waits} <= {"copy to the host"}  # of the gradient at the draw


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_skip": "much"}, r"`auxiliary_skip` is 'much', expected a number or START:END"),
        ({"auxiliary_skip": "-1:0"}, r"`auxiliary_skip` is '-1:0', expected numbers from 0 to 100"),
        ({"skip_dropout": "1:0"}, r"`skip_dropout` is '1:0', expected numbers from 0 to below 1"),
        (
            {"space": "s4", "skip_dropout": "0.3:0"},
            r"`skip_dropout`: no edge of the space 's4' can be a",
        ),
        ({"space": "s4", "max_skips": 2}, r"`max_skips`: no edge of the space 's4' can be a skip"),
        ({"space": "s4", "stop_skips": 2}, r"`stop_skips`: no edge of the space 's4' can be a skip"),
        ({"max_skips": -1}, r"`max_skips` is -1, expected a number of at least 0"),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        nas.search(**{"space": "micro"} | options, **SMALL)
    assert "\n" not in str(error.value)


def test_a_space_without_skips_has_no_auxiliary_one():
    space = DenseCellSpace("convolutions", 3, 4, 1, ("nor_conv_1x1", "nor_conv_3x3"))
    with pytest.raises(InputError, match="no edge of the space 'convolutions' can be a skip"):
        nas.search(space, auxiliary_skip="1:0", **SMALL)
    with pytest.raises(ValueError, match="has no skip connection"):
        space.supernet(auxiliary_skip=True)
