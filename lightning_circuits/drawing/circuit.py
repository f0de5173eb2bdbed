"""A circuit as a figure for a paper: layers upward, heads and MLPs as boxes, edges as lines; SVG, PDF or PNG.

    >>> save_figure(Circuit.load("circuit.json"), "circuit.svg")                          # doctest: +SKIP
    >>> circuit_figure(circuit)                       # a matplotlib Figure, shown by a notebook   # doctest: +SKIP

What is drawn is what the file holds: every edge of the circuit and the nodes at its ends, those on no way from input to
logits included. Lines begin at the top of their writer and end at the bottom of their reader; at a head from the left:
its query, its key, its value. An edge into a K/V group is drawn at each head of the group. The larger the |score|, the
thicker and darker the line, and negative scores are dashed, so that a print in grey tells them apart. The score of a
learned gate says only which gate is further open, its zero means nothing: there, thickness goes from the lowest score
to the highest, and nothing is dashed.

A circuit in spans has a column for each, with its name and, where it is known, the text that an example prompt has
there; above them stands the whole prompt, grey where no edge can be. Which node is in which column, and which lines go
from one to another, is said in `drawing.columns`.

More than `MAX_EDGES` lines are a grey carpet: beyond, the strongest are drawn, and the caption says so.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.drawing.columns import Stand, example_of, in_columns, stand_name
from lightning_circuits.drawing.style import RC, SUFFIXES, label, model_title, save
from lightning_circuits.files.atomic import require_place
from lightning_circuits.layout import Layout

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_EDGES = 400
"""So many edges are drawn at most."""

POSITIVE, NEGATIVE = "#16324f", "#b3400c"  # as dark as each other in grey: the dashes tell them apart there
BOX = {"input": "#e8e8e8", "head": "#ffffff", "mlp": "#dcdcdc", "logits": "#e8e8e8"}
PORTS = {"q": -0.26, "k": 0.0, "v": 0.26}  # where lines end at a head, from its middle
INCH = 0.55  # inches from the middle of one box to that of the next in a row
WIDTH, HEIGHT, ROUND = 0.86, 0.36, 0.08  # of a box, in this unit
BETWEEN, NARROWEST = 0.9, 2.2  # columns of spans, in this unit
LIVE, DEAD = "black", "0.55"  # spans with edges, and those without
LETTER = 0.105  # how wide a letter of the smallest text is, about, in this unit


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

    drawn, in_spans = _strongest(circuit), bool(circuit.layout.spans)
    graph = in_columns(drawn)
    columns = _columns(graph, circuit.layout.n_spans)
    places = _places(graph, columns, circuit.layout)
    left, right = min(columns[0].left - 1.2, -3.5), max(columns[-1].right + 0.6, 3.5)
    with matplotlib.rc_context(RC):
        prompt = _prompt(circuit, right - left)
        bottom, roof = -1.8 if in_spans else -1.4, max(y for _, y in places.values()) + 0.4
        top = roof + 0.6 + (0.9 if in_spans else 0.0) + (0.6 * len(prompt) + 0.1 if prompt else 0.0)
        middle = (left + right) / 2
        figure = Figure(figsize=(INCH * (right - left), INCH * (top - bottom)))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
        if in_spans:
            _draw_columns(axes, columns, circuit, (-0.6, roof))
        _draw_edges(axes, graph, places, columns, signed=scores_are(circuit.metadata) == "effects")
        _draw_nodes(axes, graph, places, left + 0.2, circuit.layout)
        axes.text(middle, top - 0.15, _title(circuit), ha="center", va="top", fontsize=8)
        axes.text(middle, bottom + 0.1, _caption(circuit, drawn), ha="center", va="bottom", fontsize=6)
        for i, line in enumerate(prompt):
            _draw_pieces(axes, line, middle, top - 0.85 - 0.6 * i)
    return figure


def _strongest(circuit: Circuit) -> Circuit:
    """The circuit with `MAX_EDGES` of its edges, those of the largest |score|; without scores, the lowest ones."""
    if circuit.n_edges <= MAX_EDGES:
        return circuit
    edges = circuit.members.nonzero()[:, 0]
    if circuit.scores is not None:
        strength = circuit.scores[edges] if scores_are(circuit.metadata) == "ranks" else circuit.scores[edges].abs()
        edges = edges[strength.argsort(descending=True, stable=True)]
    members = torch.zeros_like(circuit.members)
    members[edges[:MAX_EDGES]] = True
    return replace(circuit, members=members)


class Column(NamedTuple):
    """Where a span stands on the figure: its heads in rows around ``middle``, its MLPs around ``mlps``."""

    left: float
    middle: float
    mlps: float
    right: float


def _columns(graph: Any, n_spans: int) -> list[Column]:
    """Side by side, each as wide as its widest row; without spans, the one has its rows in the middle of the figure."""
    rows: list[Counter[int]] = [Counter() for _ in range(n_spans)]
    with_mlps = set()
    for (_, span), node in graph.nodes(data=True):
        if node["kind"] == "mlp":
            with_mlps.add(span)
        else:
            rows[span][node["layer"]] += 1
    columns: list[Column] = []
    for span, row in enumerate(rows):
        half = max(row.values()) / 2
        right = half + (1.2 if span in with_mlps else 0.1)
        room = max(0.0, NARROWEST - half - right) / 2 if n_spans > 1 else 0.0
        middle = columns[-1].right + BETWEEN + half + room if columns else 0.0
        columns.append(Column(middle - half - room - 0.1, middle, middle + half + 0.6, middle + right + room))
    return columns


def _places(graph: Any, columns: Sequence[Column], layout: Layout) -> dict[Stand, tuple[float, float]]:
    """Where the middle of each node's box stands.

    A layer's heads stand in a row, its MLP at the right, a little higher if it reads them. Layers without a node take
    no room. Within a row, heads stand near what they are connected with, which makes fewer lines cross.
    """
    rows: dict[tuple[int, int], list[Stand]] = {}  # by layer and span
    for stand, node in graph.nodes(data=True):
        if node["kind"] != "mlp":
            rows.setdefault((node["layer"], stand[1]), []).append(stand)
    mlps = {stand: node["layer"] for stand, node in graph.nodes(data=True) if node["kind"] == "mlp"}
    x = {stand: columns[stand[1]].mlps for stand in mlps}

    def settle(row: tuple[int, int]) -> None:
        stands = rows[row]
        x.update({stand: columns[row[1]].middle + i - (len(stands) - 1) / 2 for i, stand in enumerate(stands)})

    for row in rows:
        settle(row)
    for row in [*sorted(rows, reverse=True), *sorted(rows)] * 2:
        pull = {stand: mean([x[other] for other in _neighbours(graph, stand)] or [x[stand]]) for stand in rows[row]}
        rows[row].sort(key=pull.__getitem__)
        settle(row)
    widest: Counter[int] = Counter()
    for (layer, _), stands in rows.items():
        widest[layer] = max(widest[layer], len(stands))
    raised = 0.0 if layout.parallel else 0.7
    heights, y = {}, 0.0
    for layer in sorted({*widest, *mlps.values()}):
        heights[layer] = y
        # Lines that leave a wide row need room to turn.
        y += 0.9 + 0.1 * min(widest[layer], 12) + (0.4 if raised and layer in mlps.values() else 0.0)
    return {
        stand: (x[stand], heights[node["layer"]] + (raised if stand in mlps else 0.0))
        for stand, node in graph.nodes.items()
    }


def _neighbours(graph: Any, stand: Stand) -> list[Stand]:
    return [*graph.predecessors(stand), *graph.successors(stand)]


def _draw_columns(axes: Axes, columns: Sequence[Column], circuit: Circuit, between: tuple[float, float]) -> None:
    """A band for each span, from the lower of two heights to the upper, with the span's name and text over it."""
    from matplotlib.patches import Rectangle

    texts = example_of(circuit.metadata)
    low, high = between
    for i, (name, column) in enumerate(zip(circuit.layout.spans, columns, strict=True)):
        width, middle = column.right - column.left, (column.left + column.right) / 2
        band = "0.945" if i % 2 == 0 else "0.975"
        axes.add_patch(Rectangle((column.left, low), width, high - low, facecolor=band, linewidth=0, zorder=0))
        longest = max(8, int(width / LETTER))
        said: dict[str, Any] = {"ha": "center", "va": "bottom", "gid": f"span {i}"}
        axes.text(middle, high + 0.42, label(name, longest), fontsize=7, fontweight="bold", **said)
        if text := texts.get(name, "").strip():
            axes.text(middle, high + 0.12, label(text, longest), fontsize=6, fontstyle="italic", **said)


