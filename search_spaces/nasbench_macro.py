"""The space of NAS-Bench-Macro, a chain of eight blocks, whose networks have all been trained on CIFAR-10.

Source: Su et al., 2021, "Prioritized Architecture Sampling with Monto-Carlo Tree Search", arXiv 2103.11922.
"""

from __future__ import annotations

import re

from search_spaces.chain import ChainLayout, ChainSpace
from search_spaces.genotype import Genotype
from search_spaces.space import EnumerableSpace

CANDIDATES = ("identity", "mb3_k3", "mb6_k5")  # the digits 0, 1, 2; see inverted_residual.py
BLOCKS = (2, 3, 3)


class NasBenchMacro(ChainSpace, EnumerableSpace):
    """Three stages, of which the first block halves the resolution and doubles the channels.

    A network is written as the benchmark writes it, a digit for each block: 0 the identity (where the shape
    changes a 1x1 convolution with normalisation), 1 kernel 3 with expansion 3, 2 kernel 5 with expansion 6.
    """

    def __init__(self) -> None:
        super().__init__("nasbench_macro", CANDIDATES, CANDIDATES, BLOCKS, channels=32)

    def layout(self, channels: int, planned_size: int) -> ChainLayout:
        return ChainLayout(
            stem=channels,
            stem_stride=1,
            separable=False,
            stages=tuple((channels * 2**stage, 2) for stage in (1, 2, 3)),
            features=40 * channels,
            activation="relu",
        )

    def recognises(self, text: str) -> bool:
        return re.fullmatch(r"\s*[0-9]{8}\s*", text) is not None

    def parse(self, text: str) -> Genotype:
        digits = text.strip()
        if not re.fullmatch(f"[012]{{{self.num_slots}}}", digits):
            raise self._malformed(text, f"of {self.num_slots} digits 0, 1 and 2, such as '22212202'")
        return self.genotype([CANDIDATES[int(digit)] for digit in digits])

    def format(self, genotype: Genotype) -> str:
        operations = [edge.operation for cell in genotype.cells for edge in cell.edges]
        return "".join(str(CANDIDATES.index(self._require_operation(o, CANDIDATES))) for o in operations)

    def canonical(self, genotype: Genotype) -> str:
        """The digits, with the identities of a stage that change nothing at its end."""
        text, start = "", 0
        for count in BLOCKS:
            first, others = self.format(genotype)[start], self.format(genotype)[start + 1 : start + count]
            text += first + others.replace("0", "").ljust(count - 1, "0")
            start += count
        return text


nasbench_macro = NasBenchMacro()
