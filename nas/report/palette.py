"""One colour per estimator, the same in every figure."""

from __future__ import annotations

# Related estimators have related hues: reds for ReinMax, greens for Gumbel-softmax, blues for
# straight-through, earth colours for the dense relaxations, greys and violet for the score function.
ESTIMATOR_COLOURS: dict[str, str] = {
    "reinmax": "#c2255c",
    "reinmax_rao": "#f783ac",
    "st": "#1c6fb4",
    "gst": "#74b9ef",
    "st_gumbel": "#18804f",
    "gumbel_rao": "#74cf96",
    "softmax": "#8d5f33",
    "concrete": "#e8790c",
    "dirichlet": "#d3ac06",
    "reinforce": "#6b7684",
    "reinforce_loo": "#7a4bb5",
    "random": "#b4bcc7",
    "exact": "#1f2933",
}


def colour(method: str) -> str:
    """The colour of an estimator, or of a method `estimator,option=value,...`; exact and random too."""
    return ESTIMATOR_COLOURS[method.partition(",")[0]]