def _prompt(circuit: Circuit, width: float) -> list[list[tuple[str, str, str]]]:
    """The example prompt in lines of this width: of each span the text, the name and the colour."""
    lines: list[list[tuple[str, str, str]]] = []
    free = 0.0
    for name, text in example_of(circuit.metadata).items() if circuit.layout.spans else ():
        piece = label(text.strip(), 60), label(name, 60), LIVE if name in circuit.layout.spans else DEAD
        needed = LETTER * (max(map(len, piece[:2])) + 3)
        if needed > free:
            lines.append([])
            free = width - 0.6
        lines[-1].append(piece)
        free -= needed
    return lines


def _draw_pieces(axes: Axes, pieces: Sequence[tuple[str, str, str]], x: float, y: float) -> None:
    """A line of the example prompt: pieces side by side, each over the name of its span."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea, VPacker

    cells: list[Artist] = [
        VPacker(
            children=[
                TextArea(text, textprops={"fontsize": 6, "color": colour}),
                TextArea(name, textprops={"fontsize": 4.5, "color": colour}),
            ],
            align="center",
            pad=0,
            sep=1.5,
        )
        for text, name, colour in pieces
    ]
    line = HPacker(children=cells, align="top", pad=0, sep=4)
    axes.add_artist(AnnotationBbox(line, (x, y), frameon=False, pad=0))


def _draw_nodes(axes: Axes, graph: Any, places: dict[Stand, tuple[float, float]], left: float, layout: Layout) -> None:
    from matplotlib.patches import FancyBboxPatch

    labelled = set()
    for stand, (x, y) in places.items():
        kind, layer = graph.nodes[stand]["kind"], graph.nodes[stand]["layer"]
        corner = (x - WIDTH / 2 + ROUND, y - HEIGHT / 2 + ROUND)
        axes.add_patch(
            FancyBboxPatch(
                corner,
                WIDTH - 2 * ROUND,
                HEIGHT - 2 * ROUND,
                boxstyle=f"round,pad={ROUND}",
                facecolor=BOX[kind],
                edgecolor="black",
                linewidth=0.5,
                gid=stand_name(stand, layout),
                zorder=2,
            )
        )
        axes.text(x, y, stand[0], ha="center", va="center_baseline", fontsize=6, zorder=3)
        if kind in ("head", "mlp") and layer not in labelled:
            labelled.add(layer)
            axes.text(left, y, f"layer {layer}", ha="left", va="center", fontsize=6, color="0.4")


def _draw_edges(
    axes: Axes, graph: Any, places: dict[Stand, tuple[float, float]], columns: Sequence[Column], signed: bool
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    edges = list(graph.edges(data=True))
    values = [edge.get("score", 1.0) for *_, edge in edges]
    low, high = (0.0, max(map(abs, values), default=0.0)) if signed or not values else (min(values), max(values))
    # The strongest are drawn last, above the others.
    for i in sorted(range(len(edges)), key=lambda i: abs(values[i] - low)):
        writer, reader, edge = edges[i]
        strength = abs(values[i] - low) / (high - low) if high > low else 1.0
        negative = values[i] < 0 and signed
        (x0, y0), (x1, y1) = places[writer], places[reader]
        start, end = (x0, y0 + HEIGHT / 2), (x1 + PORTS.get(edge["reader"], 0.0), y1 - HEIGHT / 2)
        # A long line straight upward would run through the boxes between its ends: it bows out.
        side = x0 - columns[writer[1]].middle
        bow = 0.0 if abs(x1 - x0) > 0.5 or y1 - y0 < 2.5 else math.copysign(0.5 + 0.05 * (y1 - y0), side)
        rise = 0.5 * (end[1] - start[1])
        points = [start, (start[0] + bow, start[1] + rise), (end[0] + bow, end[1] - rise), end]
        axes.add_patch(
            PathPatch(
                Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]),
                fill=False,
                edgecolor=NEGATIVE if negative else POSITIVE,
                linestyle=(0, (4, 1.6)) if negative else "-",
                linewidth=0.4 + 1.8 * strength,
                alpha=0.45 + 0.45 * strength,
                gid=edge["edge"],  # the id of its element in an SVG
                zorder=1,
            )
        )


def _title(circuit: Circuit) -> str:
    said = circuit.metadata
    parts = [label(said["method"])] if "method" in said else []
    parts += [model_title(str(said["model"]))] if "model" in said else []
    parts += [f"{label(said['ablation'])} ablation"] if "ablation" in said else []
    return ", ".join(parts)


def _caption(circuit: Circuit, drawn: Circuit) -> str:
    parts = [f"{circuit.n_edges:,} of {circuit.layout.n_edges:,} edges ({100 * circuit.size:.3g}%)"]
    if drawn.n_edges < circuit.n_edges:
        which = "without scores: the lowest" if circuit.scores is None else "drawn: the strongest"
        parts[0] += f", {which} {drawn.n_edges:,}"
    if circuit.scores is not None and scores_are(circuit.metadata) == "ranks":
        parts.append("line width: score, from the lowest to the highest")
    elif circuit.scores is not None:
        negative = bool((circuit.scores[drawn.members] < 0).any())
        parts.append("line width: |score|" + ("; dashed: negative score" if negative else ""))
    parts.append("at heads from the left: query, key, value")
    if circuit.layout.spans:
        parts.append("from column to column: a key or value, read where the line begins, by a head that looks there")
    return "\n".join(parts)
