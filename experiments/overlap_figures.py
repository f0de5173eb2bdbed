"""The figure of `faithfulness_and_overlap.py` that the package does not have: curves of several tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from overlap_tables import Judged

from lightning_circuits.drawing.style import RANDOM_STYLE, RC, label_sizes, line_style
from lightning_circuits.measures import by_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
TOP = 1.6
"""f above which a curve leaves its panel."""


def curves_figure(tasks: Mapping[str, Judged]) -> Figure:
    """f, and below it accuracy, against the number of edges after pruning: a pair of panels for each task, a line for
    each method and seed (the second is pale), with the 95 % interval of the first."""
    import matplotlib
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(method for judged in tasks.values() for method in judged.rows))
    others = iter(range(len(methods)))
    styles = {method: RANDOM_STYLE if method == "random" else line_style(next(others)) for method in methods}
    bands = math.ceil(len(tasks) / COLUMNS)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 3.3 * bands + 0.5), layout="constrained")
        panels = figure.subplots(
            2 * bands, COLUMNS, squeeze=False, sharex=True, sharey="row", height_ratios=[3, 2] * bands
        )
        handles: dict[str, Any] = {}
        for number, (name, judged) in enumerate(tasks.items()):
            band, column = divmod(number, COLUMNS)
            upper, lower = panels[2 * band : 2 * band + 2, column]
            handles = draw(upper, lower, judged, styles) | handles
            upper.set_title(by_measure(name, judged.measure, ", by ").replace("_", " "), loc="left")
            upper.tick_params(labelbottom=False)
            lower.tick_params(labelbottom=True)
            lower.set_xlabel("edges after pruning")
        for row, axes in enumerate(panels[:, 0]):
            axes.set_ylabel("accuracy" if row % 2 else "faithfulness f")
            axes.set_ylim(*((-0.03, 1.05) if row % 2 else (-0.1, min(max(axes.dataLim.ymax, 1.1) + 0.05, TOP))))
        for empty in panels[-2:, len(tasks) - COLUMNS * bands or COLUMNS :].flat:
            empty.remove()
        shown = [method for method in methods if method in handles]
        figure.legend([handles[method] for method in shown], shown, loc="outside lower center", ncols=3, handlelength=4)
    return figure


def draw(upper: Axes, lower: Axes, judged: Judged, styles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The lines of a task; gives those of the first seed by their method."""
    handles = {}
    for method, seeds in judged.rows.items():
        for seed, rows in enumerate(seeds):
            kept = [row for row in rows[2:] if row.edges_pruned]
            edges = [row.edges_pruned for row in kept]
            style = {**styles[method], **({"alpha": 0.4, "linewidth": 0.8} if seed else {})}
            [line] = upper.plot(edges, [row.faithfulness for row in kept], **style)
            lower.plot(edges, [row.accuracy for row in kept], **style)
            if not seed:
                handles[method] = line
                low, high = ([getattr(row, f"faithfulness_{end}") for row in kept] for end in ("low", "high"))
                upper.fill_between(edges, low, high, color=style["color"], alpha=0.12, linewidth=0)
    for axes, full in ((upper, 1.0), (lower, judged.full.accuracy)):
        axes.axhline(full, color="#444444", linewidth=0.7, zorder=1)
        axes.set_xscale("log")
        label_sizes(axes.xaxis, "{:,.0f}".format)
        axes.grid(color="#e4e4e4", linewidth=0.5)
    upper.axhline(0, color="#444444", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
    return handles
