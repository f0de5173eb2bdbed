"""How far a long computation has come: told where the work is done, shown where there is a place for it.

    with progress("Judging circuits", total=120) as bar:
        for circuit in circuits:
            ...
            bar.advance()

    for batch in tracked(batches, "Taking means"):
        ...

What is done within two seconds shows nothing. Then there is a bar with the time that is left, in a terminal or a
notebook, and it is gone when the work is done; where output goes to a file, as under SLURM, there is a line a minute.
Of several processes the first one shows it. Bars stand below each other, so work may be a part of other work.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

import rich
import torch
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

Item = TypeVar("Item")

PATIENCE = 2.0
"""Seconds that work may take in silence."""
BETWEEN_LINES = 60.0
"""Seconds between two lines, where there is no terminal."""

_shown: ContextVar[bool] = ContextVar("shown", default=True)


class Bar:
    """Work under way; made by `progress`."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self._what, self._total, self._done, self._note = what, total, done, ""
        self._begun, self._done_before = time.monotonic(), done
        self._drawn: Progress | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    def begin(self, patience: float) -> None:
        """Show it, after so many seconds."""
        console = rich.get_console()
        if not (console.is_terminal or console.is_jupyter):
            self._after(BETWEEN_LINES, self._say)
        elif patience:
            self._after(patience, self._draw)
        else:
            self._draw()

    def advance(self) -> None:
        """One more is done."""
        self.update(self._done + 1)

    def update(self, done: int, note: str = "") -> None:
        """So much is done in all.

        Args:
            done: of the total.
            note: a few words on how it goes.
        """
        self._done, self._note = done, note
        with self._lock:
            if self._drawn is not None:
                self._drawn.update(self._drawn.task_ids[0], completed=done, note=note)

    def end(self) -> None:
        """It is over: nothing of it stays on the screen."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._drawn is not None:
                self._drawn.stop()
                self._drawn = None

    def _after(self, seconds: float, show: Callable[[], None]) -> None:
        def if_it_goes_on() -> None:
            with self._lock:
                if self._timer is not None:
                    show()

        self._timer = threading.Timer(seconds, if_it_goes_on)
        self._timer.daemon = True
        self._timer.start()

    def _draw(self) -> None:
        self._drawn = Progress(*_COLUMNS, console=rich.get_console(), transient=True)
        task = self._drawn.add_task(self._what, total=self._total, completed=self._done, note=self._note)
        self._drawn.tasks[task].start_time = self._begun - time.monotonic() + self._drawn.get_time()
        self._drawn.start()

    def _say(self) -> None:
        passed = timedelta(seconds=round(time.monotonic() - self._begun))
        known = f" after {passed}" if self._total is None else f" of {self._total}"
        left = _left(time.monotonic() - self._begun, self._done - self._done_before, self._total, self._done)
        note = f", {self._note}" if self._note else ""
        sys.stderr.write(f"{self._what}: {self._done}{known}{f', {left} left' if left else ''}{note}\n")
        sys.stderr.flush()
        self._after(BETWEEN_LINES, self._say)


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0, patience: float = PATIENCE) -> Iterator[Bar]:
    """Show how far the work of a `with` block is.

    Args:
        what: is done: ``"Judging circuits"``.
        total: how much there is to do; None if nobody knows.
        done: how much of it is done by now.
        patience: seconds before it is shown.
    """
    bar = Bar(what, total, done)
    if _here():
        bar.begin(patience)
    try:
        yield bar
    finally:
        bar.end()


def tracked(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Items, with a bar of how many have been taken.

    Args:
        items: of a loop.
        what: is done with them.
        total: how many there are. Default: their length, if they have one.
    """
    with progress(what, length_of(items) if total is None else total) as bar:
        for item in items:
            yield item
            bar.advance()


@contextmanager
def shown(yes: bool) -> Iterator[None]:
    """Within, progress is shown, or it is not: for whoever has asked for no bars."""
    before = _shown.set(yes and _shown.get())
    try:
        yield
    finally:
        _shown.reset(before)


def length_of(items: Iterable[object], shares: int = 1) -> int | None:
    """How many there are, or are in the largest of so many shares of them; None if they do not say."""
    try:
        return -(-len(items) // shares)  # type: ignore[arg-type]
    except TypeError:
        return None


def _here() -> bool:
    """Whether this process is the one to show anything."""
    of_several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return _shown.get() and not (of_several and torch.distributed.get_rank())


def _left(seconds: float, done: int, total: int | None, done_in_all: int) -> str:
    """The time that is left at the pace so far, as ``0:01:10``; empty where nobody can tell."""
    if total is None or done <= 0:
        return ""
    return str(timedelta(seconds=round(seconds / done * max(total - done_in_all, 0))))


class _Time(ProgressColumn):
    """Time that has passed, and that is left."""

    def render(self, task: Task) -> Text:
        passed = timedelta(seconds=round(task.elapsed or 0))
        left = task.time_remaining
        return Text(str(passed) if left is None else f"{passed}, {timedelta(seconds=round(left))} left", style="dim")


class _Done(ProgressColumn):
    """How much, of how much."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


_COLUMNS = (TextColumn("{task.description}"), BarColumn(16), _Done(), _Time(), TextColumn("{task.fields[note]}"))
