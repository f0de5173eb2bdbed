"""Runs that a Trainer launches by fork or spawn, as in a notebook, and what they can bring back.

Lightning sends `trainer.callback_metrics` to the process that has launched them, through a pipe that nobody reads
before they have ended. A pipe holds 64 KB and a number takes 310 bytes on the way, so with some 200 numbers neither
side would ever end. So of the numbers of circuits, as many are left as surely fit; loggers and files have them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from lightning_circuits.callbacks.monitors import monitored
from lightning_circuits.namespace import pl

ROOM = 60
"""So many numbers of each callback that measures circuits."""
FIRST = ("faithfulness", "kl", "accuracy")
"""The numbers of each circuit that are brought back first, behind those that are watched."""


def leave_room(trainer: pl.Trainer, ours: Iterable[str]) -> None:
    """At the end of a run that is launched so, leave no more than `ROOM` of these `callback_metrics`.

    Args:
        trainer: of the run.
        ours: keys that the callback has logged.
    """
    if not hasattr(trainer.strategy.launcher, "_start_method"):  # a launcher by script shares no pipe
        return
    metrics, watched = trainer.callback_metrics, monitored(trainer)

    def rank(key: str) -> tuple[bool, int]:
        number = key.rpartition("/")[2]
        return key not in watched, FIRST.index(number) if number in FIRST else len(FIRST)

    for key in sorted(ours, key=rank)[ROOM:]:
        metrics.pop(key, None)
