"""What callbacks tell each other, and any callback of yours: circuits have been measured, circuits have been written.

Nobody has to be looked for. A callback that defines a method of one of these names is told, as Lightning tells it of
its own hooks, wherever it stands in the list:

| method                                            | called                                                     |
|---------------------------------------------------|------------------------------------------------------------|
| `on_circuits_measured(trainer, search, measured)` | by `FaithfulnessValidation`, with a `Measured`             |
| `on_circuits_written(trainer, search, written)`   | by `CircuitExport`, with a `Written`                       |

    class Print(pl.Callback):
        def on_circuits_measured(self, trainer, search, measured):
            print(measured.step, {row.circuit: row.faithfulness for row in measured.rows})

Every process is told, each the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch


@dataclass(frozen=True)
class Measured:
    """Circuits that have been judged by exact ablation.

    ``step``: the Trainer's. ``split``: ``val`` or ``test``. ``circuits``: as they were measured, by name. ``rows``: of
    each of them, with its controls, of the full model and of the empty circuit, under every ablation. ``ablations``:
    what each of these is, by name (see `Ablation.describe`).
    """

    step: int
    split: str
    circuits: dict[str, Circuit]
    rows: list[Row]
    ablations: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Written:
    """Circuits that have been written to files.

    ``step``: the Trainer's. ``circuits``: the last ones as their files have them, by name. ``paths``: all files of the
    export by now, those of the best circuits of earlier steps included.
    """

    step: int
    circuits: dict[str, Circuit]
    paths: list[Path]


Announcement = Literal["on_circuits_measured", "on_circuits_written"]


def announce(trainer: pl.Trainer, event: Announcement, search: CircuitSearch, news: Measured | Written) -> None:
    """Call the method ``event`` of every callback that has one.

    Those that have something to announce themselves come last, so that everybody hears of things as they happened.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    for callback in sorted(callbacks, key=lambda callback: hasattr(callback, "announces")):
        if hasattr(callback, event):
            getattr(callback, event)(trainer, search, news)


def is_announced(trainer: pl.Trainer, event: Announcement) -> bool:
    """Whether any callback announces the event, as it says by an attribute ``announces``."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(getattr(callback, "announces", None) == event for callback in callbacks)
