"""Growth of the supernet as text: `cells=5:11`, sizes of the stages before the last."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from recipes.errors import InputError, one_of

if TYPE_CHECKING:
    from recipes.options import SearchOptions

SIZES = ("cells", "channels", "partial_channels")
"""Options that can have another value in earlier stages; with fewer partial channels weights are widened."""
_MOST = 20  # stages


def parse_growth(text: str | None) -> dict[str, tuple[int, ...]]:
    """The earlier values of each option, equally many of all; {} of None. Raises InputError."""
    found: dict[str, tuple[int, ...]] = {}
    for part in () if text is None else text.split(","):
        name, equals, values = part.partition("=")
        if not (equals and re.fullmatch(r"[1-9][0-9]{0,3}(:[1-9][0-9]{0,3})*", values)):
            raise InputError(
                f"`grow` is '{str(text)[:60]}', expected SIZE=N:N:..., the sizes of the stages before the "
                "last, e.g. cells=5:11 with `cells=17`"
            )
        if one_of("size that grows", name, SIZES) in found:
            raise InputError(f"`grow` names {name} twice: give it once")
        found[name] = tuple(map(int, values.split(":")))
    counts = {name: len(sizes) for name, sizes in found.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"`grow` is '{str(text)[:60]}', expected equally many sizes of each: one a stage")
    if max(counts.values(), default=0) >= _MOST:
        raise InputError(f"`grow` has {max(counts.values()) + 1} stages, expected {_MOST} at most")
    return found


def check_growth(options: SearchOptions) -> None:
    """Raise InputError where the growth cannot be read, or the epochs are no stages of equal length."""
    sizes = parse_growth(options.grow)
    if not sizes:
        return
    stages = 1 + max(map(len, sizes.values()))
    if options.epochs % stages:
        raise InputError(
            f"`epochs` is {options.epochs}, expected a multiple of {stages}, the number of stages of `grow`"
        )
    for name in ("stop_entropy", "stop_skips", "stop_curvature"):
        if getattr(options, name):
            raise InputError(
                f"`{name}` could end the search before the last stage of `grow`: drop one of the two"
            )
    for name in ("auxiliary_skip", "skip_dropout"):
        schedules = (getattr(options, name) or "").split(",")
        if len(schedules) not in (1, stages):
            raise InputError(
                f"`{name}` has {len(schedules)} schedules, expected 1, or {stages}, one for each stage of "
                "`grow`"
            )
