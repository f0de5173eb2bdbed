"""Checkpoints hold plain data, and plain data is all that is ever read from one.

A checkpoint is a pickle, and a pickle may name any function to be called while it is read. PyTorch can be told to read
tensors, numbers and texts alone (``weights_only``). Lightning leaves that open where nobody says it, and says the
opposite for a checkpoint that comes from an address. Here it is said, whatever the road: a Trainer's ``ckpt_path``, the
command line's, `CircuitSearch.load_from_checkpoint`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError
from zipfile import ZipFile, is_zipfile

from lightning_circuits.namespace import pl

NOT_THERE = (FileNotFoundError, PermissionError, IsADirectoryError, URLError)
"""What is wrong with the place, not with what stands there: these errors say it themselves."""
MORE_THAN_DATA = (
    "it holds more than tensors, numbers and texts, which would have to be run to be read, and was not (it is of "
    "another program, or was tampered with)"
)


class PlainDataIO(pl.plugins.CheckpointIO):
    """Another `CheckpointIO` that reads plain data alone.

    Args:
        inner: what checkpoints are written and read with.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        self.inner.save_checkpoint(*args, **options)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """The checkpoint at a path or an address.

        Raises:
            ValueError: the file holds more than plain data, which was not run; it is damaged, or no checkpoint.
            OSError: it is not there, or cannot be reached.
        """
        local = Path(path) if Path(path).is_file() else None
        try:
            checkpoint = self.inner.load_checkpoint(path, *args, **options | {"weights_only": True})
        except NOT_THERE:
            raise
        except Exception as error:  # of a damaged file PyTorch says so in a dozen ways
            if local is not None and not is_zipfile(local):
                reason = "it is cut off, or no file of PyTorch's" if local.stat().st_size else "it is empty"
            elif local is not None and (part := _damaged_part(local)):
                reason = f"its part {part!r} is not as it was written"
            elif "weights_only" in str(error):  # PyTorch's own advice is to run what is in the file
                reason = MORE_THAN_DATA
            else:
                reason = f"it is damaged ({type(error).__name__} while it was read)"
            raise ValueError(_unreadable(path, reason)) from None
        if local is not None and (part := _damaged_part(local)):
            raise ValueError(_unreadable(path, f"its part {part!r} is not as it was written"))
        for name in ("state_dict", "pytorch-lightning_version"):
            if not isinstance(checkpoint, dict) or name not in checkpoint:
                raise ValueError(_unreadable(path, f"it holds no {name}"))
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        self.inner.teardown()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint at a path or an address.

    Raises:
        ValueError, OSError: as `PlainDataIO.load_checkpoint` does.
    """
    return PlainDataIO(pl.plugins.TorchCheckpointIO()).load_checkpoint(path)


def read_plain_data(trainer: pl.Trainer) -> None:
    """From now on the Trainer reads plain data alone from checkpoints, those from an address too."""
    if not isinstance(trainer.strategy.checkpoint_io, PlainDataIO):
        trainer.strategy.checkpoint_io = PlainDataIO(trainer.strategy.checkpoint_io)


def _damaged_part(path: Path) -> str | None:
    """The first entry of an archive whose checksum is another one, which PyTorch does not look at."""
    if not is_zipfile(path):  # as PyTorch wrote long ago
        return None
    try:
        with ZipFile(path) as archive:
            return archive.testzip()
    except Exception:  # what says where its parts are is damaged itself: zipfile has a dozen words for that, too
        return "directory"


def _unreadable(path: Any, reason: str) -> str:
    first = reason.strip().splitlines()[0].rstrip(".")
    return (
        f"{path} cannot be read as a checkpoint: {first}. Give a .ckpt file that Lightning wrote, whole; the file of a "
        "circuit is read by SavedCircuit (path=...), or by a warm start"
    )
