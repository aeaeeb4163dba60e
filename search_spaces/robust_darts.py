"""The spaces S1 to S4, in which DARTS is known to find cells that do not generalise.

Source: Zela et al., 2020, "Understanding and Robustifying Differentiable Architecture Search",
arXiv 1909.09656.
They are the space of DARTS with other candidates: S1 has the two strongest ones of every edge in a search.
"""

from __future__ import annotations

from search_spaces.darts import DartsSpace

_SKIP, _MAX, _AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"
_SEP_3, _DIL_3, _DIL_5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"

_S1_NORMAL = (
    *((_SKIP, _DIL_3), (_SKIP, _DIL_5)),
    *((_SKIP, _DIL_5), (_SKIP, _SEP_3), (_SKIP, _DIL_3)),
    *((_MAX, _SKIP), (_SKIP, _SEP_3), (_SKIP, _SEP_3), (_SKIP, _DIL_3)),
    *((_SKIP, _SEP_3), (_MAX, _SKIP), (_SKIP, _DIL_3), (_DIL_3, _DIL_5), (_DIL_3, _DIL_5)),
)
_S1_REDUCE = (
    *((_MAX, _AVG), (_MAX, _DIL_3)),
    *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL_5)),
    *((_MAX, _AVG), (_MAX, _SEP_3), (_SKIP, _DIL_3), (_SKIP, _DIL_5)),
    *((_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL_5), (_SKIP, _DIL_5), (_SKIP, _DIL_5)),
)

s1 = DartsSpace("s1", _S1_NORMAL, _S1_REDUCE)
s2 = DartsSpace("s2", (_SKIP, _SEP_3), (_SKIP, _SEP_3))
s3 = DartsSpace("s3", ("none", _SKIP, _SEP_3), ("none", _SKIP, _SEP_3))
s4 = DartsSpace("s4", ("noise", _SEP_3), ("noise", _SEP_3))
