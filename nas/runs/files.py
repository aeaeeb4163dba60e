"""Writing files so that a reader sees the old content or the new one, never half of it; and reading them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from recipes import InputError, first_line

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

Result = TypeVar("Result")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary file in the same folder; on success it is flushed and renamed to
    `path`. Its permissions are those of any new file there, whoever makes the temporary one anew."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            usual = os.fstat(file.fileno()).st_mode
        yield temporary
        with open(temporary, "r+b") as file:  # Windows flushes only what may be written to
            if (
                hasattr(os, "fchmod") and os.fstat(file.fileno()).st_mode != usual
            ):  # safetensors lets nobody else
                os.fchmod(file.fileno(), stat.S_IMODE(usual))
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Delete what `atomic_path` left in `folder` when the process was killed."""
    for path in folder.glob(".*.????????.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where a system lets a program do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OtherLock:
    """A lock where there is no `flock`, by the package filelock: on Windows one of the system, elsewhere
    only a file, which a process that is killed leaves behind.

    Raises:
        BlockingIOError: somebody else holds the lock.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        self._held = FileLock(path, timeout=0)
        try:
            self._held.acquire()
        except Timeout:
            raise BlockingIOError from None

    def close(self) -> None:
        """Let others in."""
        self._held.release()

    def __enter__(self) -> OtherLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def fileno(self) -> int:
        """No descriptor that another process could inherit."""
        raise OSError("this system has no locks that another process could inherit")


Lock = IO[bytes] | OtherLock


def lock(path: Path) -> Lock:
    """Lock a file, which is made where it is missing and never deleted.

    The lock ends when what is returned is closed here and in all processes that have inherited it, or when
    these have ended, however that happened; see `OtherLock` for where this is promised less.

    Raises:
        BlockingIOError: somebody else holds the lock.
        OSError: the file cannot be written, or its file system has no locks.
    """
    if fcntl is None:
        return OtherLock(path)
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def append(path: Path, text: str) -> None:
    """Add `text` to the end of a file and flush it to the disk: all of it, or on an OSError nothing."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = memoryview(text.encode())
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Replace `path` by `data` as indented JSON, atomically."""
    write_text(path, json_text(data))


def read_json(path: Path) -> Any:
    """What `write_json` left in a file. Raises InputError where that is missing or damaged."""
    return _undamaged(path, json.loads)


def read_json_lines(path: Path) -> list[Any]:
    """What is in a file with JSON in every line. Raises InputError where that is missing or damaged."""
    return _undamaged(path, lambda text: [json.loads(line) for line in text.splitlines()])


def _undamaged(path: Path, parse: Callable[[str], Result]) -> Result:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is missing or damaged ({first_line(error)}): restore it, or delete it with all that "
            "belongs to it and run the same command again"
        ) from None


def json_text(data: Any) -> str:
    """`data` as `write_json` writes it."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def cache_folder() -> Path:
    """Folder for derived files that may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "reinmax-nas"
