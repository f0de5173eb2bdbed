"""The example prompt over the figure of a circuit in spans: each piece over the name of its span."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.columns import example_of
from lightning_circuits.drawing.measured_text import cut, rows_of, width_of
from lightning_circuits.drawing.style import label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

MAX_LINES = 4
"""Of a longer prompt the beginning is drawn, and how many pieces are not."""
LIVE, DEAD = "black", "0.45"  # spans with edges, and those without
SIZE, APART, HEIGHT = 6.0, 0.09, 0.3  # points; inches between pieces and from line to line


class Piece(NamedTuple):
    """The text of a span, the span's name, and the colour of both."""

    text: str
    name: str
    colour: str


PromptLine = list[Piece]


def prompt_lines(circuit: Circuit, width: float) -> list[PromptLine]:
    """The prompt in lines of this width, in inches; none for a circuit without spans, or without an example."""
    if not circuit.layout.spans:
        return []
    pieces = [
        Piece(
            cut(label(text.strip(), 60), SIZE, width / 2),
            cut(label(name, 60), SIZE, width / 2),
            LIVE if name in circuit.layout.spans else DEAD,
        )
        for name, text in example_of(circuit.metadata).items()
    ]
    rows = rows_of([max(width_of(text, SIZE), width_of(name, SIZE)) + APART for text, name, _ in pieces], width)
    lines = [[pieces[i] for i in row] for row in rows[:MAX_LINES]]
    if len(rows) > MAX_LINES:
        lines[-1] = [Piece("…", f"and {sum(map(len, rows[MAX_LINES - 1 :])):,} more", DEAD)]
    return lines


def draw_prompt(axes: Axes, lines: list[PromptLine], x: float, y: float) -> None:
    """Draw it around ``x``, from ``y`` downward."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea, VPacker

    for i, pieces in enumerate(lines):
        cells: list[Artist] = [
            VPacker(
                children=[TextArea(said, textprops={"fontsize": SIZE, "color": colour}) for said in (text, name)],
                align="center",
                pad=0,
                sep=1,
            )
            for text, name, colour in pieces
        ]
        line = HPacker(children=cells, align="top", pad=0, sep=72 * APART)
        axes.add_artist(AnnotationBbox(line, (x, y - HEIGHT * (i + 0.5)), frameon=False, pad=0))
