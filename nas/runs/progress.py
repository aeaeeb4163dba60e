"""The progress bar of a run: on a terminal, in a notebook, or none."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, done: int, shown: bool | None) -> Any:
    """A bar of tqdm over `total` steps, `done` of which are done.

    Args:
        shown: None: on a terminal and in a notebook.
    """
    if shown is not False and _in_notebook():
        if importlib.util.find_spec("ipywidgets") is None:  # words will do
            return tqdm(total=total, initial=done, unit="step")
        from tqdm.notebook import tqdm as widget

        return widget(total=total, initial=done, unit="step")
    return tqdm(total=total, initial=done, disable=None if shown is None else not shown, unit="step")


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
