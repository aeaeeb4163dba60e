"""What candidates cost in their place, against derived networks; and the best architecture under limits,
against enumeration."""

import itertools
import random
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from small import rng, slow_in

import search_spaces
from search_spaces.cost import NetworkSize, count_costs, count_macs, count_parameters
from search_spaces.derivation import derive, fit, without_dead_edges
from search_spaces.nasbench201 import DenseCellSpace
from search_spaces.slot import ABSENT
from search_spaces.zoo import PUBLISHED

SMALL = NetworkSize(4, 1, 10, 3, (8, 8))
ENDLESS = 2**62


def counted(space, genotype, size):
    with torch.device("meta"):
        network = size.network(space, genotype)
    return {"parameters": count_parameters(network), "macs": count_macs(network, size.shape)}


def of(costs, space, genotype):
    return {kind: table.of(space.choice(genotype)) for kind, table in costs.items()}


def _into(space):
    """Rows of the slots into every node, and how many of them a network keeps."""
    into = {}
    for row, slot in enumerate(space.slots):
        into.setdefault((slot.cell, slot.target), []).append(row)
    return [(rows, space.edges_per_node or len(rows)) for rows in into.values()]


def scores_of(space, generator, scale=2.0):
    return (scale * torch.randn(space.num_slots, space.width, generator=generator)).log_softmax(-1)


def total(table, choice):
    return sum(table[row, k].item() for row, k in enumerate(choice) if k >= 0)


@pytest.mark.parametrize("name", slow_in([*search_spaces.names(), "small_mobile"], "mobile", "mobile_se"))
def test_the_candidates_of_an_architecture_add_up_to_its_network(name):
    if name == "small_mobile":
        sys.path.insert(0, str(ROOT / "examples"))
        try:
            import own_space

            if name not in search_spaces.names():
                search_spaces.register(own_space.MobileChain())
            for operation, build in own_space.BLOCKS.items():
                if operation not in search_spaces.operations.names():
                    search_spaces.operations.register(operation, build, "convolution")
        finally:
            sys.path.pop(0)
    space = search_spaces.get(name)
    rng = random.Random(0)
    more = space.fewest_cells + (space.most_cells is None)
    for size in (
        NetworkSize(6, space.fewest_cells, 10, 3, (16, 16)),
        NetworkSize(5, more, 3, 1, (9, 13)),
        *(
            [NetworkSize(8, space.fewest_cells, 10, 3, (64, 64), plan) for plan in (0, 160)]
            * space.plans_size
        ),
    ):
        costs = count_costs(space, size)
        for _ in range(2):
            genotype = space.random(rng)
            assert of(costs, space, genotype) == counted(space, genotype, size)


def test_the_costs_that_nasbench201_publishes():
    space = search_spaces.get("nasbench201")
    costs = count_costs(space, NetworkSize(16, 5, 10, 3, (32, 32)))
    for text, parameters, macs in (
        ("|{0}~0|+|{0}~0|{0}~1|+|skip_connect~0|{0}~1|nor_conv_1x1~2|", 1_073_466, 153_272_960),
        ("|{0}~0|+|{0}~0|{0}~1|+|{0}~0|{0}~1|{0}~2|", 1_531_546, 220_119_680),
        ("|{1}~0|+|{1}~0|{1}~1|+|{1}~0|{1}~1|{1}~2|", 73_306, 7_783_040),
    ):
        genotype = space.parse(text.format("nor_conv_3x3", "skip_connect"))
        assert of(costs, space, genotype) == {"parameters": parameters, "macs": macs}


def test_the_costs_that_nasbench_macro_publishes():
    space = search_spaces.get("nasbench_macro")
    costs = count_costs(space, NetworkSize(32, space.fewest_cells, 10, 3, (32, 32)))
    for text, parameters in (("22222222", 2_932_586), ("00000000", 387_882)):
        assert of(costs, space, space.parse(text))["parameters"] == parameters
    assert round(of(costs, space, space.parse("22212202"))["macs"] / 1e5) == 852


def test_the_costs_of_darts_v2():
    space = search_spaces.get("darts")
    costs = count_costs(space, NetworkSize(36, 20, 10, 3, (32, 32)))
    found = of(costs, space, space.parse(PUBLISHED["darts_v2"][1]))
    assert found["parameters"] == 3_349_342
    assert round(found["macs"] / 1e6) in range(520, 560)


def leads_somewhere(space, choice):
    """Of every edge of a dense cell, by following all ways from its target to the output."""
    there = {
        (s.source, s.target): s.candidates[k] != "none" for s, k in zip(space.slots, choice, strict=True)
    }
    last = max(target for _, target in there)

    def reaches(node):
        return node == last or any(t for (s, e), t in there.items() if s == node and t and reaches(e))

    return [there[s.source, s.target] and reaches(s.target) for s in space.slots], reaches


