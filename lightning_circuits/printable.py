"""Names that come from files, as they may be shown: in a terminal, a table, a figure, an error message; and numbers.

What others wrote is data. In a terminal an escape sequence would be obeyed, and an override of the direction of writing
turns a name around; in a figure a character without a shape breaks the drawing. Shown is what such a character is.

    >>> printable("EAP\\x1b[31m"), printable("two\\nlines"), printable("x" * 50, longest=9)
    ('EAP\\\\x1b[31m', 'two\\\\nlines', 'xxxx...xx')
    >>> number(-0.001, ".2f"), number(float("nan"), ".2f"), interval(0.414, 0.53)
    ('0.00', '-', '0.41..0.53')

What else would be live belongs to one border each: markup of tables to `drawing.tables`, formulas of figures to
`drawing.style`, HTML to `drawing.page`.
"""

from __future__ import annotations

import math


def printable(name: object, longest: int | None = None) -> str:
    """A name on one line, in which nothing is live: what is no printable character stands there as its escape.

    Args:
        name: of what was read from a file; anything else is shown as ``str`` has it.
        longest: so many characters are kept at most, those at both ends.
    """
    text = str(name)
    if longest is not None and len(text) > longest:
        end = (longest - 3) // 3
        text = f"{text[: longest - 3 - end]}...{text[len(text) - end :]}"
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def number(value: float | None, form: str) -> str:
    """A number in a form of `format`; ``-`` for one that does not exist."""
    if value is None or math.isnan(value):
        return "-"
    text = format(value, form)
    return text if text.strip("-0.%") else text.lstrip("-")  # 0.00, not -0.00


def interval(low: float, high: float) -> str:
    """The two ends of an interval: ``0.41..0.53``."""
    return f"{number(low, '.2f')}..{number(high, '.2f')}"
