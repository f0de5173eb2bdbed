"""Figures of curves, for the eye and for papers: size against faithfulness, KL or accuracy, and Pareto fronts.

    >>> save(curve_figure({"EAP": Curve.load("runs/eap/curve.json")}), Path("eap"))                  # doctest: +SKIP

writes `eap.png` and `eap.svg`. Lines differ in colour, in dashes and in markers (`style.line_style`), so that a print
in grey tells them apart. Bands are the 95 % intervals of the bootstrap over prompts. What lies far outside (f under
mean ablation can be -30) is a triangle at the border.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_circuits.drawing.in_view import keep_in_view
from lightning_circuits.drawing.style import (
    LONGEST,
    N_COLOURS,
    RANDOM_STYLE,
    RC,
    label,
    label_sizes,
    line_style,
    model_title,
)
from lightning_circuits.evaluation.comparison import CurveLine, ParetoPoint, Shown, Size, lines_of, size_of
from lightning_circuits.evaluation.curve import RANDOM, Curve
from lightning_circuits.measures import by_measure
from lightning_circuits.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS: dict[Shown, str] = {
    "faithfulness": "faithfulness f",
    "kl": "KL from the full model (nats)",
    "accuracy": "accuracy",
}

PANEL = 3.0, 2.4
"""Width and height of a panel in inches."""
LINE = 0.17
"""Height of a line of the legend in inches."""
SHORT = 18
"""Characters of a name of which the legend has two beside each other below a panel."""


def curve_figure(curves: Mapping[str, Curve], ys: Sequence[Shown] = ("faithfulness",), x: Size = "share") -> Figure:
    """Curves of one model and split in one figure, a panel for each ablation and each number asked for.

    Args:
        curves: by the name they have in the legend.
        ys: what is drawn against size. With several, there is a row of panels for each ablation.
        x: how size is counted; before pruning, logarithmic.

    Raises:
        ValueError: no curve, or nothing to draw; more lines than can be told apart (`style.N_STYLES`).
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ablations = list(dict.fromkeys(name for curve in curves.values() for name in curve.ablations))
    if not ablations or not ys:
        raise ValueError("there is no curve to draw")
    n_rows, n_columns = (len(ablations), len(ys)) if len(ys) > 1 else (1, len(ablations))
    lines, first = lines_of(curves), next(iter(curves.values()))
    styles = {
        name: RANDOM_STYLE if line.ranking == RANDOM else line_style(i) for i, (name, line) in enumerate(lines.items())
    }
    with matplotlib.rc_context(RC):
        legend_columns = n_columns * (2 if max(len(label(name)) for name in lines) <= SHORT else 1)
        legend_rows = math.ceil((len(lines) + 2) / legend_columns)
        size = (PANEL[0] * n_columns + 0.2, PANEL[1] * n_rows + 0.45 + LINE * legend_rows)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(model_title(first.model), fontsize=9)
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
        handles: dict[str, Any] = {}
        references: dict[str, Any] = {}
        for axes, (ablation, y) in zip(panels.flat, [(a, y) for a in ablations for y in ys], strict=True):
            for name, line in lines.items():
                if ablation in line.curve.ablations:
                    handles.setdefault(name, _draw(axes, line, styles[name], ablation, x, y))
            measured = next(curve for curve in curves.values() if ablation in curve.ablations)
            references = references | _finish(axes, measured, ablation, x, y)
        for axes in panels[-1]:
            axes.set_xlabel(_size_label(first.n_edges, x))
        _legend(figure, handles | references, legend_columns)
    return figure