@pytest.mark.parametrize("name", ["micro", "nasbench201"])
def test_derivation_in_dense_cells_is_the_best_of_all(name):
    space = search_spaces.get(name)
    costs = count_costs(space, SMALL)
    rows = np.arange(space.num_slots)
    choices = np.array(list(itertools.product(range(5), repeat=space.num_slots)))
    alive = np.zeros(choices.shape, bool)
    known = {}
    for i, choice in enumerate(choices.tolist()):
        pattern = tuple(k == 0 for k in choice)
        if pattern not in known:
            known[pattern] = leads_somewhere(space, choice)[0]
        alive[i] = known[pattern]
    cells = (space.slots[0].candidates[k] for choice in choices.tolist() for k in choice)
    names = zip(*[cells] * space.num_slots, strict=True)
    connected = np.array([space.is_connected(space.genotype(chosen)) for chosen in names])
    generator = torch.Generator().manual_seed(0)
    for kinds in (["parameters"], ["macs"], ["parameters", "macs"]):
        tables = [costs[kind].table for kind in kinds]
        prices = np.stack([(t.numpy()[rows, choices] * alive).sum(1) for t in tables], -1)
        for _ in range(40):
            scores = scores_of(space, generator)
            most = [space.num_slots * int(t.max()) for t in tables]
            limits = [int(m * float(torch.rand((), generator=generator)) ** 2) for m in most]
            values = scores.double().numpy()[rows, choices].sum(1)
            within = (prices <= limits).all(1) & connected
            found = derive(space, scores, tables, limits)
            assert all(total(t, found) <= limit for t, limit in zip(tables, limits, strict=True))
            # The likeliest of those that compute the same, to which dead edges do not matter.
            same = np.array(without_dead_edges(space, found))
            equal = ((np.where(alive, choices, 0) == same) & connected[:, None]).all(1)
            assert values[equal].max() == pytest.approx(values[within].max(), abs=1e-9)
    assert derive(space, scores, tables, [-1] * len(tables)) is None
    assert derive(space, scores, tables, [0] * len(tables)) is not None


@pytest.mark.parametrize("name", ["s2", "s3"])
def test_derivation_keeps_two_edges_a_node_and_is_the_best_of_all(name):
    """Of each kind of cell all are listed; the best pair of cells is found by sorting."""
    space = search_spaces.get(name)
    table = count_costs(space, NetworkSize(4, 3, 10, 3, (16, 16)))["macs"].table
    generator = torch.Generator().manual_seed(1)

    def cells(kind, scores):
        found = [(0.0, 0)]
        for target in range(2, 6):
            into = [row for row, s in enumerate(space.slots) if (s.cell, s.target) == (kind, target)]
            ways = [
                (float(scores[a, j]) + float(scores[b, k]), int(table[a, j]) + int(table[b, k]))
                for a, b in itertools.combinations(into, 2)
                for j in range(len(space.slots[a].candidates))
                for k in range(len(space.slots[b].candidates))
                if "none" not in (space.slots[a].candidates[j], space.slots[b].candidates[k])
            ]
            found = [(v + w, c + d) for v, c in found for w, d in ways]
        values, prices = np.array(found).T
        order = np.argsort(prices, kind="stable")
        return np.maximum.accumulate(values[order]), prices[order], values, prices

    for _ in range(3):
        scores = scores_of(space, generator).double()
        best, price, _, _ = cells("normal", scores)
        _, _, values, prices = cells("reduce", scores)
        for share in torch.rand(4, generator=generator).tolist():
            limit = int(share * 8 * int(table.max()))
            last = np.searchsorted(price, limit - prices, side="right") - 1
            found = derive(space, scores, [table], [limit])
            assert total(table, found) <= limit
            value = sum(float(scores[row, k]) for row, k in enumerate(found) if k >= 0)
            assert value == pytest.approx((values + best[last])[last >= 0].max(), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "seed", "known"),
    [("s1", 129, "00.010..1.1.1.000.0.0.1...00"), ("s2", 2, "001.0.00...0.10010..01....00")],
)
def test_what_is_derived_within_tight_limits_is_as_good_as_a_choice_that_is_known(name, seed, known):
    space, generator = search_spaces.get(name), rng(seed)
    costs = count_costs(space, NetworkSize(space.channels, space.fewest_cells, 10, 3, (32, 32)))
    tables = [cost.table for cost in costs.values()]
    scores, others = (torch.randn(space.num_slots, space.width, generator=generator) for _ in range(2))
    limits = [total(t, space.choice(space.discretise(others))) for t in tables]
    best = [ABSENT if k == "." else int(k) for k in known]
    found = derive(space, scores, tables, limits)
    for choice in (best, found):
        assert all(total(t, choice) <= limit for t, limit in zip(tables, limits, strict=True))
    assert total(scores.double(), found) >= total(scores.double(), best)


def of_all(space, scores, costs, limits):
    """What `derive` has to find, by fitting every choice of candidates that may be chosen."""
    rows = [
        [k for k in range(len(slot.candidates)) if s[k] > -torch.inf]
        for slot, s in zip(space.slots, scores, strict=True)
    ]
    values = {}
    for choice in itertools.product(*rows):
        names = [slot.candidates[k] for slot, k in zip(space.slots, choice, strict=True)]
        if space.is_connected(space.genotype(names)) and fit(space, choice, costs, limits) is not None:
            values[choice] = sum(float(scores[row, k]) for row, k in enumerate(choice))
    return fit(space, max(values, key=values.__getitem__), costs, limits) if values else None


