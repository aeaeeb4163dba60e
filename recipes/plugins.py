"""Code of the user that is imported because the user names it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from recipes.errors import InputError, first_line


def import_plugins(names: Iterable[str]) -> None:
    """Import Python files (`PATH.py`) and modules, each once. Raises InputError where one does not import."""
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                importlib.import_module(name)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the plugin '{name}' cannot be imported ({type(error).__name__}: {first_line(error)}): "
                "correct it, or "
                "the path"
            ) from None


def take_plugins(defaults: dict[str, Any], given: Collection[str]) -> None:
    """Import the plugins `given`; remove those from `defaults`, the options in a file, which imports nothing.

    Raises InputError where the file needs others, or one does not import.
    """
    import_plugins(given)
    if missing := sorted(set(defaults.pop("plugins", ())) - set(given)):
        raise InputError(
            f"that run needs `plugins={' '.join(missing)}`: give them again, no file of a run is trusted to "
            "import code"
        )


def _import_file(path: Path) -> None:
    module_name = path.stem
    known = sys.modules.get(module_name)
    if known is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == path.resolve():
            return
        raise InputError(
            f"the plugin {path} has the name of another module, '{module_name}': rename the file"
        )
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