def pareto_figure(panels: Mapping[str, Sequence[ParetoPoint]], x: Size, y: Shown, model: str, n_edges: int) -> Figure:
    """Size against how far from the full model, one point per circuit, with the front: what nothing else betters.

    Args:
        panels: for each panel, by its title, the circuits (see `evaluation.comparison.pareto_points`).
        x: how their size is counted.
        y: what the distance is: |1 - f|, KL, or 1 - accuracy.
        model: what the model is called.
        n_edges: how many edges it has.

    Raises:
        ValueError: nothing to draw.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(point.label for points in panels.values() for point in points))
    if not labels:
        raise ValueError("there is no circuit to draw")
    # More runs than there are markers are one cloud: it is the front that is looked at.
    few = len(labels) <= N_COLOURS
    styles = [line_style(i) if few else {"color": "#888888", "marker": "."} for i in range(len(labels))]
    with matplotlib.rc_context(RC):
        legend_rows = math.ceil((len(labels) + 1) / (2 * len(panels))) if few else 1
        size = (1.2 * PANEL[0] * len(panels) + 0.2, 1.2 * PANEL[1] + 0.45 + LINE * legend_rows)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(model_title(model), fontsize=9)
        handles: dict[str, Any] = {}
        for axes, (title, points) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for name, style in zip(labels, styles, strict=True):
                mine = [point for point in points if point.label == name]
                [dots] = axes.plot(
                    [point.size for point in mine],
                    [point.distance for point in mine],
                    **{**style, "linestyle": "none"},
                    clip_on=False,
                )
                handles.setdefault(name if few else f"circuits of {len(labels)} runs", dots)
            front = sorted((point for point in points if point.front), key=lambda point: point.size)
            [handles["Pareto front"]] = axes.step(
                [point.size for point in front],
                [point.distance for point in front],
                where="post",
                color="#222222",
                linewidth=0.9,
                zorder=1,
            )
            _count_sizes(axes, x)
            _from_zero(axes)
            axes.set_xlabel(_size_label(n_edges, x))
            axes.set_ylabel({"faithfulness": "distance |1 - f|", "accuracy": "1 - accuracy"}.get(y, LABELS[y]))
            axes.set_title(printable(title, longest=2 * LONGEST), loc="left")
            _draw_grid(axes)
        _legend(figure, handles, 2 * len(panels))
    return figure


# ---- parts of a panel ----------------------------------------------------------------------------------------------


def _draw(axes: Axes, line: CurveLine, style: Mapping[str, Any], ablation: str, x: Size, y: Shown) -> Any:
    """One line with its band; gives what stands for it in the legend."""
    known = [row for row in line.curve.points(ablation, line.ranking) if not math.isnan(getattr(row, y))]
    sizes = [size_of(row, x) for row in known]
    if y == "faithfulness" and line.ranking != RANDOM:
        low, high = [row.faithfulness_low for row in known], [row.faithfulness_high for row in known]
        if not any(map(math.isnan, low + high)):
            axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)
    [drawn] = axes.plot(sizes, [getattr(row, y) for row in known], **style)
    return drawn


def _finish(axes: Axes, curve: Curve, ablation: str, x: Size, y: Shown) -> dict[str, Any]:
    """Scales, words around a panel, and the lines to read the others against, by their names."""
    _count_sizes(axes, x)
    axes.set_title(
        f"{label(ablation, SHORT)} ablation, {label(curve.split, SHORT)} split, {curve.prompts:,} prompts", loc="left"
    )
    axes.set_ylabel(by_measure(LABELS[y], label(curve.measure), "\nby ") if y == "faithfulness" else LABELS[y])
    _draw_grid(axes)
    if y == "kl":
        _from_zero(axes)
    else:
        keep_in_view(axes, *((-0.5, 2.0) if y == "faithfulness" else (0.0, 1.0)))
    references = {}
    for circuit, name, dashes in (("full", "full model", "-"), ("empty", "empty circuit", (0, (1, 2)))):
        value = getattr(curve.reference(ablation, circuit), y)
        if not math.isnan(value):
            style: dict[str, Any] = {"color": "#444444", "linewidth": 0.7, "linestyle": dashes}
            references[name] = axes.axhline(value, zorder=1, **style)
    return references


def _draw_grid(axes: Axes) -> None:
    axes.set_axisbelow(True)  # the full model's line and a front's run along it
    axes.grid(color="#e4e4e4", linewidth=0.5)


def _from_zero(axes: Axes) -> None:
    """Distances: logarithmic above .01, linear below, since 0 is reached by the full model."""
    axes.set_yscale("symlog", linthresh=0.01, linscale=0.4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.4 * max(axes.dataLim.ymax, 0.01))
    for line in axes.get_lines():
        line.set_clip_on(False)  # points at 0 are drawn whole


def _count_sizes(axes: Axes, x: Size) -> None:
    # A share of a small model may be no edge at all, which has no place on this axis: "clip" would put it far outside.
    axes.set_xscale("log", nonpositive="mask")
    label_sizes(axes.xaxis, (lambda share: f"{100 * share:g} %") if x == "share" else "{:,.0f}".format)


def _size_label(n_edges: int, x: Size) -> str:
    if x == "token-edges":
        return "token-edges kept, in the mean over prompts"
    return f"edges kept, as a share of {n_edges:,}" if x == "share" else f"edges kept (of {n_edges:,})"


def _legend(figure: Figure, handles: Mapping[str, Any], columns: int) -> None:
    figure.legend(
        list(handles.values()),
        [label(name) for name in handles],
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        handlelength=3.4,
        fontsize=7.5,
    )
