"""How wide text is when it is drawn, so that it is put where it has room: broken into lines, or cut.

The font is that of all figures (`drawing.style`); sizes are in points, widths in inches.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_circuits.drawing.style import RC


def width_of(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=RC["font.family"], size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def cut(text: str, size: float, width: float, weight: str = "normal") -> str:
    """As much of a text as has room, and ``…`` where that is not all of it; nothing where not even that has."""
    if width_of(text, size, weight) <= width:
        return text
    while text and width_of(f"{text}…", size, weight) > width:
        text = text[: -max(1, len(text) // 8)]
    return f"{text}…" if text else ""


def in_lines(text: str, size: float, width: float) -> list[str]:
    """A text in lines that are no wider; a word that is wider alone is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(cut(word, size, width))
    return [line for line in lines if line]


def rows_of(widths: Sequence[float], width: float) -> list[list[int]]:
    """Pieces of these widths, by number, in rows that are no wider than asked for where a piece alone is not."""
    rows: list[list[int]] = []
    free = 0.0
    for i, piece in enumerate(widths):
        if not rows or piece > free:
            rows.append([])
            free = width
        rows[-1].append(i)
        free -= piece
    return rows
