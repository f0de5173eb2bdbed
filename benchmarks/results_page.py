"""The tables of docs/results.md. Each stands between markers that carry its name, and its benchmark writes it there.

A benchmark that measures a whole table at once replaces it (`write_table`). One that measures one shape in a run
replaces that shape's row (`write_row`), so that rows from several machines can stand in one table.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"
README = ROOT / "README.md"

Row = dict[str, str]
"""Cells by their headings, as Markdown. The first cell names the row."""


def write_table(name: str, rows: list[Row], caption: str, page: Path = RESULTS) -> None:
    """Replace a table by these rows, with what they were measured on below them.

    Raises:
        ValueError: the page has no table of that name.
    """
    _replace(page, name, f"{markdown(rows)}\n\n{caption}")


def write_row(name: str, row: Row, page: Path = RESULTS) -> None:
    """Replace the row of a table that has the same first cell, or add one.

    Raises:
        ValueError: the page has no table of that name, or it has other columns.
    """
    rows = {_first(old): old for old in read_table(name, page)} | {_first(row): row}
    if any(old.keys() != row.keys() for old in rows.values()):
        raise ValueError(f"table {name!r} has the columns {list(read_table(name, page)[0])}, not {list(row)}")
    _replace(page, name, markdown(list(rows.values())))


def read_table(name: str, page: Path = RESULTS) -> list[Row]:
    """The rows of a table as they stand on a page; none of one that is still to be measured.

    Raises:
        ValueError: the page has no table of that name.
    """
    lines = [line for line in _find(page, name)[0].splitlines() if line.startswith("|")]
    if not lines:
        return []
    headings, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(headings, cells, strict=True)) for cells in rows]


def show(rows: list[Row], title: str) -> None:
    """Print rows as a table."""
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="right" if table.columns else "left")
    for row in rows:
        table.add_row(*(cell.replace("**", "") for cell in row.values()))
    console = Console()
    if not console.is_terminal:  # a file has room for every cell
        console.width = 200
    console.print(table)


def markdown(rows: list[Row]) -> str:
    """Rows as a table of Markdown."""
    headings, *lines = (
        f"| {' | '.join(cells)} |" for cells in (rows[0], *([row[name] for name in rows[0]] for row in rows))
    )
    return "\n".join([headings, "|---" * len(rows[0]) + "|", *lines])


def command() -> str:
    """How this benchmark was called, as Markdown."""
    options = [option for option in sys.argv[1:] if option != "--write"]
    return f"`{shlex.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *options])}`"


def machine(device: str = "cpu") -> str:
    """What it ran on: the GPU's name, or the processor's with the number of threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)} of {found[1] if found else 'an unnamed processor'}"


def percent(share: float) -> str:
    """A share of the edges as a heading: 0.0025 is "0.25 %"."""
    return f"{100 * share:g} %"


def _first(row: Row) -> str:
    return next(iter(row.values()))


def _find(page: Path, name: str) -> re.Match[str]:
    """A match with the markers around it; its group is what stands between them."""
    pattern = rf"<!-- table: {re.escape(name)} -->\n\n(.*?)(?:\n\n)?<!-- end of table -->"
    found = re.search(pattern, page.read_text(), re.DOTALL)
    if not found:
        raise ValueError(f"{page} has no table {name!r}: it begins with the line <!-- table: {name} -->")
    return found


def _replace(page: Path, name: str, body: str) -> None:
    found = _find(page, name)
    table = f"<!-- table: {name} -->\n\n{body}\n\n<!-- end of table -->"
    page.write_text(found.string[: found.start()] + table + found.string[found.end() :])
