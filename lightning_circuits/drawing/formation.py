"""A figure of a circuit's formation: what it is worth, how much of it is there, and what carries it, step by step.

    >>> save(formation_figure(Formation.load("runs/formation.json")), Path("formation"))             # doctest: +SKIP

Panels above each other share the training steps:

- accuracy of the full model, of the circuit, and of the empty one: when the task is learned, and whether the circuit
  does it too;
- faithfulness of the circuit, with the 95 % interval of the bootstrap over prompts. Before the model can do the task
  this is a ratio of small numbers, with a wide interval; what lies far outside is a triangle at the border;
- overlap with the circuit that was found last (edges in both over edges in either), beside that of as many edges
  drawn at random: the expected one, and the interval of 95 % of the draws;
- the heads and MLPs at which most edges of a circuit begin or end, the higher the later the layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_circuits.drawing.in_view import keep_in_view
from lightning_circuits.drawing.style import RC, label, line_style, model_title
from lightning_circuits.evaluation.formation import Formation
from lightning_circuits.measures import by_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.4
"""Of the figure, in inches."""
PANEL, ROW = 1.15, 0.125
"""Heights in inches: of a panel of lines, and of a head or MLP."""
MOST = 18
"""So many heads and MLPs are shown at most."""
SHORT = 18
"""Characters of a name in a title."""

FULL: dict[str, Any] = {"color": "#b4b4b4", "linewidth": 3.2}  # seen where the circuit's line lies on it
EMPTY: dict[str, Any] = {"color": "#444444", "linewidth": 0.9, "linestyle": (0, (1, 2))}
CHANCE: dict[str, Any] = {"color": "#777777", "linewidth": 1.0, "linestyle": (0, (4.5, 1.5))}
CIRCUIT: dict[str, Any] = {**line_style(0), "markersize": 3.5}


def formation_figure(formation: Formation, size: str | None = None) -> Figure:
    """How the circuit of one size forms over training.

    Args:
        formation: what was found at each step.
        size: the name of a size that was looked at, such as ``1%``. Default: the smallest that is faithful enough in
            the end; if none is, the largest.

    Raises:
        ValueError: a size that was not looked at.
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    size = formation.enough() if size is None else formation.require_size(size)
    edges, names = _most(formation.edges_at(size), formation.layout.writer_names)
    heat = ROW * max(len(names), 4)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 3 * PANEL + heat + 1.35), layout="constrained")
        figure.suptitle(f"{model_title(formation.model)}\n{_circuit(formation, size)}", fontsize=9)
        panels = figure.subplots(4, 1, sharex=True, height_ratios=[PANEL, PANEL, PANEL, heat])
        handles = _draw_accuracy(panels[0], formation, size)
        handles |= _draw_faithfulness(panels[1], formation, size)
        handles |= _draw_overlap(panels[2], formation, size)
        for axes in panels[:3]:
            axes.set_axisbelow(True)
            axes.grid(color="#e4e4e4", linewidth=0.5)
        _draw_carriers(panels[3], formation, edges, names)
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=3, handlelength=3, fontsize=7.5
        )
    return figure


# ---- panels --------------------------------------------------------------------------------------------------------


def _draw_accuracy(axes: Axes, formation: Formation, size: str) -> dict[str, Any]:
    drawn = {}
    for name, circuit, style in (
        ("full model", "full", FULL),
        ("empty circuit", "empty", EMPTY),
        ("circuit", size, CIRCUIT),
    ):
        [drawn[name]] = axes.plot(formation.steps, [row.accuracy for row in formation.rows(circuit)], **style)
    keep_in_view(axes, 0.0, 1.0)
    axes.set_ylabel("accuracy")
    row = formation.moments[-1].row(size)
    axes.set_title(
        f"{label(row.ablation, SHORT)} ablation, {label(row.split, SHORT)} split, {row.prompts:,} prompts", loc="left"
    )
    return drawn


