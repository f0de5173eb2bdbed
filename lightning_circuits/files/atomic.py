"""Files that are there whole or not at all.

They are written in a hidden folder beside their places, `.writing-*.tmp`, and then moved. A process that is killed
leaves that folder behind, and the next run there clears it away (`clear_leftovers`). It is locked for as long as its
process lives, so that of two runs in one place none takes what the other is writing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is cleared away
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


def require_place(path: Path) -> None:
    """Refuse to write a file, before it is made, where none can be.

    Raises:
        FileNotFoundError: there is no folder for it.
        IsADirectoryError: a folder is called so.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: that is a folder")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, and then move it there: who reads it finds the old one or the new one, whole.

    Raises:
        OSError: no such folder, a full disk; what stood at ``path`` is still there.
    """
    with staging(path.parent) as folder:
        staged = folder / path.name
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder in ``folder``, for files that are to be moved there together; it goes with what is left in it.

    In the same folder: a move is atomic only within one file system.

    Raises:
        OSError: no such folder, or a full disk.
    """
    staged = Path(tempfile.mkdtemp(prefix=".writing-", suffix=".tmp", dir=folder))
    try:
        with (staged / f"{LOCK}-new").open("w") as lock:
            if fcntl is not None:
                with suppress(OSError):  # of a file system without locks; nothing is cleared away there
                    fcntl.flock(lock, fcntl.LOCK_EX)
                os.rename(lock.name, staged / LOCK)  # nobody sees it unlocked
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing in ``folder``; what another process is writing right now stays."""
    for staged in folder.glob(".writing-*.tmp") if fcntl is not None else ():
        with suppress(OSError), (staged / LOCK).open("r+") as lock:  # locked, being made, or gone by now
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staged)
