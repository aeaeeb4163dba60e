"""One colour per estimator and per operation, the same in every figure."""

from __future__ import annotations

import colorsys
import re
import zlib

import numpy as np

from search_spaces import operations

INK, QUIET, FAINT = "#1f2933", "#66707d", "#e8ebef"

_KNOWN: dict[str, str] = {
    # Estimators. Related ones have related hues: reds for ReinMax, greens for Gumbel-softmax, blues for
    # straight-through, teal for denoising, earth colours for the dense relaxations, greys and violets for the
    # score function.
    "reinmax": "#c2255c",
    "reinmax_beta": "#7d1128",
    "reinmax_rao": "#f783ac",
    "reinmax_cv": "#e05c45",
    "st": "#1c6fb4",
    "gst": "#74b9ef",
    "redge": "#0d8f9c",
    "reindge": "#70d0d6",
    "st_gumbel": "#18804f",
    "gumbel_rao": "#74cf96",
    "softmax": "#8d5f33",
    "concrete": "#e8790c",
    "dirichlet": "#d3ac06",
    "reinforce": "#6b7684",
    "reinforce_loo": "#7a4bb5",
    "double_cv": "#b9a0e6",
    "reinforce_critic": "#3a0ca3",
    "random": "#b4bcc7",
    "random cells": "#8a94a3",
    "exact": INK,
    # Operations. One hue per family (grey: no weights, orange: pooling, blue and green: convolutions,
    # violet: others), and within a family the larger kernel is the darker one.
    "none": "#c9ced6",
    "skip_connect": "#7b8494",
    "avg_pool_3x3": "#f5b25c",
    "max_pool_3x3": "#d9691b",
    "max_pool_5x5": "#a84c0f",
    "max_pool_7x7": "#743308",
    "nor_conv_1x1": "#85c4ea",
    "nor_conv_3x3": "#1c6fb4",
    "sep_conv_3x3": "#6cc58d",
    "sep_conv_5x5": "#18804f",
    "sep_conv_7x7": "#0c4a2d",
    "dil_conv_3x3": "#86a5ec",
    "dil_conv_5x5": "#3a52bd",
    "conv_3x1_1x3": "#5cc6c8",
    "conv_7x1_1x7": "#12767a",
    "noise": "#b07cc6",
    # Blocks: a hue for every kernel, the larger expansion darker, those with squeeze-and-excitation duller.
    "identity": "#98a1ae",
    "ir_k3_e3": "#a5d8ff",
    "ir_k3_e6": "#1971c2",
    "ir_k5_e3": "#96f2d7",
    "ir_k5_e6": "#099268",
    "ir_k7_e3": "#d0bfff",
    "ir_k7_e6": "#6741d9",
    "ir_k3_e3_se": "#9fb8cc",
    "ir_k3_e6_se": "#3f5d78",
    "ir_k5_e3_se": "#9dbfae",
    "ir_k5_e6_se": "#3c6b57",
    "ir_k7_e3_se": "#bcb0cf",
    "ir_k7_e6_se": "#5c4b85",
    "mb3_k3": "#4dabf7",
    "mb6_k5": "#12805c",
}
# First and last hue, lightest and darkest, saturation of colours for other names.
_FAMILIES = {
    "none": (0.58, 0.66, 0.82, 0.72, 0.12),
    "skip": (0.56, 0.66, 0.62, 0.42, 0.12),
    "pooling": (0.04, 0.12, 0.62, 0.42, 0.75),
    "convolution": (0.38, 0.70, 0.68, 0.32, 0.55),
    "other": (0.74, 1.0, 0.74, 0.34, 0.45),
    "estimator": (0.0, 1.0, 0.62, 0.36, 0.65),
}
_APART = 70  # least difference, summed over red, green and blue


def register(name: str, colour: str) -> None:
    """Let an estimator or operation have a colour, `#rrggbb`. Raises ValueError where it is none."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise ValueError(f"the colour of {name} is {colour!r}, expected #rrggbb")
    _KNOWN[name] = colour.lower()


def estimator_colour(method: str) -> str:
    """The colour of an estimator or of a method `estimator,option=value,...`; exact and random too."""
    return _colour(re.split("[,:]", method)[0], "estimator")


def name_colour(name: str) -> str:
    """A colour for the name of anything else, always the same."""
    return _colour(name, "other")


def operation_colour(name: str) -> str:
    """The colour of a candidate operation; one from outside has a shade of its family."""
    return _colour(name, operations.family(name) if name in operations.names() else "other")


def _colour(name: str, family: str) -> str:
    """The colour of a name; an unknown one always has the same, if possible unlike those that are known."""
    if name in _KNOWN:
        return _KNOWN[name]
    first, last, light, dark, saturation = _FAMILIES[family]
    known = np.array([_rgb(colour) for colour in _KNOWN.values()])
    shades = []
    for attempt in range(20):
        u, v = divmod(zlib.crc32(f"{name} {attempt}".encode()) % 10_000, 100)
        hue, lightness = first + (last - first) * u / 99, light + (dark - light) * v / 99
        shades.append([round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, saturation)])
    distances = np.abs(np.array(shades)[:, None] - known).sum(-1).min(-1)
    return "#" + "".join(f"{part:02x}" for part in shades[int((distances > _APART).argmax())])


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def is_dark(colour: str) -> bool:
    """Whether white text is read better on this colour than black."""
    r, g, b = _rgb(colour)
    return 0.3 * r + 0.59 * g + 0.11 * b < 140


def readable(colour: str) -> str:
    """The colour, darkened where text in it would be too faint on white."""
    r, g, b = _rgb(colour)
    factor = min(1.0, 120 / max(1.0, 0.3 * r + 0.59 * g + 0.11 * b))
    return "#" + "".join(f"{round(part * factor):02x}" for part in (r, g, b))
