"""Circuits on each other's tasks as figures, and the same numbers in Markdown.

    >>> found = transfer(model, circuits, loaders)                          # evaluation.transfer   # doctest: +SKIP
    >>> save(matrix_figure(found), Path("matrix")), save(scatter_figure(found), Path("scatter"))    # doctest: +SKIP

`matrix_figure` is a heat map of faithfulness, a row for the data of each task, a column for each circuit, with the
controls in a panel beside it. `scatter_figure` holds what two circuits share against what the one does on the task of
the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_circuits.circuit import ComparedBy
from lightning_circuits.drawing.style import RC, label, line_style, without_frame
from lightning_circuits.evaluation.overlap import Null
from lightning_circuits.evaluation.transfer import Transfer, TransferRow, match_of
from lightning_circuits.measures import by_measure
from lightning_circuits.printable import interval, number, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.6, 0.42
"""Width and height of a cell of the matrix in inches."""
SHORT = 20
"""Characters of a name beside the matrix."""
OWN = "#D55E00"
"""Around the cell of a circuit on its own task."""


def matrix_figure(found: Transfer) -> Figure:
    """A heat map for each ablation: f and its 95 % interval in each cell, the darker the nearer to 1.

    Cells of a circuit (or of its match, among the controls) on its own task have a frame.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = found.circuits, found.controls
    around = 0.075 * max(len(label(name, SHORT)) for name in (*found.data, *found.controls)) + 0.6
    width = max(CELL[0] * (len(columns[0]) + len(columns[1])), 2.4) + around + 0.9
    height = max(CELL[1] * len(found.data), 1.0) * len(found.ablations) + around + 0.3
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.suptitle(label(found.measured_on, 80), fontsize=8)
        ratios = [len(names) for names in columns]
        shape = len(found.ablations), 2
        panels = figure.subplots(*shape, squeeze=False, sharex="col", sharey=True, width_ratios=ratios)
        for line, ablation in zip(panels, found.ablations, strict=True):
            line[0].set_ylabel(f"{label(ablation, SHORT)}\nablation")
            for axes, circuits in zip(line, columns, strict=True):
                colours = _cells(axes, [[found.row(data, name, ablation) for name in circuits] for data in found.data])
        for axes, circuits, kind in zip(panels[-1], columns, ("circuit", "control"), strict=True):
            middles = [i + 0.5 for i in range(len(circuits))]
            axes.set_xticks(middles, [label(name, SHORT) for name in circuits], rotation=40, ha="right")
            axes.set_xlabel(kind)
        panels[0, 0].set_yticks([i + 0.5 for i in range(len(found.data))], [label(name, SHORT) for name in found.data])
        panels[0, 0].invert_yaxis()
        bar = figure.colorbar(colours, ax=panels, shrink=0.8, aspect=25, pad=0.01, extend="both")
        bar.set_label("faithfulness f")
    return figure


