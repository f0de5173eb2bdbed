"""An axis that shows what is worth seeing, and says where there is more: far outside, a triangle at the border."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

BORDER = 0.03
"""How far inside the border stands the triangle of a point that lies outside, as a part of the axis."""


def keep_in_view(axes: Axes, low: float, high: float) -> None:
    """Let the y axis span 0, 1 and the lines that are drawn, but not beyond `low` and `high`.

    A triangle marks where a point lies outside. Points that are NaN are nowhere.
    """
    values = [value for line in axes.get_lines() for _, value in _points(line)]
    bottom, top = max(low, min([*values, 0.0])), min(high, max([*values, 1.0]))
    margin = 0.06 * (top - bottom)
    for line in list(axes.get_lines()):
        for x, value in _points(line):
            if not bottom <= value <= top:
                axes.plot(
                    x,
                    1 - BORDER if value > top else BORDER,
                    marker="^" if value > top else "v",
                    color=line.get_color(),
                    markerfacecolor="white",
                    markersize=5,
                    linestyle="none",
                    transform=axes.get_xaxis_transform(),
                )
    axes.set_ylim(bottom - margin, top + margin)


def _points(line: Line2D) -> list[tuple[float, float]]:
    return [(x, y) for x, y in np.asarray(line.get_xydata(), dtype=float).tolist() if not math.isnan(y)]
