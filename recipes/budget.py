"""Budgets as text: `parameters=1.5M`, `macs=60M`, `latency=12ms`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from recipes.errors import InputError, one_of

KINDS = {"parameters": "parameters", "macs": "multiply-adds an image", "latency": "latency"}
"""What can have a budget, and how reports call it."""
_COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_TIMES = {"us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}  # in ns, the unit of latencies
_LARGEST = 10**15  # sums of them are exact in any arithmetic


def parse_budget(texts: Iterable[str]) -> dict[str, int]:
    """Limits by kind, in whole parameters, multiply-adds and ns. Raises InputError."""
    limits: dict[str, int] = {}
    for text in texts:
        kind, value = _split("budget", text)
        if kind in limits:
            raise InputError(f"`budget` names {kind} twice: give it once")
        limits[kind] = _amount("budget", kind, value)
    return limits


def parse_budgets(text: str) -> tuple[str, list[int]]:
    """Kind and ascending limits of `macs=20M,40M,60M`. Raises InputError."""
    kind, values = _split("budgets", text)
    amounts = sorted(_amount("budgets", kind, value) for value in values.split(","))
    if len(amounts) < 2:
        raise InputError(f"`budgets` is '{text[:60]}', expected several values: for one there is `budget`")
    if len(set(amounts)) < len(amounts):
        raise InputError(f"`budgets` is '{text[:60]}', which has a value twice: give each once")
    return kind, amounts


def _split(option: str, text: str) -> tuple[str, str]:
    kind, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"`{option}` is '{text[:60]}', expected KIND=VALUE, e.g. parameters=1.5M")
    return one_of("kind of budget", kind, KINDS), value


def _amount(option: str, kind: str, text: str) -> int:
    """A number with its unit, in the smallest unit, rounded down."""
    units = _TIMES if kind == "latency" else _COUNTS
    examples = "12ms or 800us" if kind == "latency" else "1.5M or 800k"
    wrong = f"`{option}`: {kind} is '{text[:40]}', expected a number with its unit, e.g. {examples}"
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s?([a-zA-Zµ]*)", text.strip())
    if found is None or found[2] not in units:
        raise InputError(wrong + ("; millions are M" if found and found[2] == "m" else ""))
    number = Decimal(found[1])
    if not found[2] and (number < 1000 or number != int(number)):
        raise InputError(f"{wrong}: {text[:40]} of what?")
    value = int(number * units[found[2]])
    if not 1 <= value <= _LARGEST:
        raise InputError(f"`{option}`: {kind} is '{text[:40]}', expected more than 0 and less than 10^15")
    return value


def format_cost(kind: str, value: float) -> str:
    """A cost with its unit, to three digits: 1.5 M, 12.3 ms."""
    number, unit = split_cost(kind, value)
    return f"{number} {unit}".strip()


def split_cost(kind: str, value: float) -> tuple[str, str]:
    """A cost and its unit, to three digits."""
    steps = (
        ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))
        if kind == "latency"
        else ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
    )
    size, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{value / size:.3g}" if abs(value / size) < 999.5 else f"{value / size:.0f}", unit