def _draw_faithfulness(axes: Axes, formation: Formation, size: str) -> dict[str, Any]:
    rows = formation.rows(size)
    axes.fill_between(
        formation.steps,
        [row.faithfulness_low for row in rows],
        [row.faithfulness_high for row in rows],
        color=CIRCUIT["color"],
        alpha=0.15,
        linewidth=0,
    )
    axes.axhline(1.0, **FULL)
    axes.axhline(0.0, **EMPTY)
    asked = axes.axhline(formation.faithfulness, color="#A23B00", linewidth=0.9, linestyle=(0, (6, 1.5, 1, 1.5)))
    axes.plot(formation.steps, [row.faithfulness for row in rows], **CIRCUIT)
    keep_in_view(axes, -0.5, 1.5)
    axes.set_ylabel(by_measure("faithfulness f", label(rows[-1].measure, SHORT), "\nby "))
    return {f"faithful enough ({formation.faithfulness:g})": asked}


def _draw_overlap(axes: Axes, formation: Formation, size: str) -> dict[str, Any]:
    found = formation.overlaps(size)

    def numbers(name: str) -> list[float]:
        return [math.nan if each is None else getattr(each, name) for each in found]

    axes.fill_between(formation.steps, numbers("low"), numbers("high"), color=CHANCE["color"], alpha=0.25, linewidth=0)
    [chance] = axes.plot(formation.steps, numbers("expected"), **CHANCE)
    axes.plot(formation.steps, numbers("iou"), **CIRCUIT)
    keep_in_view(axes, 0.0, 1.0)
    axes.set_ylabel("overlap with\nthe final circuit")
    return {"as many edges at random": chance}


def _draw_carriers(axes: Axes, formation: Formation, edges: Tensor, names: list[str]) -> None:
    """A cell for each step and head or MLP: how many edges of the circuit begin or end there."""
    from matplotlib.ticker import MaxNLocator

    cells = axes.pcolormesh(
        _borders(formation.steps),
        range(len(names) + 1),
        edges.T.numpy(),
        cmap="Blues",
        vmin=0,
        vmax=max(int(edges.max()), 1),
    )
    axes.set_yticks([number + 0.5 for number in range(len(names))], names, fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title("edges of the circuit that begin or end at a head or MLP", loc="left")
    axes.set_xlabel("training step")
    first, last = formation.steps[0], formation.steps[-1]
    ticks = MaxNLocator(integer=True, nbins=8).tick_values(first, last)
    axes.set_xticks([tick for tick in ticks if first <= tick <= last])  # a cell begins before its step
    beside = axes.inset_axes((1.015, 0.0, 0.022, 1.0))
    bar = axes.figure.colorbar(cells, cax=beside, ticks=MaxNLocator(integer=True, nbins=4))
    bar.outline.set_linewidth(0.5)
    beside.tick_params(labelsize=6.5, length=2)


# ---- what is shown -------------------------------------------------------------------------------------------------


def _circuit(formation: Formation, size: str) -> str:
    row = formation.moments[-1].row(size)
    return f"circuit of {row.edges:,} of {formation.layout.n_edges:,} edges by {label(formation.method, SHORT)}"


def _most(edges: Tensor, names: list[str]) -> tuple[Tensor, list[str]]:
    """Of the counts ``[n_moments, n_writers]``, those of the heads and MLPs that have most edges in some circuit, in
    the order of the model, and their names. The input, which nearly all circuits begin at, is none."""
    most = edges[:, 1:].max(0).values
    chosen = most.sort(descending=True, stable=True).indices[:MOST]
    touched = most[chosen] > 0
    chosen = chosen[touched | ~touched.any()].sort().values + 1  # of circuits without edges, the first
    return edges[:, chosen], [names[index] for index in chosen.tolist()]


def _borders(steps: list[int]) -> list[float]:
    """Where the cells of steps begin, and where the last ends: half-way between two steps."""
    if len(steps) == 1:
        return [steps[0] - 0.5, steps[0] + 0.5]
    between = [(before + after) / 2 for before, after in pairwise(steps)]
    return [2 * steps[0] - between[0], *between, 2 * steps[-1] - between[-1]]
