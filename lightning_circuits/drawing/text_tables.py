"""What all tables are made of: cells of text, whatever rich would make of it, columns of numbers, sections."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from lightning_circuits.printable import printable

LONGEST = 100
"""So many characters of a cell are shown at most."""
WIDEST = 1000
"""Columns of a terminal in which every table has room."""


def console(quiet: bool = False) -> Console:
    """The terminal; where there is none, a page as wide as the tables. Quiet, it shows nothing."""
    found = Console(quiet=quiet)
    return found if found.is_terminal else Console(quiet=quiet, width=100)


def note(text: str, kind: str = "Note") -> Text:
    """What a reader should know beside a table."""
    return Text(f"{kind}: {printable(text, longest=1000)}", style="yellow")


class TextTable(Table):
    """A table of text: no markup, no links, nothing that a terminal would obey, and no cell that fills the screen.

    Where there is no room for all, columns are left out, of `spare` the first ones first, and the caption says so: a
    number is never shown in part.
    """

    spare: Sequence[str] = ()

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        super().add_column(_text(header), *args, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*map(_text, cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited, shown = options.update(max_width=WIDEST), self
        for number in range(1, len(self.spare) + 1):
            if shown.__rich_measure__(console, unlimited).maximum > options.max_width:
                shown = self._without(self.spare[:number])
        yield from super(TextTable, shown).__rich_console__(console, options)

    def _without(self, names: Sequence[str]) -> TextTable:
        """The same table without some columns."""
        there = [column for column in self.columns if str(column.header) in names]
        if not there:
            return self
        narrow = copy(self)
        kept = (column for column in self.columns if column not in there)
        narrow.columns = [replace(column, _index=index) for index, column in enumerate(kept)]
        said = f"Not shown for width: {', '.join(str(column.header) for column in there)}."
        caption = [self.caption] if isinstance(self.caption, Text) else []
        narrow.caption = Text("\n").join([Text(said, style="table.caption"), *caption])
        return narrow


def _text(cell: Any) -> Any:
    return Text(printable(cell, longest=LONGEST)) if isinstance(cell, str) else cell


def begin(title: str, *caption: str) -> TextTable:
    """A table without rows; every line of its caption as one text."""
    # Columns one letter apart, so that ten of them fit a terminal of 80.
    return TextTable(
        title=Text(printable(title, longest=3 * LONGEST), style="table.title"),
        caption=Text("\n".join(map(printable, caption)), style="table.caption") if caption else None,
        box=box.SIMPLE_HEAD,
        padding=0,
    )


def add_numbers(view: Table, *names: str) -> None:
    """Columns of numbers."""
    for name in names:
        view.add_column(name, justify="right", no_wrap=True)


def begin_section(view: Table, name: str) -> None:
    """A line, and a row that says what comes after it."""
    view.add_section()
    view.add_row(name, style="bold")
