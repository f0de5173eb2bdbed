"""The interactive page of a circuit, in a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.page import CurveSource, page_html


@dataclass(frozen=True, repr=False)
class Page:
    """An interactive page that a notebook shows in place. ``html``: all of it."""

    html: str
    height: int

    def _repr_html_(self) -> str:
        # In a frame of its own origin: the page can reach nothing of the notebook, and no style of one is the other's.
        source = html.escape(self.html)
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{source}" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return "An interactive page, shown by a notebook; lightning_circuits.drawing.page.save_page writes it to a file"


def show(
    circuit: Circuit, other: Circuit | None = None, *, curve: CurveSource | None = None, height: int = 640
) -> Page:
    """The interactive page of a circuit, or of two of one layout, in a notebook (see `drawing.page`).

    Args:
        circuit: what to draw.
        other: a second one, to be laid over it or beside it.
        curve: the circuit's faithfulness: an `Evaluation`, or what `page_html` takes.
        height: of the frame, in pixels.

    Raises:
        ValueError: what `page_html` refuses; a height below 1.
    """
    require_whole_numbers(height=height)
    if height < 1:
        raise ValueError(f"a frame of {height} pixels: it has to be at least 1")
    return Page(page_html(circuit, other, curve), height)
