"""Figures of curves, for the eye and for papers: size against faithfulness, KL or accuracy, and Pareto fronts.

    >>> save(curve_figure({"EAP": Curve.load("runs/eap/curve.json")}), Path("eap"))                  # doctest: +SKIP

writes `eap.png` and `eap.svg`. Lines differ in colour, in dashes and in markers, so that a print in grey tells them
apart; the text of an SVG stays text; the same numbers give the same bytes. Bands are the 95 % intervals of the
bootstrap over prompts. What lies far outside (f under mean ablation can be -30) is a triangle at the border.

matplotlib is loaded when something is drawn, and no earlier; pyplot and its global state are never touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lightning_circuits.evaluation.curve import RANDOM, Curve
from lightning_circuits.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

X = Literal["share", "edges"]
Y = Literal["faithfulness", "kl", "accuracy"]

LABELS: dict[str, str] = {
    "faithfulness": "faithfulness f",
    "kl": "KL from the full model (nats)",
    "accuracy": "accuracy",
}

# Okabe and Ito's colours, dark ones first: told apart by the colour-blind, and no two neighbours alike in grey.
STYLES: list[dict[str, Any]] = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "D"},
    {"color": "#000000", "linestyle": (0, (1, 1)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": "#56B4E9", "linestyle": (0, (3, 1)), "marker": "X"},
]
RANDOM_STYLE: dict[str, Any] = {"color": "#777777", "linestyle": ":", "marker": "."}
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lightning-circuits",
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
}
PANEL = 3.0, 2.4
"""Width and height of a panel in inches."""
LINE = 0.17
"""Height of a line of the legend in inches."""
SHORT = 18
"""Characters of a name of which the legend has two beside each other below a panel."""
EDGE = 0.03
"""How far inside the border stands the triangle of a point that lies outside, as a share of the axis."""


class Line(NamedTuple):
    """One line of a figure or a table: a curve, one of its rankings, and how it is drawn."""

    curve: Curve
    ranking: str
    style: Mapping[str, Any]


def lines_of(curves: Mapping[str, Curve]) -> dict[str, Line]:
    """Every line by its name: that of its curve, and the ranking where the curve has several.

    Random circuits are the same for all curves of a model, so one line stands for all.
    """
    lines: dict[str, Line] = {}
    for name, curve in curves.items():
        own = [ranking for ranking in curve.rankings if ranking != RANDOM]
        for ranking in own:
            label = f"{name}, {ranking}" if len(own) > 1 else name
            lines[label] = Line(curve, ranking, STYLES[len(lines) % len(STYLES)])
    random = [curve for curve in curves.values() if RANDOM in curve.rankings]
    if random:
        lines["random edges"] = Line(max(random, key=lambda curve: len(curve.ablations)), RANDOM, RANDOM_STYLE)
    return lines


def curve_figure(curves: Mapping[str, Curve], ys: Sequence[Y] = ("faithfulness",), x: X = "share") -> Figure:
    """Curves of one model and split in one figure, a panel for each ablation and each number asked for.

    Args:
        curves: by the name they have in the legend.
        ys: what is drawn against size. With several, there is a row of panels for each ablation.
        x: size as a ``share`` of the edges or as a number of ``edges``; before pruning, logarithmic.

    Raises:
        ValueError: no curve, or nothing to draw.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ablations = list(dict.fromkeys(name for curve in curves.values() for name in curve.ablations))
    if not ablations or not ys:
        raise ValueError("there is no curve to draw")
    n_rows, n_columns = (len(ablations), len(ys)) if len(ys) > 1 else (1, len(ablations))
    lines, first = lines_of(curves), next(iter(curves.values()))
    with matplotlib.rc_context(RC):
        legend_columns = n_columns * (2 if max(map(len, lines)) <= SHORT else 1)
        legend_rows = math.ceil((len(lines) + 2) / legend_columns)
        size = (PANEL[0] * n_columns + 0.2, PANEL[1] * n_rows + 0.45 + LINE * legend_rows)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(first.model, fontsize=9)
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
        handles: dict[str, Any] = {}
        references: dict[str, Any] = {}
        for axes, (ablation, y) in zip(panels.flat, [(a, y) for a in ablations for y in ys], strict=True):
            for name, line in lines.items():
                if ablation in line.curve.ablations:
                    handles.setdefault(name, _draw(axes, line, ablation, x, y))
            measured = next(curve for curve in curves.values() if ablation in curve.ablations)
            references = references | _finish(axes, measured, ablation, x, y)
        for axes in panels[-1]:
            axes.set_xlabel(_size_label(first.n_edges, x))
        _legend(figure, handles | references, legend_columns)
    return figure


