"""Hypothesis strategies for input that is nearly right, and odd in the ways that break parsers."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

HUGE = 10**9
ODD_TEXT = [
    *("", " ", "\n", "\r", "\t", "\0", "\ufeff", "\ud800", "\udce9", "\u202e", "é", "٣", "²", "-", "_", "."),
    *(
        ",",
        ":",
        ";",
        "=",
        "+",
        "|",
        "~",
        "*",
        "**",
        "#",
        "%",
        "/",
        "../",
        "\\",
        "\\d",
        "\\ud800",
        "'",
        '"',
        "(",
        ")",
    ),
    *("[", "]", "{", "}", "0", "-1", "1", "1_0", "1e5", "1e999", "-1e999", "nan", "NaN", "inf", "Infinity"),
    *("-Infinity", "true", "True", "null", "None", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "10**9"),
    *(str(HUGE), str(2**63), f"range(0, {HUGE})", "range(0, 10**9)", "range(*[2, 6])", "**{}", "(" * 300),
    *("[" * 2000, "{" * 500, '{"a":' * 2000, "-" * 3000, "lambda: 0", "f'{1}'", "x" * 3000),
    "__import__('os').system('touch owned')",
]
ODD_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        HUGE,
        -HUGE,
        2**31,
        2**63,
        10**30,
        10**400,
        0.0,
        -0.0,
        1.0,
        1.5,
        1e-300,
    ),
    *(
        1e308,
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "0",
        "x",
        "none",
        "darts",
        "micro",
        "\0",
        "\ud800",
    ),
    *(
        "\ufeff",
        "a" * 5000,
        [],
        {},
        [[]],
        [None],
        [0, HUGE],
        [2, 2],
        ["x"] * 300,
        {"": 0},
        {"space": "micro"},
    ),
]


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


odd_values = st.one_of(
    st.sampled_from(ODD_VALUES).map(copy.deepcopy),
    st.sampled_from([20, 200, 400]).map(nested),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
)


@st.composite
def edited(draw: st.DrawFn, valid: st.SearchStrategy[str], most: int = 4) -> str:
    """A valid text after up to `most` edits; sometimes something else altogether."""
    text = draw(valid)
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20, 10**6])))
        piece = draw(
            st.one_of(
                st.sampled_from(ODD_TEXT),
                st.text(max_size=3),
                st.sampled_from([text[start:stop], text[start:stop] * 2, text[stop : stop + 30], text]),
            )
        )
        text = (text[:start] + piece + text[stop:])[:100_000]
    return text


def soup(*words: str) -> st.SearchStrategy[str]:
    """Words of a notation in any order, odd ones among them."""
    word = st.sampled_from(words) | st.sampled_from(ODD_TEXT)
    return st.lists(word, max_size=12).map("".join)


@st.composite
def edited_data(draw: st.DrawFn, valid: st.SearchStrategy[Any]) -> Any:
    """Valid JSON data with up to three odd changes."""
    data = copy.deepcopy(draw(valid))
    for _ in range(draw(st.integers(0, 3))):
        data = _change(draw, data)
    return data


@st.composite
def edited_json(draw: st.DrawFn, valid: st.SearchStrategy[Any]) -> str:
    """The text of such data, itself edited sometimes."""
    text = json.dumps(draw(edited_data(valid)), ensure_ascii=draw(st.booleans()))
    return draw(edited(st.just(text), most=2)) if draw(st.integers(0, 3)) == 0 else text


def _change(draw: st.DrawFn, data: Any) -> Any:
    """`data` with one place of it replaced, removed, doubled or added to."""
    place: Any = None
    key: Any = None
    inner = data
    while isinstance(inner, dict | list) and inner and (place is None or draw(st.integers(0, 3))):
        place = inner
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        key = draw(st.sampled_from(keys))
        inner = inner[key]
    if place is None:
        return draw(odd_values)
    how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "copy"]))
    if how == "replace":
        place[key] = draw(odd_values)
    elif how == "remove":
        del place[key]
    elif isinstance(place, list):
        place.insert(key, draw(odd_values) if how == "add" else copy.deepcopy(place[key]))
    else:
        place[draw(st.sampled_from([*sorted(place), "", "x", "\ud800", "k" * 3000]))] = (
            draw(odd_values) if how == "add" else copy.deepcopy(place[key])
        )
    return data


@st.composite
def edited_bytes(draw: st.DrawFn, valid: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    """Valid bytes, truncated, flipped, doubled or overwritten in up to `most` places."""
    data = draw(valid)
    for _ in range(draw(st.integers(0, most))):
        # Headers are where formats are fragile: half of the edits happen there.
        start = draw(st.integers(0, min(len(data), 100)) | st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 4, 8, 10**9]))
        piece = draw(
            st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8, b"\xff" * 8])
            | st.binary(max_size=8)
        )
        data = data[:start] + piece + data[start + length :]
    return data
