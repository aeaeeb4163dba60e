"""Code of the user that is imported because the user names it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from recipes.errors import InputError, first_line
from recipes.registry import undone_on_failure


def import_plugins(names: Iterable[str]) -> None:
    """Import Python files (`PATH.py`) and modules, each once.

    Raises InputError where one does not import; what it has registered by then is undone.
    """
    for name in names:
        try:
            with undone_on_failure():
                if name.endswith(".py"):
                    _import_file(Path(name))
                else:
                    importlib.import_module(name)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"the plugin '{name}' cannot be imported ({type(error).__name__}: {first_line(error)}): "
                "correct it, or the path"
            ) from None


def require_plugins(needed: Iterable[str], given: Iterable[str]) -> None:
    """Raise InputError where a file of options needs plugins that are not given: it imports nothing."""
    known = {_place(name) for name in given}
    if missing := sorted(name for name in set(needed) if _place(name) not in known):
        raise InputError(
            f"that run needs `plugins={' '.join(missing)}`: give them again, no file of a run is trusted to "
            "import code"
        )


def _place(name: str) -> str:
    """The name of a module, or the whole path of a file."""
    return str(Path(name).resolve()) if name.endswith(".py") else name


def _import_file(path: Path) -> None:
    """Import a file under a name of its own, so that it hides no module that is called like it.

    It may import what lies beside it, where nothing else is called so.
    """
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    stem = re.sub(r"\W", "_", path.stem)
    module_name = f"nas_plugin_{stem}_{zlib.crc32(bytes(path)):08x}"
    if module_name in sys.modules:
        return
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