def pareto_figure(panels: Mapping[str, Sequence[Mapping[str, Any]]], y: Y, model: str, n_edges: int) -> Figure:
    """Edges against how far from the full model, one point per circuit, with the front: what nothing else betters.

    Args:
        panels: for each panel, by its title, the circuits: ``edges`` (before pruning), ``distance`` (in what ``y``
            says), ``front`` (whether it is on the front) and ``label`` (the run).
        y: what the distance is: |1 - f|, KL, or 1 - accuracy.
        model, n_edges: what it is called, and how many edges it has.

    Raises:
        ValueError: nothing to draw.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(point["label"] for points in panels.values() for point in points))
    if not labels:
        raise ValueError("there is no circuit to draw")
    # More runs than there are styles are one cloud: it is the front that is looked at.
    few = len(labels) <= len(STYLES)
    styles = STYLES if few else [{"color": "#888888", "marker": "."}] * len(labels)
    with matplotlib.rc_context(RC):
        legend_rows = math.ceil((len(labels) + 1) / (2 * len(panels))) if few else 1
        size = (1.2 * PANEL[0] * len(panels) + 0.2, 1.2 * PANEL[1] + 0.45 + LINE * legend_rows)
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(model, fontsize=9)
        handles: dict[str, Any] = {}
        for axes, (title, points) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for label, style in zip(labels, styles, strict=False):
                mine = [point for point in points if point["label"] == label]
                [dots] = axes.plot(
                    [point["edges"] for point in mine],
                    [point["distance"] for point in mine],
                    **{**style, "linestyle": "none", "markerfacecolor": "none"},
                    clip_on=False,
                )
                handles.setdefault(label if few else f"circuits of {len(labels)} runs", dots)
            front = sorted((point for point in points if point["front"]), key=lambda point: point["edges"])
            [handles["Pareto front"]] = axes.step(
                [point["edges"] for point in front],
                [point["distance"] for point in front],
                where="post",
                color="#222222",
                linewidth=0.9,
                zorder=1,
            )
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            _from_zero(axes)
            axes.set_xlabel(_size_label(n_edges, "edges"))
            axes.set_ylabel({"faithfulness": "distance |1 - f|", "accuracy": "1 - accuracy"}.get(y, LABELS[y]))
            axes.set_title(title, loc="left")
            axes.grid(color="#e4e4e4", linewidth=0.5)
        _legend(figure, handles, 2 * len(panels))
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (200 dots an inch) and ``stem.svg``, each whole and then moved into its place."""
    import matplotlib

    paths = []
    with matplotlib.rc_context(RC):
        # Without the date and the version: the same numbers, the same bytes.
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
            paths.append(stem.with_name(stem.name + suffix))
            write_atomically(paths[-1], content.getvalue())
    return paths


# ---- parts of a panel ----------------------------------------------------------------------------------------------


def _draw(axes: Axes, line: Line, ablation: str, x: X, y: Y) -> Any:
    """One line with its band; gives what stands for it in the legend."""
    known = [point for point in line.curve.points(ablation, line.ranking) if point[y] is not None]
    sizes = [point["size" if x == "share" else "edges"] for point in known]
    if y == "faithfulness" and line.ranking != RANDOM:
        low, high = ([point[f"faithfulness_{end}"] for point in known] for end in ("low", "high"))
        if None not in low + high:
            axes.fill_between(sizes, low, high, color=line.style["color"], alpha=0.15, linewidth=0)
    [drawn] = axes.plot(sizes, [point[y] for point in known], **line.style)
    return drawn


def _finish(axes: Axes, curve: Curve, ablation: str, x: X, y: Y) -> dict[str, Any]:
    """Scales, words around a panel, and the lines to read the others against, by their names."""
    axes.set_xscale("log")
    if x == "share":
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    else:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(f"{ablation} ablation, {curve.split} split, {curve.prompts:,} prompts", loc="left")
    axes.set_ylabel(LABELS[y])
    axes.grid(color="#e4e4e4", linewidth=0.5)
    if y == "kl":
        _from_zero(axes)
    else:
        _keep_in_view(axes, *((-0.5, 2.0) if y == "faithfulness" else (0.0, 1.0)))
    references = {}
    for circuit, name, dashes in (("full", "full model", "-"), ("empty", "empty circuit", (0, (1, 2)))):
        value = curve.reference(ablation, circuit)[y]
        if value is not None:
            style: dict[str, Any] = {"color": "#444444", "linewidth": 0.7, "linestyle": dashes}
            references[name] = axes.axhline(value, zorder=1, **style)
    return references


def _keep_in_view(axes: Axes, low: float, high: float) -> None:
    """Let the y axis span what is drawn, but not beyond `low` and `high`; a triangle marks what lies outside."""
    values = [value for line in axes.get_lines() for _, value in _points(line)]
    bottom, top = max(low, min([*values, 0.0])), min(high, max([*values, 1.0]))
    margin = 0.06 * (top - bottom)
    for line in list(axes.get_lines()):
        for size, value in _points(line):
            if not bottom <= value <= top:
                axes.plot(
                    size,
                    1 - EDGE if value > top else EDGE,
                    marker="^" if value > top else "v",
                    color=line.get_color(),
                    markerfacecolor="white",
                    markersize=5,
                    linestyle="none",
                    transform=axes.get_xaxis_transform(),
                )
    axes.set_ylim(bottom - margin, top + margin)


def _points(line: Line2D) -> list[tuple[float, float]]:
    return [(x, y) for x, y in np.asarray(line.get_xydata(), dtype=float).tolist()]


def _from_zero(axes: Axes) -> None:
    """Distances: logarithmic above .01, linear below, since 0 is reached by the full model."""
    axes.set_yscale("symlog", linthresh=0.01, linscale=0.4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.4 * max(axes.dataLim.ymax, 0.01))
    for line in axes.get_lines():
        line.set_clip_on(False)  # points at 0 are drawn whole


def _size_label(n_edges: int, x: X) -> str:
    return f"edges kept, as a share of {n_edges:,}" if x == "share" else f"edges kept (of {n_edges:,})"


def _legend(figure: Figure, handles: Mapping[str, Any], columns: int) -> None:
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        handlelength=3.4,
        fontsize=7.5,
    )
