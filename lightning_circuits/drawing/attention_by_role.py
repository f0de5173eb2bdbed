"""Attention by role as a figure: confidence ratios in the model against those in the circuit, head by head.

>>> rows = attention_by_role(model, loader, circuit, "S2", "IO")  # evaluation.attention_by_role  # doctest: +SKIP
>>> save(attention_by_role_figure(rows), Path("by-role"))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import truediv
from typing import TYPE_CHECKING, Any

from lightning_circuits.drawing.style import RC, label, label_sizes
from lightning_circuits.evaluation.attention_by_role import HeadAttention

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANGED, OTHER = "#A23B00", "#7a7a7a"
"""Heads that change sides, and all others."""
SIDE = 3.3
"""Of a panel, in inches."""
FARTHEST = 100.0
"""The axes go at most from its inverse to this; what lies beyond is drawn at the border."""
NAMED, STEP = 9, 0.045
"""So many heads are named on a side, a name so much of the axes above another: with how many more there are, within a
quarter."""


def attention_by_role_figure(rows: Sequence[HeadAttention]) -> Figure:
    """A panel for each question, a point for each head: its confidence ratio in the model, and in the circuit.

    Both axes are logarithmic. Lines through points are 95 % intervals. On the diagonal, a head looks in the circuit as
    it does in the model; it changes sides in the shaded quarters. Heads that are sure to are filled and named. Those
    without a ratio, in model or circuit, are left out, and counted below.

    Args:
        rows: of `attention_by_role`, of one question or several.

    Raises:
        ValueError: no row has a ratio in both.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    questions = list(dict.fromkeys(row.question for row in rows))
    known = [row for row in rows if not math.isnan(row.model_ratio.value + row.circuit_ratio.value)]
    if not known:
        raise ValueError(
            f"none of {len(rows)} heads has a confidence ratio in model and circuit: it takes attention to one of the "
            "two roles"
        )
    far = min(FARTHEST, 1.4 * max(max(ratio, 1 / max(ratio, 1 / FARTHEST)) for row in known for ratio in _place(row)))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(SIDE * len(questions) + 0.2, SIDE + 0.6), layout="constrained")
        panels = figure.subplots(1, len(questions), squeeze=False, sharex=True, sharey=True)[0]
        panels[0].set(xscale="log", yscale="log", xlim=(1 / far, far), ylim=(1 / far, far))
        panels[0].set_ylabel("confidence ratio in the circuit")
        for axis in (panels[0].xaxis, panels[0].yaxis):
            label_sizes(axis, "{:g}".format)
        for axes, question in zip(panels, questions, strict=True):
            asked = [row for row in rows if row.question == question]
            _finish(axes, asked, far)
            for row in (drawn := [row for row in known if row.question == question]):
                _draw(axes, row, far)
            _name(axes, [row for row in drawn if row.changes_sides], far)
    return figure


def _place(row: HeadAttention) -> tuple[float, float]:
    return row.model_ratio.value, row.circuit_ratio.value


def _finish(axes: Axes, asked: Sequence[HeadAttention], far: float) -> None:
    """Words around a panel, and what its points are read against."""
    one, known = asked[0], [row for row in asked if not math.isnan(sum(_place(row)))]
    without = len(asked) - len(known)
    axes.set_title(
        f"{label(one.query, 16)} to {label(one.right, 16)} / {label(one.wrong, 16)}\n"
        f"{label(one.ablation, 18)} ablation, {label(one.split, 18)} split, {one.prompts:,} prompts",
        loc="left",
    )
    axes.set_xlabel(
        f"confidence ratio in the model\nheads: {len(known)}" + (f"; without a ratio: {without}" if without else "")
    )
    axes.set_aspect("equal")
    for x, y in ((1 / far, 1), (1, 1 / far)):  # above the line at 1 on the left, below it on the right
        axes.fill_between([x, x * far], y, y * far, color="#f2f2f2", linewidth=0, zorder=0)
    axes.axhline(1, color="#444444", linewidth=0.7, zorder=1)
    axes.axvline(1, color="#444444", linewidth=0.7, zorder=1)
    axes.plot([1 / far, far], [1 / far, far], color="#444444", linewidth=0.7, linestyle=(0, (4.5, 1.5)), zorder=1)


def _draw(axes: Axes, row: HeadAttention, far: float) -> None:
    """A head: a point and its two intervals."""
    (x, y), colour = _inside(far, *_place(row)), CHANGED if row.changes_sides else OTHER
    line: dict[str, Any] = {"color": colour, "linewidth": 0.7, "alpha": 0.7, "zorder": 2}
    axes.plot(_inside(far, row.model_ratio.low, row.model_ratio.high), [y, y], **line)
    axes.plot([x, x], _inside(far, row.circuit_ratio.low, row.circuit_ratio.high), **line)
    filled = colour if row.changes_sides else "white"
    axes.plot([x], [y], marker="o", markersize=3.5, color=colour, markerfacecolor=filled, clip_on=False, zorder=3)


def _name(axes: Axes, changed: Sequence[HeadAttention], far: float) -> None:
    """Names of heads that change sides, at the border in the order of their ratios in the circuit.

    Of more than there is room for, those that go farthest.
    """
    for surer in (True, False):
        mine = [row for row in changed if (row.circuit_ratio.value > 1) is surer]
        mine.sort(key=lambda row: abs(math.log(truediv(*_inside(far, *_place(row))))), reverse=True)
        more, mine = len(mine[NAMED:]), sorted(mine[:NAMED], key=lambda row: row.circuit_ratio.value)
        side, bottom = ("left", 0.56) if surer else ("right", 0.44 - STEP * (len(mine) - 1))
        x, inner = (0.03, 1) if surer else (0.97, 0)
        for i, row in enumerate(mine):
            axes.annotate(
                label(row.head, 16),
                _inside(far, *_place(row)),
                (x, bottom + STEP * i),
                textcoords="axes fraction",
                ha=side,
                va="center",
                fontsize=7,
                # From the middle of the name's inner end: to its middle, a steep line would cross the names beside it.
                arrowprops={
                    "arrowstyle": "-",
                    "linewidth": 0.4,
                    "color": CHANGED,
                    "shrinkA": 1,
                    "shrinkB": 2,
                    "relpos": (inner, 0.5),
                },
                zorder=4,
            )
        if more:
            y = bottom + STEP * (len(mine) if surer else -1)
            axes.text(x, y, f"{more} more", transform=axes.transAxes, ha=side, va="center", fontsize=7)


def _inside(far: float, a: float, b: float) -> tuple[float, float]:
    """Two ratios; what lies beyond the axes, at their border."""
    return min(max(a, 1 / far), far), min(max(b, 1 / far), far)