def _cells(axes: Axes, rows: Sequence[Sequence[TransferRow]]) -> Any:
    """Colours and numbers of one panel; gives what a colour bar is made of."""
    from matplotlib.patches import Rectangle

    values = [[row.faithfulness for row in line] for line in rows]
    colours = axes.pcolormesh(values, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for y, line in enumerate(rows):
        for x, row in enumerate(line):
            ink = "white" if row.faithfulness > 0.6 else "black"
            where: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
            axes.text(x + 0.5, y + 0.36, number(row.faithfulness, ".2f"), fontsize=7.5, **where)
            axes.text(x + 0.5, y + 0.72, interval(row.faithfulness_low, row.faithfulness_high), fontsize=5.1, **where)
            if row.circuit in (row.data, match_of(row.data)):
                axes.add_patch(Rectangle((x + 0.04, y + 0.05), 0.92, 0.9, fill=False, edgecolor=OWN, linewidth=1.1))
    without_frame(axes)
    return colours


def scatter_figure(found: Transfer, of: ComparedBy = "nodes", null: Null = "layer") -> Figure:
    """What circuits share against transfer, a row of two panels for each ablation, a point for each circuit on the data
    of each other.

    A point has the colour of the circuit and the shape of the data. Left, over the IoU of the two circuits; the grey
    line is what 95 % of random pairs have. Right, over how many standard deviations it lies above that null. Upright
    lines are the 95 % intervals of f.

    Args:
        found: of at least two circuits with data of their own.
        of: what is shared.
        null: what it is held against.

    Raises:
        ValueError: there is no circuit on another's data; more circuits than can be told apart (`style.N_STYLES`).
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not found.pairs(found.ablations[0], of, null):
        raise ValueError("there is no pair to draw: it takes the data of one circuit, and another circuit")
    styles = {name: {**line_style(i), "linestyle": "none"} for i, name in enumerate(found.circuits)}
    with matplotlib.rc_context(RC):
        size = (7.2, 2.7 * len(found.ablations) + 0.4 + 0.17 * math.ceil(len(styles) / 4))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(found.ablations), 2, squeeze=False, sharey="row", sharex="col")
        for (left, right), ablation in zip(panels, found.ablations, strict=True):
            correlation, pairs = found.correlation(ablation, of, null), found.pairs(ablation, of, null)
            for axes, rho in ((left, correlation.iou), (right, correlation.z)):
                said = f"Spearman's rho {number(rho, '.2f')}, {correlation.pairs} pairs"
                axes.set_title(f"{label(ablation, SHORT)} ablation: {said}", loc="left")
                axes.axhline(0, color="#444444", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
                axes.axhline(1, color="#444444", linewidth=0.7, zorder=1)
                axes.grid(color="#e4e4e4", linewidth=0.5)
            left.set_ylabel(by_measure("f on the data of the other", label(found.measure, SHORT), "\nby "))
            for pair in pairs:
                style = _of_pair(styles[pair.row.circuit], styles[pair.row.data])
                for axes, x in ((left, pair.overlap.iou), (right, pair.overlap.z)):
                    ends = [pair.row.faithfulness_low, pair.row.faithfulness_high]
                    axes.plot([x, x], ends, color=style["color"], linewidth=0.7, alpha=0.6, zorder=2)
                    axes.plot([x], [pair.row.faithfulness], **style)
                chance = [pair.overlap.low, pair.overlap.high]
                left.plot(chance, [pair.row.faithfulness] * 2, color="#999999", linewidth=2.2, alpha=0.45, zorder=1)
        panels[-1, 0].set_xlabel(f"IoU of the two circuits' {of} (grey: the {null} null)")
        panels[-1, 1].set_xlabel(f"z of this IoU, {null} null")
        handles = [left.plot([], [], **style)[0] for style in styles.values()]
        figure.legend(
            handles,
            [label(name) for name in styles],
            title="colour: circuit, shape: data",
            title_fontsize=7.5,
            loc="outside lower center",
            ncols=min(4, len(styles)),
            fontsize=7.5,
        )
    return figure


def _of_pair(circuit: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The colour of the one, the shape of the other; hollow where that is."""
    hollow = data["markerfacecolor"] == "white"
    return {**data, "color": circuit["color"], "markerfacecolor": "white" if hollow else circuit["color"]}


# ---- words -----------------------------------------------------------------------------------------------------------


def transfer_markdown(found: Transfer) -> str:
    """The matrix of each ablation, what the circuits share, and the correlations, as tables in Markdown."""
    parts = []
    for ablation in found.ablations:
        columns = [*found.circuits, *found.controls]
        lines = [["data", *columns]]
        for data in found.data:
            rows = [found.row(data, name, ablation) for name in columns]
            cells = [
                f"{number(row.faithfulness, '.2f')} [{interval(row.faithfulness_low, row.faithfulness_high)}], "
                f"{number(row.accuracy, '.0%')}"
                for row in rows
            ]
            lines.append([f"{data} ({number(found.row(data, 'full', ablation).accuracy, '.0%')})", *cells])
        parts.append(
            f"Faithfulness under {label(ablation, 80)} ablation, {label(found.measured_on, 80)}: f [95 % interval], "
            "accuracy. Behind the data, the model's accuracy.\n\n" + _markdown(lines)
        )
    sizes = [["column", "edges", "after pruning"]]
    for name in (*found.circuits, *found.controls):
        row = found.row(found.data[0], name)
        sizes.append([name, f"{row.edges:,}", f"{row.edges_pruned:,}"])
    parts.append(f"Sizes.\n\n{_markdown(sizes)}")
    if found.shared:
        lines = [["circuits", "shared", "null", "IoU", "by chance [95 %]", "z", "log10 p"]]
        for a, b, overlap in found.shared:
            chance = f"{number(overlap.expected, '.2f')} [{interval(overlap.low, overlap.high)}]"
            iou, z, log10_p = (number(each, ".2f") for each in (overlap.iou, overlap.z, overlap.log10_p))
            lines.append([f"{a}, {b}", overlap.of, overlap.null, iou, chance, z, log10_p])
        parts.append(f"What the circuits share.\n\n{_markdown(lines)}")
        lines = [["ablation", "shared", "null", "pairs", "rho of f and IoU", "rho of f and z"]]
        for each in found.correlations:
            rhos = [number(rho, ".2f") for rho in (each.iou, each.z)]
            lines.append([each.ablation, each.of, each.null, str(each.pairs), *rhos])
        parts.append(f"Does overlap foretell transfer? Spearman's rho.\n\n{_markdown(lines)}")
    return "\n\n".join(parts) + "\n"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of a head and rows."""
    cells = [
        [printable(cell, longest=100).replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in lines
    ]
    rows = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
