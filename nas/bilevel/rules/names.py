"""The rules by their names, and what is said of the architecture that one ends with."""

from __future__ import annotations

from nas.bilevel.rules.argmax import ArgMax
from nas.bilevel.rules.ascent import Ascent
from nas.bilevel.rules.evolution import Evolution
from nas.bilevel.rules.halving import Halving
from nas.bilevel.rules.perturbation import Perturbation
from nas.bilevel.rules.rule import Rule
from nas.bilevel.rules.sample import Sample
from nas.bilevel.shrinkings.shapley import ShapleyRule
from recipes.registry import Registry
from search_spaces import Genotype, operations

RULES: Registry[type[Rule]] = Registry(
    "rule of selection",
    {r.name: r for r in (ArgMax, Sample, Ascent, Evolution, Perturbation, ShapleyRule, Halving)},
    Rule,
)


def collapse_warnings(genotype: Genotype) -> list[str]:
    """Warnings about a derived cell most of whose edges are skip-connects or nothing, or about a chain most
    of whose blocks are."""
    skips, nones = (operations.count(genotype, family) for family in ("skip", "none"))
    if genotype.is_chain:
        idle, blocks = sum(skips.values()), sum(len(cell.edges) for cell in genotype.cells)
        shallow = f"the network is shallow: {idle} of its {blocks} blocks are the identity"
        return [shallow] if 2 * idle > blocks else []
    return [
        f"the search has collapsed: {skips[cell.name]} skip_connect and {nones[cell.name]} none "
        f"on the {len(cell.edges)} edges of the cell '{cell.name}'"
        for cell in genotype.cells
        if 2 * (skips[cell.name] + nones[cell.name]) > len(cell.edges)
    ]
