"""A circuit as a figure for a paper: layers upward, heads and MLPs as boxes, edges as lines; SVG, PDF or PNG.

    >>> save_figure(Circuit.load("circuit.json"), "circuit.svg")                          # doctest: +SKIP
    >>> circuit_figure(circuit)                       # a matplotlib Figure, shown by a notebook   # doctest: +SKIP

What is drawn is what the file holds: every edge of the circuit and the nodes at its ends, those on no way from input to
logits included. Lines begin at the top of their writer and end at the bottom of their reader; at a head from the left:
its query, its key, its value. An edge into a K/V group is drawn at each head of the group. The larger the |score|, the
thicker and darker the line, and negative scores are dashed, so that a print in grey tells them apart. The score of a
learned gate says only which gate is further open, its zero means nothing: there, thickness goes from the lowest score
to the highest, and nothing is dashed.

More than `MAX_EDGES` lines are a grey carpet: beyond, the strongest are drawn, and the caption says so.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch

from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.drawing.style import RC, SUFFIXES, label, model_title, save
from lightning_circuits.files.atomic import require_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_EDGES = 400
"""So many edges are drawn at most."""

POSITIVE, NEGATIVE = "#16324f", "#b3400c"  # as dark as each other in grey: the dashes tell them apart there
BOX = {"input": "#e8e8e8", "head": "#ffffff", "mlp": "#dcdcdc", "logits": "#e8e8e8"}
PORTS = {"q": -0.26, "k": 0.0, "v": 0.26}  # where lines end at a head, from its middle
INCH = 0.55  # inches from the middle of one box to that of the next in a row
WIDTH, HEIGHT, ROUND = 0.86, 0.36, 0.08  # of a box, in this unit


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

    drawn = _strongest(circuit)
    graph = drawn.to_networkx()
    graph.add_node("input", kind="input", layer=-1)
    graph.add_node("logits", kind="logits", layer=circuit.layout.n_layers)
    places = _places(graph)
    left, right = min(x for x, _ in places.values()), max(x for x, _ in places.values())
    bottom, top = -1.4, max(y for _, y in places.values()) + 1.0
    left, right = min(left - 1.8, -3.5), max(right + 1.2, 3.5)
    middle = (left + right) / 2
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(INCH * (right - left), INCH * (top - bottom)))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
        _draw_edges(axes, graph, places, signed=scores_are(circuit.metadata) == "effects")
        _draw_nodes(axes, graph, places, left + 0.2)
        axes.text(middle, top - 0.15, _title(circuit), ha="center", va="top", fontsize=8)
        axes.text(middle, bottom + 0.1, _caption(circuit, drawn), ha="center", va="bottom", fontsize=6)
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


def _places(graph: Any) -> dict[str, tuple[float, float]]:
    """Where the middle of each node's box stands.

    A layer's heads stand in a row, its MLP at the right, a little higher: it reads them. Layers without a node take no
    room. Within a row, heads stand near what they are connected with, which makes fewer lines cross.
    """
    rows: dict[int, list[str]] = {}
    for name, node in graph.nodes(data=True):
        if node["kind"] != "mlp":
            rows.setdefault(node["layer"], []).append(name)
    mlps = {name: node["layer"] for name, node in graph.nodes(data=True) if node["kind"] == "mlp"}
    side = max(len(names) for names in rows.values()) / 2 + 0.6
    x = dict.fromkeys(mlps, side)
    for names in rows.values():
        x |= {name: i - (len(names) - 1) / 2 for i, name in enumerate(names)}
    for layer in [*sorted(rows, reverse=True), *sorted(rows)] * 2:
        pull = {name: mean([x[other] for other in _neighbours(graph, name)] or [x[name]]) for name in rows[layer]}
        rows[layer].sort(key=pull.__getitem__)
        x |= {name: i - (len(rows[layer]) - 1) / 2 for i, name in enumerate(rows[layer])}
    heights, y = {}, 0.0
    for layer in sorted({*rows, *mlps.values()}):
        heights[layer] = y
        # Lines that leave a wide row need room to turn.
        y += 0.9 + 0.1 * min(len(rows.get(layer, ())), 12) + (0.4 if layer in mlps.values() else 0.0)
    return {
        name: (x[name], heights[node["layer"]] + (0.7 if name in mlps else 0.0)) for name, node in graph.nodes.items()
    }


def _neighbours(graph: Any, name: str) -> list[str]:
    return [*graph.predecessors(name), *graph.successors(name)]


def _draw_nodes(axes: Axes, graph: Any, places: dict[str, tuple[float, float]], left: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    labelled = set()
    for name, (x, y) in places.items():
        kind, layer = graph.nodes[name]["kind"], graph.nodes[name]["layer"]
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
                gid=name,
                zorder=2,
            )
        )
        axes.text(x, y, name, ha="center", va="center_baseline", fontsize=6, zorder=3)
        if kind in ("head", "mlp") and layer not in labelled:
            labelled.add(layer)
            axes.text(left, y, f"layer {layer}", ha="left", va="center", fontsize=6, color="0.4")


def _draw_edges(axes: Axes, graph: Any, places: dict[str, tuple[float, float]], signed: bool) -> None:
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
        bow = 0.0 if abs(x1 - x0) > 0.5 or y1 - y0 < 2.5 else math.copysign(0.5 + 0.05 * (y1 - y0), x0)
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
    return "\n".join(parts)
