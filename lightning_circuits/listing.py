"""Named columns that show themselves: text in a terminal, a table in a notebook, a pandas DataFrame when asked.

    >>> listing = Listing("Two edges", {"edge": ["a0.h1->m2", "m2->logits"], "score": [0.25, -1.5]}, {"score": "+.3f"})
    >>> listing
    Two edges
    edge         score
    a0.h1->m2   +0.250
    m2->logits  -1.500
    >>> listing[1]
    {'edge': 'm2->logits', 'score': -1.5}

Names come from files: nothing in them is live, in a terminal (`printable`) or in HTML.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.layout import Layout
from lightning_circuits.printable import number, printable
from lightning_circuits.selection import worth

if TYPE_CHECKING:
    import pandas

LONGEST = 60
"""So many rows are shown at most; all are there."""


class Listing(Sequence[dict[str, Any]]):
    """Rows of named values, each a dict.

    Args:
        title: what the rows are.
        columns: by name, equally long; None stands for what does not exist.
        formats: of the columns of numbers, as `format` takes them; of others, the value as it is.
    """

    def __init__(
        self, title: str, columns: Mapping[str, Sequence[Any]], formats: Mapping[str, str] | None = None
    ) -> None:
        self.title, self.columns, self.formats = title, dict(columns), dict(formats or {})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: Any) -> Any:
        """A row; of a slice, a listing."""
        if isinstance(index, slice):
            return Listing(self.title, {name: each[index] for name, each in self.columns.items()}, self.formats)
        return {name: values[index] for name, values in self.columns.items()}

    def to_frame(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame, numbers unrounded; whole numbers that may be missing are ``Int64``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "a DataFrame takes pandas, which lightning-circuits itself does not need: pip install pandas, or go "
                "through the rows, which are dicts"
            ) from error
        frame = pandas.DataFrame(self.columns)
        for name, values in self.columns.items():
            if None in values and all(isinstance(value, (int, type(None))) for value in values):
                frame[name] = pandas.array(list(values), dtype="Int64")
        return frame

    def __repr__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        right = [name in self.formats for name in self.columns]
        lines = [
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([printable(self.title), *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        header, *rows = self._cells()
        align = ["right" if name in self.formats else "left" for name in self.columns]

        def line(cells: Sequence[str], tag: str) -> str:
            made = (
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for cell, side in zip(cells, align, strict=True)
            )
            return f"<tr>{''.join(made)}</tr>"

        body = "".join(line(row, "td") for row in rows)
        caption = html.escape("; ".join([printable(self.title), *self._left_out()]))
        return f"<table><caption>{caption}</caption><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[list[str]]:
        """What is shown of it as texts: the names, and the first rows."""
        shown = [
            [_cell(value, self.formats.get(name)) for value in values[:LONGEST]]
            for name, values in self.columns.items()
        ]
        return [[printable(name) for name in self.columns], *map(list, zip(*shown, strict=True))]

    def _left_out(self) -> list[str]:
        return [f"... and {len(self) - LONGEST:,} more rows"] if len(self) > LONGEST else []


def _cell(value: Any, form: str | None) -> str:
    if form is not None:
        return number(value, form)
    return "-" if value is None or (isinstance(value, float) and math.isnan(value)) else printable(value, longest=100)


def listed_edges(layout: Layout, edges: Tensor, scores: Tensor | None, members: Tensor, title: str) -> Listing:
    """Edges with all that is known of them; ``input`` and ``logits`` are in no layer.

    Args:
        layout: whose edges they are.
        edges: int64 ``[n]``, flat positions.
        scores: ``[n_edges]``.
        members: bool ``[n_edges]``, which are in the circuit.
        title: of the listing.
    """
    writers, readers = layout.edge_writer[edges].tolist(), layout.edge_reader[edges].tolist()
    in_spans = {"span": [layout.spans[span] for span in layout.edge_span[edges].tolist()]} if layout.spans else {}
    scored = {} if scores is None else {"score": scores[edges].tolist()}
    writer_layers, reader_layers = map(_layers, (layout.writer_names, layout.reader_names))
    columns = {
        "edge": layout.edge_names(edges),
        "writer": [layout.writer_names[writer] for writer in writers],
        "reader": [layout.reader_names[reader] for reader in readers],
        "writer_layer": [writer_layers[writer] for writer in writers],
        "reader_layer": [reader_layers[reader] for reader in readers],
        **in_spans,
        **scored,
        "member": members[edges].tolist(),
    }
    return Listing(title, columns, {"writer_layer": "d", "reader_layer": "d", "score": "+.4g"})


def best_edges(layout: Layout, members: Tensor, scores: Tensor | None, absolute: bool, n: int) -> Listing:
    """The n best edges of a circuit, best first; equal scores go by the lower flat index, as in `selection`.

    Args:
        layout: whose edges they are.
        members: bool ``[n_edges]``, which are in the circuit.
        scores: ``[n_edges]``.
        absolute: rank by |score|.
        n: how many at most.

    Raises:
        ValueError: no scores, or one that is NaN; less than one edge.
        TypeError: a number of edges that is none.
    """
    require_whole_numbers(n=n)
    if n < 1:
        raise ValueError(f"the best {n} edges: ask for at least 1")
    if scores is None:
        raise ValueError("the circuit has no scores to rank its edges by: circuit.edge_names() has all of them")
    edges = members.nonzero()[:, 0]
    order = worth(scores, layout, absolute)[edges].argsort(descending=True, stable=True)
    best = edges[order[:n]]
    by = "|score|" if absolute else "score"
    title = f"{len(best):,} of the circuit's {len(edges):,} edges, by {by}"
    full = listed_edges(layout, best, scores, members, title)
    return Listing(title, {name: full.columns[name] for name in ("edge", "score")}, full.formats)


def all_edges(layout: Layout, members: Tensor, scores: Tensor | None) -> Listing:
    """Every edge of a layout, by flat position.

    Args:
        layout: whose edges they are.
        members: bool ``[n_edges]``, which are in the circuit.
        scores: ``[n_edges]``.
    """
    return listed_edges(layout, torch.arange(layout.n_edges), scores, members, f"The edges of {layout}")


def _layers(names: Sequence[str]) -> list[int | None]:
    """The layer that stands in the name of each writer or reader: ``a3.h1<q>``, ``m3``."""
    return [None if name in ("input", "logits") else int(name[1:].partition(".")[0]) for name in names]