def test_what_must_not_be_chosen_is_not_and_some_edges_cannot_be_none():
    anything = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
    space = DenseCellSpace(
        "own", 4, 4, 1, [anything, anything, anything[1:], anything[2:], anything, anything]
    )
    costs = [cost.table for cost in count_costs(space, SMALL).values()]
    generator, nothing = rng(0), 0
    for _ in range(30):
        scores = scores_of(space, generator)
        scores[torch.rand(scores.shape, generator=generator) < 0.3] = -torch.inf
        limits = [int(t.max()) * int(torch.randint(6, (), generator=generator)) for t in costs]
        found = derive(space, scores, costs, limits)
        assert found == of_all(space, scores, costs, limits)
        nothing += found is None
    assert 0 < nothing < 15


def test_what_a_solver_lets_pass_is_above_a_limit():
    """Limits one below a cost of 12 digits: floating-point numbers do not tell these apart."""
    space, generator = search_spaces.get("micro"), rng(0)
    for _ in range(20):
        scores = scores_of(space, generator)
        cost = torch.randint(10**11, 10**12, scores.shape, generator=generator)
        cost[:, 0] = 0  # none
        limit = total(cost, scores.argmax(-1).tolist()) - 1
        assert derive(space, scores, [cost], [limit]) == of_all(space, scores, [cost], [limit])


@pytest.mark.parametrize("name", search_spaces.names())
def test_no_budget_changes_nothing_and_none_is_exceeded(name):
    space = search_spaces.get(name)
    size = NetworkSize(4, space.fewest_cells, 10, 3, (8, 8))
    costs = count_costs(space, size)
    generator = torch.Generator().manual_seed(0)
    tables = [cost.table for cost in costs.values()]
    for number in range(200 if space.num_slots < 10 else 12):
        scores = scores_of(space, generator)
        kinds = list(costs)[: 1 + number % 2]
        free = space.choice(space.discretise(scores))
        limits = [
            int(float(torch.rand((), generator=generator)) * total(costs[k].table, free)) for k in kinds
        ]
        found = derive(space, scores, [costs[k].table for k in kinds], limits)
        if found is None:
            continue
        genotype = space.genotype(
            [None if k < 0 else s.candidates[k] for s, k in zip(space.slots, found, strict=True)]
        )
        assert space.validate(genotype) == genotype
        assert fit(space, found, [costs[k].table for k in kinds], limits) == found
        if number % (20 if space.num_slots < 10 else 6) == 0:
            network = counted(space, genotype, size)
            assert all(network[k] <= costs[k].fixed + limit for k, limit in zip(kinds, limits, strict=True))
            assert network == {k: table.of(found) for k, table in costs.items()}
        if number < 3:
            found = derive(space, scores, tables, [ENDLESS] * 2)
            kept = sum(min(count, len(rows)) for rows, count in _into(space))
            assert space.edges_per_node is None or sum(k >= 0 for k in found) == kept
            genotype = space.discretise(scores)
            if space.is_connected(genotype):
                names = [None if k < 0 else s.candidates[k] for s, k in zip(space.slots, found, strict=True)]
                assert space.genotype(names) == genotype


def test_many_decisions_and_several_budgets_take_no_time():
    """21 blocks with 9 candidates and three kinds of unrelated costs: against the best of the relaxed
    problem."""
    from search_spaces import Slot
    from search_spaces.space import SearchSpace

    class Chain(SearchSpace):
        name = "chain_of_many"
        slots = tuple(
            Slot("chain", i, i + 1, (*search_spaces.get("darts").operations[1:], "nor_conv_1x1"), f"{i}")
            for i in range(21)
        )

        def skeleton(self, plans, factory, size):
            raise NotImplementedError

    space, generator = Chain(), torch.Generator().manual_seed(0)
    shape = (space.num_slots, space.width)
    tables = [torch.randint(0, 10**6, shape, generator=generator) for _ in range(3)]
    for _ in range(2):
        scores = scores_of(space, generator)
        free = scores.argmax(-1).tolist()
        limits = [int(0.8 * total(t, free)) for t in tables]
        found = derive(space, scores, tables, limits)
        assert all(total(t, found) <= limit for t, limit in zip(tables, limits, strict=True))
        value = sum(float(scores[row, k]) for row, k in enumerate(found))
        for a, b in itertools.combinations(range(space.num_slots), 2):  # no exchange in two places is better
            changes = scores[a].unsqueeze(1) + scores[b]
            sums = [
                total(t, found) - t[a, found[a]] - t[b, found[b]] + t[a].unsqueeze(1) + t[b] for t in tables
            ]
            within = torch.stack([s <= limit for s, limit in zip(sums, limits, strict=True)]).all(0)
            rest = value - float(scores[a, found[a]] + scores[b, found[b]])
            assert rest + float(changes[within].max()) <= value + 1e-5
