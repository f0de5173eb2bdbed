"""What all tables are made of: cells of text, whatever rich would make of it, columns of numbers, sections."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_circuits.printable import printable

LONGEST = 100
"""So many characters of a cell are shown at most."""


class TextTable(Table):
    """A table of text: no markup, no links, nothing that a terminal would obey, and no cell that fills the screen."""

    def add_column(self, header: RenderableType = "", *args: Any, **options: Any) -> None:
        super().add_column(_text(header), *args, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*map(_text, cells), **options)


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


def number(value: float | None, form: str) -> str:
    """A number as tables print it; `-` for one that does not exist."""
    if value is None or math.isnan(value):
        return "-"
    text = format(value, form)
    return text if text.strip("-0.%") else text.lstrip("-")  # 0.00, not -0.00
