"""A circuit as a figure for a paper: layers upward, heads and MLPs as boxes, edges as lines; SVG, PDF or PNG.

    >>> save_figure(Circuit.load("circuit.json"), "circuit.svg")                          # doctest: +SKIP
    >>> circuit_figure(circuit)                       # a matplotlib Figure, shown by a notebook   # doctest: +SKIP

However deep the model and large the circuit, a figure fits a page (`PAGE`), and its smallest text has 6 points. Layers
without a node take no room. What is drawn is what the file holds: every edge of the circuit and the nodes at its ends,
those on no way from input to logits included. Where that is more than can be read, the strongest nodes keep boxes of
their own, all others stand by layers in dashed ones that say how many they are, and edges between the same two boxes
are one line (`drawing.folding`); the caption says how many edges are in such bundles, and how many in no line.

Lines begin at the top of their writer and end at the bottom of their reader; at a head from the left: its query, its
key, its value. All lines of a writer run together until they part (`drawing.routing`). An edge into a K/V group is
drawn at each head of the group. The larger the |score|, the thicker and darker the line, and negative scores are
dashed, so that a print in grey tells them apart. The score of a learned gate says only which gate is further open, its
zero means nothing: there, thickness goes from the lowest score to the highest, and nothing is dashed.

A circuit in spans has a column for each, with its name and, where it is known, the text that an example prompt has
there; above them stands the whole prompt, grey where no edge can be. Which node is in which column, and which lines go
from one to another, is said in `drawing.columns`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.caption import caption, title
from lightning_circuits.drawing.columns import Stand, example_of, stand_name
from lightning_circuits.drawing.example_prompt import PromptLine, draw_prompt, prompt_lines
from lightning_circuits.drawing.folding import Line, Plan, plan
from lightning_circuits.drawing.measured_text import cut, in_lines, width_of
from lightning_circuits.drawing.routing import Item, Routes, routes, way
from lightning_circuits.drawing.style import RC, SUFFIXES, label, save
from lightning_circuits.files.atomic import require_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE = 7.0, 9.5
"""No figure is wider or higher, in inches."""
SMALLEST = 6.0
"""The smallest text, in points."""

POSITIVE, NEGATIVE = "#16324f", "#b3400c"  # as dark as each other in grey: the dashes tell them apart there
BOX = {"input": "#e8e8e8", "head": "#ffffff", "mlp": "#dcdcdc", "logits": "#e8e8e8", "folded": "#ffffff"}
LINE_WIDTHS = 0.55, 3.2  # points, of the weakest line and the strongest
# In inches, all of these:
PORTS = {"q": -0.28, "k": 0.0, "v": 0.28}  # where lines end at a head, from its middle, in widths of the box
HEIGHT, PADDING, GAP = 0.155, 0.045, 0.055  # of a box; beside its name; beside it
TRACK = 0.09  # beside a line that passes a row
LEFT, RIGHT = 0.72, 0.12  # margins; at the left stand the layers
BETWEEN = 0.14  # columns of spans
NARROWEST = 3.4  # figure
LINE = 0.125  # of the smallest text
ROW, TURN = 0.27, 0.3  # from row to row at least; and so much more where lines have far to go sideways


def save_figure(circuit: Circuit, path: str | os.PathLike[str]) -> Path:
    """Draw a circuit into a file; the suffix says how: `.svg`, `.pdf`, `.png` (200 dots an inch). Gives the path.

    Raises:
        ValueError: another suffix.
        FileNotFoundError, IsADirectoryError: the folder is not there, or the path is one.
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a figure cannot be written to {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    require_place(path)
    [written] = save(circuit_figure(circuit), path.with_suffix(""), (path.suffix,))
    return written


def circuit_figure(circuit: Circuit) -> Figure:
    """A circuit as a matplotlib figure; of one without edges, the input and the logits.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        drawn = _drawn(circuit)
        figure = Figure(figsize=drawn.size)
        width, height = drawn.size
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        _draw_columns(axes, drawn, circuit)
        _draw_lines(axes, drawn)
        _draw_boxes(axes, drawn, circuit)
        for i, line in enumerate(drawn.title):
            axes.text(width / 2, height - 0.1 - 0.15 * i, line, ha="center", va="top", fontsize=8)
        for i, line in enumerate(reversed(drawn.caption)):
            axes.text(width / 2, 0.08 + LINE * i, line, ha="center", va="bottom", fontsize=SMALLEST)
        draw_prompt(axes, drawn.prompt, width / 2, height - 0.2 - 0.15 * len(drawn.title))
    return figure


class Drawn(NamedTuple):
    """A figure, measured in inches from its lower left corner.

    ``box``: the width of boxes. ``y``: the middle of each row. ``roof``: where columns of spans end.
    """

    plan: Plan
    routes: Routes
    size: tuple[float, float]
    box: float
    y: list[float]
    roof: float
    title: list[str]
    caption: list[str]
    prompt: list[PromptLine]


def _drawn(circuit: Circuit) -> Drawn:
    """Everything on the figure, in its place."""
    names = [*circuit.node_names(), "input", "logits", "+999"]
    box = max(width_of(name, SMALLEST) for name in names) + 2 * PADDING
    room = PAGE[0] - LEFT - RIGHT
    slot = box + 2 * GAP
    in_spans = bool(circuit.layout.spans)
    # Two lines of a column's heading, at most four of the prompt, nine of the caption.
    around = 0.5 + 9 * LINE + (0.35 + 4 * 0.3 if in_spans else 0.0)

    def boxes(n_columns: int) -> int:
        return int((room - (n_columns - 1) * BETWEEN) / slot + 1e-6)

    shown = plan(circuit, int((PAGE[1] - around) / ROW), boxes)
    column_of = {stand: stand[1] for row in shown.rows for stand in row}
    strongest = max((line.strength for line in shown.lines), default=0.0)
    links: dict[tuple[Stand, Stand], float] = {}
    for line in shown.lines:
        ends = line.writer, line.reads
        links[ends] = max(links.get(ends, 0.0), _points(line, strongest) / 72)
    routed = routes(shown.rows, column_of, links, (slot, TRACK), room, BETWEEN, least=slot)
    width = max(NARROWEST, LEFT + RIGHT + routed.columns[-1][1])
    shift = LEFT + (width - LEFT - RIGHT - routed.columns[-1][1]) / 2
    routed = Routes(
        {item: x + shift for item, x in routed.x.items()}, [(a + shift, b + shift) for a, b in routed.columns]
    )

    text_width = width - 0.3
    titled = in_lines(title(circuit), 8, text_width)
    said = [part for line in caption(circuit, shown) for part in in_lines(line, SMALLEST, text_width)]
    prompt = prompt_lines(circuit, text_width)
    foot = 0.3 + LINE * len(said)
    head = 0.22 + 0.15 * len(titled) + 0.3 * len(prompt) + (0.4 if in_spans else 0.0)
    y = _heights(shown, routed, PAGE[1] - head - foot - HEIGHT)
    y = [foot + HEIGHT / 2 + at for at in y]
    roof = y[-1] + HEIGHT / 2 + 0.06
    height = min(y[-1] + HEIGHT / 2 + head, PAGE[1])  # to the last bit
    return Drawn(shown, routed, (width, height), box, y, roof, titled, said, prompt)


def _heights(shown: Plan, routed: Routes, most: float) -> list[float]:
    """The middle of each row above that of the first; between rows is more room where lines go far sideways."""
    row_of, column_of = _rows_and_columns(shown)
    far = [0.0] * (len(shown.rows) - 1)
    for line in shown.lines:
        items = way(line.writer, line.reads, row_of, column_of)
        for row, (low, high) in enumerate(pairwise(items), row_of[line.writer]):
            far[row] = max(far[row], abs(routed.x[high] - routed.x[low]))
    more = [0.06 + TURN * min(1.0, at / 1.5) for at in far]
    spare = max(0.0, most - ROW * len(more))
    share = min(1.0, spare / sum(more))
    heights = [0.0]
    for at in more:
        heights.append(heights[-1] + ROW + share * at)
    return heights


def _rows_and_columns(shown: Plan) -> tuple[dict[Stand, int], dict[Stand, int]]:
    row_of = {stand: at for at, row in enumerate(shown.rows) for stand in row}
    return row_of, {stand: stand[1] for stand in row_of}


def _draw_columns(axes: Axes, drawn: Drawn, circuit: Circuit) -> None:
    """A band for each column of spans, with its name and text over it."""
    from matplotlib.patches import Rectangle

    if not circuit.layout.spans:
        return
    texts, low = example_of(circuit.metadata), drawn.y[0] - HEIGHT / 2 - 0.06
    for i, (spans, (left, right)) in enumerate(zip(drawn.plan.columns, drawn.routes.columns, strict=True)):
        middle, room = (left + right) / 2, right - left + BETWEEN - 0.04
        grey = "0.945" if i % 2 == 0 else "0.975"
        size = right - left, drawn.roof - low
        axes.add_patch(Rectangle((left, low), *size, facecolor=grey, linewidth=0, zorder=0))
        name = circuit.layout.spans[spans[0]] if len(spans) == 1 else f"{len(spans)} others"
        text = texts.get(name, "").strip() if len(spans) == 1 else ""
        said: dict[str, Any] = {"ha": "center", "va": "bottom", "gid": f"span {i}"}
        axes.text(middle, drawn.roof + 0.19, cut(label(name, 60), 7, room, "bold"), fontsize=7, weight="bold", **said)
        if text:
            shown = cut(label(text, 60), SMALLEST, room)
            axes.text(middle, drawn.roof + 0.05, shown, fontsize=SMALLEST, fontstyle="italic", **said)


def _draw_boxes(axes: Axes, drawn: Drawn, circuit: Circuit) -> None:
    from matplotlib.patches import FancyBboxPatch

    shown, corner = drawn.plan, 0.03
    for row, (y, layers) in enumerate(zip(drawn.y, shown.layers, strict=True)):
        for stand in shown.rows[row]:
            folded = shown.folded.get(stand)
            x = drawn.routes.x[Item(stand)]
            low = x - drawn.box / 2 + corner, y - HEIGHT / 2 + corner
            axes.add_patch(
                FancyBboxPatch(
                    low,
                    drawn.box - 2 * corner,
                    HEIGHT - 2 * corner,
                    boxstyle=f"round,pad={corner}",
                    facecolor=BOX["folded" if folded else shown.nodes[stand]["kind"]],
                    edgecolor="black",
                    linewidth=0.5,
                    linestyle=(0, (3, 1.5)) if folded else "-",
                    gid=f"folded {row} {stand[1]}" if folded else stand_name(stand, circuit.layout),
                    zorder=2,
                )
            )
            name = f"+{len(folded)}" if folded else stand[0]
            axes.text(x, y, name, ha="center", va="center_baseline", fontsize=SMALLEST, zorder=3)
        if 0 < row < len(drawn.y) - 1 and layers:
            first, last = layers[0], layers[-1]
            name = f"layer {first}" if first == last else f"layers {first}–{last}"
            axes.text(0.08, y, name, ha="left", va="center", fontsize=SMALLEST, color="0.35")


def _draw_lines(axes: Axes, drawn: Drawn) -> None:
    from matplotlib.patches import PathPatch

    row_of, column_of = _rows_and_columns(drawn.plan)
    strongest = max((line.strength for line in drawn.plan.lines), default=0.0)
    # The strongest are drawn last, above the others.
    for line in reversed(drawn.plan.lines):
        items = way(line.writer, line.reads, row_of, column_of)
        x = [drawn.routes.x[item] for item in items]
        y = drawn.y[row_of[line.writer] : row_of[line.reads] + 1]
        x[-1] += PORTS.get(line.reader, 0.0) * drawn.box
        axes.add_patch(
            PathPatch(
                _curve(x, [y[0] + HEIGHT / 2, *y[1:-1], y[-1] - HEIGHT / 2]),
                fill=False,
                edgecolor=NEGATIVE if line.negative else POSITIVE,
                linestyle=(0, (3.2, 1.4)) if line.negative else "-",
                linewidth=(points := _points(line, strongest)),
                alpha=0.5 + 0.5 * points / LINE_WIDTHS[1],
                capstyle="butt",
                gid=_line_id(line),
                zorder=1,
            )
        )


def _points(line: Line, strongest: float) -> float:
    """How thick a line is: it grows with the root, for a few edges of most circuits are worth more than all others."""
    thin, thick = LINE_WIDTHS
    return thin + (thick - thin) * ((line.strength / strongest) ** 0.5 if strongest else 1.0)


def _line_id(line: Line) -> str:
    """The id of a line's element in an SVG: the name of its edge; of a bundle, how many edges between which boxes."""
    if len(line.edges) == 1:
        return line.edges[0]
    return f"{len(line.edges)} edges {line.writer[0]}@{line.writer[1]} {line.reads[0]}@{line.reads[1]} {line.reader}"


def _curve(x: Sequence[float], y: Sequence[float]) -> Any:
    """A smooth line upward through points, vertical at its ends, and nowhere further aside than they are."""
    from matplotlib.path import Path as Curve

    slopes = [(b - a) / (d - c) for (a, b), (c, d) in zip(pairwise(x), pairwise(y), strict=True)]
    # The harmonic mean of the slopes beside, 0 where the line turns (Fritsch and Butland, 1984).
    inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in pairwise(slopes)]
    tangents = [0.0, *inner, 0.0]
    points, codes = [(x[0], y[0])], [Curve.MOVETO]
    for i in range(len(x) - 1):
        third = (y[i + 1] - y[i]) / 3
        points += [
            (x[i] + tangents[i] * third, y[i] + third),
            (x[i + 1] - tangents[i + 1] * third, y[i + 1] - third),
            (x[i + 1], y[i + 1]),
        ]
        codes += [Curve.CURVE4] * 3
    return Curve(points, codes)
