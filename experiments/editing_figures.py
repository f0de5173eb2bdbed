"""The figures of `knowledge_editing`: how far facts are edited, beside what is left of the model; what masks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editing_conditions import BESIDE, FIRST, FULL, RESTS, Condition, find
from editing_tables import Rows

from lightning_circuits.drawing.style import COLOURS, RC, SHAPES
from lightning_circuits.evaluation.metrics.bootstrap import mean_estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_circuits.weights.judging import WeightRow

SHADES = dict(zip(("circuit", *BESIDE, FULL), (COLOURS[0], COLOURS[1], "#777777", COLOURS[2], COLOURS[4]), strict=True))
"""The colour of what may move, or is kept."""
MEASURES = {
    "train agreement": "agreement, facts of the training",
    "test agreement": "agreement, held-out facts",
    "test text_nll": "NLL of text, nats a token",
}
"""What the panels of `masks_figure` show."""


def edits_figure(edits: Sequence[Condition]) -> Figure:
    """By how much the NLL of the new object falls, against that of text after the edit: a panel for each rest.

    Args:
        edits: of which those as published are drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure

    masks = list(dict.fromkeys(each.mask for each in edits))
    shapes = dict(zip(masks, SHAPES, strict=False))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        panels = figure.subplots(1, len(RESTS), sharey=True)
        for axes, (rest, words) in zip(panels, RESTS.items(), strict=True):
            for mask in masks:
                for weights in ("circuit", *BESIDE, *([FULL] if mask == FIRST.name else [])):
                    if found := find(edits, mask, weights, rest):
                        point(axes, found, SHADES[weights], "*" if weights == FULL else shapes[mask])
            axes.axhline(0, color="#444444", linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
            axes.set_title(words, loc="left")
            axes.set_xlabel("NLL of text after the edit, nats a token")
            axes.margins(x=0.12)
            axes.locator_params(axis="x", nbins=5)  # text moves in its fourth digit, which makes long labels
            axes.grid(color="#e4e4e4", linewidth=0.5)
        panels[0].set_ylabel("fall of the NLL of the new object, nats")
        legends(figure, [each for each in SHADES if any(edit.weights == each for edit in edits)], shapes)
    return figure


def point(axes: Axes, found: Condition, colour: str, marker: str) -> None:
    """A condition: the mean over facts, with its interval upwards."""
    fall, text = mean_estimate(found.fall), float(found.at("after", "text_nll").mean())
    bar = [[fall.value - fall.low], [fall.high - fall.value]]
    size = 8 if marker == "*" else 5
    axes.errorbar(text, fall.value, bar, fmt=marker, color=colour, markersize=size, elinewidth=0.8, alpha=0.85)


def legends(figure: Figure, weights: Sequence[str], shapes: Mapping[str, str]) -> None:
    """Colours say what may move, markers the mask."""
    from matplotlib.lines import Line2D

    def handle(colour: str, marker: str) -> Any:
        return Line2D([], [], color=colour, marker=marker, linestyle="")

    colours = [handle(SHADES[each], "*" if each == FULL else "o") for each in weights]
    masks = [handle("#444444", marker) for marker in shapes.values()]
    names = [*weights, *(f"mask {mask}" for mask in shapes)]
    figure.legend([*colours, *masks], names, loc="outside lower center", ncols=4)


def steps_figure(edits: Sequence[Condition]) -> Figure:
    """The NLL of the new object step by step, a panel for each rest, a line for what may move; of the first mask.

    Args:
        edits: of which those as published are drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        panels = figure.subplots(1, len(RESTS), sharey=True)
        lines = {}
        for axes, (rest, words) in zip(panels, RESTS.items(), strict=True):
            for weights, colour in SHADES.items():
                if found := find(edits, FIRST.name, weights, rest):
                    dashes = (0, (4, 2)) if weights == FULL else "-"
                    [lines[weights]] = axes.plot(found.course.mean(0), ".", linestyle=dashes, color=colour)
            axes.set_title(words, loc="left")
            axes.set_xlabel("step")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylim(bottom=0)
            axes.grid(color="#e4e4e4", linewidth=0.5)
        panels[0].set_ylabel("NLL of the new object, nats")
        figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=5)
    return figure


def masks_figure(rows: Rows) -> Figure:
    """What masks are worth against their density, a panel for each of `MEASURES`, the rest at zero.

    Args:
        rows: by the name of the mask.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.4, 3.1), layout="constrained")
        for axes, (measure, words) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
            split, name = measure.split()
            judged = [row for some in rows.values() for row in some if row.split == split and row.rest == "zero"]
            for aside, weights in ((-0.006, "random"), (0.0, "circuit"), (0.006, "magnitude")):
                line(axes, [row for row in judged if row.circuit == weights], name, weights, aside)
            full = next(getattr(row, name) for row in judged if row.circuit == FULL)
            axes.axhline(full, color=SHADES[FULL], linewidth=0.8, label="full model")
            axes.set_title(words, loc="left")
            axes.set_xlabel("share of the weights kept")
            axes.set_xlim(0, 0.55)
            axes.grid(color="#e4e4e4", linewidth=0.5)
            if name == "agreement":
                axes.set_ylim(-0.03, 1.05)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def line(axes: Axes, rows: Sequence[WeightRow], name: str, weights: str, aside: float) -> None:
    """A marker with its interval for each mask, and a line through the means of each density; all a little aside, so
    that intervals of others can be told apart."""
    densities = sorted({round(row.density, 4) for row in rows})
    of_each = [[getattr(row, name) for row in rows if round(row.density, 4) == density] for density in densities]
    means = [sum(values) / len(values) for values in of_each]
    axes.plot([density + aside for density in densities], means, color=SHADES[weights], label=weights)
    for row in rows:
        value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
        bar = [[value - low], [high - value]]
        axes.errorbar(row.density + aside, value, bar, fmt="o", color=SHADES[weights], markersize=3.5, elinewidth=0.8)
