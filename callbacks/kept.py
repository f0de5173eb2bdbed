"""The files of circuits that a run keeps: of each circuit the last, and the best that were measured.

The files of a circuit are all written whole and then moved into their places together, and those they replace are
removed after that. So a run killed at any moment, or a disk that is full, leaves complete files.

While the last circuit is one of the best, both names are those of one file (a hard link, where the disk has them).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.callbacks.loggers import in_key
from lightning_circuits.files.atomic import staging, write_atomically


class KeptCircuits:
    """Files ``circuit-last-NAME`` and ``circuit-step000100-NAME``, in each of some formats.

    Args:
        folder: where they are, if that is known before a run is set up.
        formats: the suffixes of the files, without the point.
        save_top_k: how many of the best of each name are kept; -1 keeps all, 0 only the last.

    Attributes:
        best: for each name how bad, and of which step, best first. With several processes, the first one knows.

    Raises:
        ValueError: `save_top_k` below -1.
        TypeError: one that is no whole number.
    """

    def __init__(self, folder: Path | None, formats: Sequence[str], save_top_k: int) -> None:
        require_whole_numbers(save_top_k=save_top_k)
        if save_top_k < -1:
            raise ValueError(f"save_top_k is {save_top_k}: a number of circuits to keep, or -1 for all")
        self.formats, self.save_top_k = list(formats), save_top_k
        self.folder = folder or Path()
        self.best: dict[str, list[tuple[float, int]]] = {}
        self._before: Path | None = None  # where the run that this one goes on from has left its files

    @property
    def paths(self) -> list[Path]:
        """The files that are kept by now: for each name the last circuit, then the best."""
        return [
            path
            for name, entries in self.best.items()
            for step in (None, *(step for _, step in entries))
            for path in self._files(name, step)
        ]

    def write(self, name: str, value: float, step: int, save: Callable[[Path], Any]) -> None:
        """Write a circuit as the last of its name and, if it is among the best, as that; remove what it displaces.

        Args:
            name: of the circuit.
            value: how bad it is; NaN for one that was not measured, which is never among the best.
            step: of the Trainer.
            save: writes it to a path.

        Raises:
            OSError: a full disk; what was there before is still there.
        """
        self._bring_along(name)
        before = [entry for entry in self.best.get(name, []) if entry[1] != step]
        after = sorted(before if math.isnan(value) else [*before, (value, step)])
        if self.save_top_k >= 0:
            after = after[: self.save_top_k]
        last, best = self._files(name, None), self._files(name, step) if (value, step) in after else []
        with staging(self.folder) as folder:
            for path in last:
                save(folder / path.name)
            for path, same in zip(best, last, strict=False):
                _link(folder / same.name, folder / path.name)
            for path in (*last, *best):
                os.replace(folder / path.name, path)
        self.best[name] = after
        for entry in before:
            if entry not in after:
                for path in self._files(name, entry[1]):
                    path.unlink(missing_ok=True)

    def _bring_along(self, name: str) -> None:
        """Have the best of a run that this one goes on from, in another folder, here; what is gone is no longer kept.

        Raises:
            OSError: a full disk.
        """
        if self._before is None:
            return
        there = []
        for entry in self.best.get(name, []):
            paths = self._files(name, entry[1])
            for path in paths:
                if not path.exists():
                    with suppress(FileNotFoundError):
                        write_atomically(path, (self._before / path.name).read_bytes())
            if all(path.exists() for path in paths):
                there.append(entry)
        self.best[name] = there

    def _files(self, name: str, step: int | None) -> list[Path]:
        """The files of the circuit called `name` at a step; without one, of the last."""
        label = "last" if step is None else f"step{step:06d}"
        stem = f"circuit-{label}-{in_key(name).replace('%', 'pct')}"
        return [self.folder / f"{stem}.{suffix}" for suffix in self.formats]

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        best = {name: [list(entry) for entry in entries] for name, entries in self.best.items()}
        return {"folder": str(self.folder.absolute()), "best": best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = {name: [(value, step) for value, step in entries] for name, entries in state_dict["best"].items()}
        self._before = Path(state_dict["folder"]) if "folder" in state_dict else None


def _link(path: Path, other: Path) -> None:
    """Have ``other`` be ``path`` by a second name; a copy on file systems that know no such thing."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
