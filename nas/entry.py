"""The two entry points: options to keyword arguments, a result to lines on the terminal and an exit code."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable
from dataclasses import replace

from nas import api, distributed
from nas.runs import loop
from nas.runs.run_folder import default_path
from recipes import RESUME_ME, FinalOptions, InterruptionError, RunOptions, SearchOptions
from recipes.errors import with_flags


def search(options: SearchOptions) -> None:
    """What train_search.py does. Raises InputError, or InterruptionError where a signal has stopped the
    run."""
    _run(api.search, options, f"search-{options.space}-{options.estimator.replace(':', '-')}")


def train(options: FinalOptions) -> None:
    """What train_final.py does; raises what `search` raises."""
    genotype = options.genotype or options.weights or ""
    short = genotype if re.fullmatch(r"\w{1,40}", genotype) else f"{zlib.crc32(genotype.encode()):08x}"
    _run(api.train, options, f"final-{short}")


def _run(function: Callable[..., api.Result], options: RunOptions, name: str) -> None:
    """Call the function in the folder that the options name, or in one that begins with `name`."""
    options = replace(options, out=options.out or str(default_path(options, name)))
    with distributed.group():  # to the end, so that one rank alone says how it went
        if loop.finished(options):
            return
        arguments = dataclasses.asdict(options) | {"config": None}
        result = function(data=arguments.pop("dataset"), announce=_announce, **arguments)
        if result.stopped is not None:
            raise distributed.agreed(InterruptionError(result.stopped), RESUME_ME)
        print("\n".join(result.messages))


def _announce(line: str) -> None:
    print(with_flags(line), flush=True)
