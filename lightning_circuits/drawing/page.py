"""A circuit as a page: one HTML file to open in a browser, with everything in it, and nothing fetched.

    save_page(Circuit.load("circuit.json"), "page.html")                                    # doctest: +SKIP
    save_page(circuit, "page.html", curve="runs/ioi/curve.json")        # the slider tells f    # doctest: +SKIP
    save_page(mine, "page.html", theirs, names=("EdgePruning", "EAP-IG"))                   # doctest: +SKIP

Layers go upward, heads stand by their number and MLPs at their right, an edge ends at its reader: at a head the query
at the left, the key in the middle, the value at the right. A slider cuts the circuit down to its strongest edges; a
click on a node leaves its ways to the input and to the logits; two circuits are laid over each other, or side by side.
A circuit in spans has a column for each (see `drawing.columns`), over them the text that an example prompt has there.

Names can be read at any width of the window: boxes are placed in the width that there is, layers without a node take no
room. Of many edges, heads that the strongest do not reach are folded, those of a layer into one box, and edges between
two boxes are one bundle; a click opens either.

The page is a template, a stylesheet and a script (`assets/page/`), and the Cytoscape.js library (MIT, its licence in
the file). Cytoscape draws nodes and handles the pointer; the script draws the edges, on plain canvas: 20,000 elements
of a library's own would take seconds, and WebGL is often missing where people look at circuits, on remote desktops.
What is in the file of a circuit is text that others wrote: it stands in the page as JSON without a single `<`, the
script puts it there as text only, and the page's policy lets no other script run and nothing be fetched.

Edges travel as base64: per circuit a uint32 vector of flat indices, the strongest first, and a float32 vector of
scores.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import torch

from lightning_circuits.arguments import shortened
from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.drawing.columns import example_of, swapped_spans
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.evaluation.rows import CONTROLS, REFERENCES, Row
from lightning_circuits.files.atomic import require_place, write_atomically
from lightning_circuits.files.numbers import from_json, to_json
from lightning_circuits.measures import DEFAULT
from lightning_circuits.pages import see_page
from lightning_circuits.printable import printable

MAX_EDGES = 20_000
"""So many edges of a circuit are drawn at most, the strongest."""

ASSETS = Path(__file__).parent / "assets" / "page"

NO_BAND = {"faithfulness_low": None, "faithfulness_high": None}

CurveSource = str | os.PathLike[str] | Curve | Iterable[Row | Mapping[str, Any]]


@dataclass(frozen=True)
class CurvePoint:
    """How faithful a circuit of so many edges is, as the script wants it (see `evaluation.rows.Row`)."""

    ablation: str
    split: str
    edges: int
    faithfulness: float
    faithfulness_low: float
    faithfulness_high: float
    measure: str = DEFAULT


def save_page(
    circuit: Circuit,
    path: str | os.PathLike[str],
    other: Circuit | None = None,
    curve: CurveSource | None = None,
    other_curve: CurveSource | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Write a page that shows a circuit, or two of the same layout; gives its path. See `page_html` for the arguments.

    Raises:
        ValueError: a suffix other than `.html` or `.htm`, and whatever `page_html` refuses.
        FileNotFoundError, IsADirectoryError: the folder is not there, or the path is one; no curve is there.
    """
    path = Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"a page cannot be written to {path}: the suffix must be .html")
    require_place(path)
    write_atomically(path, page_html(circuit, other, curve, other_curve, names).encode(errors="replace"))
    return path


def page_html(
    circuit: Circuit,
    other: Circuit | None = None,
    curve: CurveSource | None = None,
    other_curve: CurveSource | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The HTML of a page on a circuit.

    Args:
        circuit: what to draw. Without scores, all edges are alike.
        other: a second circuit of the same layout, to compare it with.
        curve: the circuit's faithfulness at several sizes: a `curve.json`, the `Curve` in it, or rows of an evaluation
            (`evaluation.rows.Row`, or their `to_dict()`). Default: what was measured when the circuit was saved.
        other_curve: that of the second circuit.
        names: what the two circuits are called on the page. Default: their methods.

    Edges are ordered as the search ordered them: by |score| if the metadata's ``ranking`` is ``"absolute"``, else by
    score; and of a curve, the circuits ordered in that way are taken. Beyond `MAX_EDGES` edges the strongest are
    drawn, the page says so, and so does a warning.

    Raises:
        ValueError: circuits of different layouts; a score that is NaN or infinite; metadata that JSON cannot hold; a
            curve that cannot be read, or is of another ranking.
        FileNotFoundError: no such curve.
        TypeError: what is no circuit.
    """
    circuits = [circuit] if other is None else [circuit, other]
    for each in circuits:
        if not isinstance(each, Circuit):
            raise TypeError(f"a page shows a Circuit, such as scores.circuit(size=0.01), got {shortened(each)}")
    if other is not None:
        circuit.layout.require(other.layout, "the second circuit of the page")
    names = [printable(name, longest=80) for name in (_names(circuits) if names is None else names)]
    if len(names) != len(circuits):
        raise ValueError(f"{len(circuits)} circuits on the page, but {len(names)} names: {', '.join(names)}")
    layout = circuit.layout
    curves = (curve, other_curve)
    data = {
        "layout": layout.to_dict(),
        "n_edges": layout.n_edges,
        "example": next(filter(None, (list(example_of(each.metadata).items()) for each in circuits)), []),
        "circuits": [
            _packed(each, name, curves[i]) for i, (each, name) in enumerate(zip(circuits, names, strict=True))
        ],
    }
    library, script = _asset("cytoscape/cytoscape.min.js"), _asset("page.js")
    return Template(_asset("page.html")).substitute(
        title=html.escape(" and ".join(names)),
        style=_asset("page.css"),
        data=_inert(data),
        library=library,
        script=script,
        hashes=" ".join(f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (library, script)),
    )


def _packed(circuit: Circuit, name: str, curve: CurveSource | None) -> dict[str, Any]:
    """A circuit as the script wants it: flat indices with the strongest first, their scores, and what is known."""
    edges = circuit.members.nonzero()[:, 0]
    n_edges = len(edges)
    ranking = "absolute" if circuit.absolute else "signed"
    scores = None
    if circuit.scores is not None:
        scores = circuit.scores[edges].float()
        if not scores.isfinite().all():
            bad = int((~scores.isfinite()).nonzero()[0])
            edge = circuit.layout.edge_names(edges[bad : bad + 1])[0]
            raise ValueError(f"{name} cannot be drawn: the score of edge {edge} is {float(scores[bad])}")
        order = (scores if ranking == "signed" else scores.abs()).argsort(descending=True, stable=True)
        edges, scores = edges[order], scores[order]
    if n_edges > MAX_EDGES:
        which = "strongest" if scores is not None else "first (there are no scores)"
        warnings.warn(
            f"{name} has {n_edges:,} edges, too many to draw: the page shows the {which} {MAX_EDGES:,}. "
            "Choose a smaller circuit to see all of it.",
            stacklevel=2,
        )
        edges, scores = edges[:MAX_EDGES], None if scores is None else scores[:MAX_EDGES]
    return {
        "name": name,
        "n_edges": n_edges,
        "on_a_way": circuit.prune().n_edges,
        "swapped": sorted(swapped_spans(circuit)),
        "ranking": ranking,
        "scores_are": scores_are(circuit.metadata),
        "edges": _base64(edges.numpy().astype("<u4").tobytes()),
        "scores": None if scores is None else _base64(scores.numpy().astype("<f4").tobytes()),
        "node_scores": None if circuit.node_scores is None else [_known(x) for x in circuit.node_scores.tolist()],
        "metadata": circuit.metadata,
        "curve": _points(_measured(circuit.metadata.get("measured"), n_edges) if curve is None else curve, ranking),
    }


def _known(value: float) -> float | None:
    """A number, or None for one that is NaN or infinite, which JSON does not have. Six digits are plenty to read."""
    return float(f"{value:.6g}") if torch.tensor(value).isfinite() else None


def _names(circuits: Sequence[Circuit]) -> list[str]:
    names = [str(circuit.metadata.get("method", "circuit")) for circuit in circuits]
    if len(set(names)) < len(names):
        names = [f"{name} ({side})" for name, side in zip(names, ("left", "right"), strict=True)]
    return names


def _measured(rows: Any, n_edges: int) -> list[dict[str, Any]]:
    """The rows of what stands in a circuit's metadata, which in a file of another tool may be anything."""
    found = []
    for row in rows if isinstance(rows, list) else []:
        try:
            _point(row)
        except ValueError:
            continue
        # A circuit is often saved pruned, and under interchange ablation that is as faithful as what was measured.
        pruned = row["ablation"] == "interchange" and row.get("edges_pruned") == n_edges
        found.append({**row, "edges": n_edges} if pruned else row)
    return found


def _points(curve: CurveSource, ranking: str) -> list[dict[str, Any]]:
    """The rows of a curve that say how faithful a size is: of this ranking, and without its circuits' controls."""
    source = str(curve) if isinstance(curve, str | os.PathLike) else "the curve"
    if isinstance(curve, str | os.PathLike):
        curve = Curve.load(Path(curve))
    points, others = [], set()
    for number, row in enumerate(curve.rows if isinstance(curve, Curve) else curve):
        values = row.to_dict() if isinstance(row, Row) else row
        try:
            point = _point(values)
        except ValueError as error:
            raise ValueError(f"{source}: row {number} says no circuit's faithfulness: {error}") from error
        name, of = str(values.get("circuit")), values.get("ranking")
        if name in REFERENCES or name.endswith(CONTROLS) or math.isnan(point.faithfulness):
            continue
        if of in (None, ranking):
            points.append(to_json(vars(point)))
        else:
            others.add(printable(of, longest=80))
    if others and not points:
        raise ValueError(
            f"{source} is of circuits by {' and '.join(sorted(others))} score, and the page takes edges by {ranking} "
            f'score: "lightning-circuits evaluate --rankings [{ranking}]" measures those '
            f"{see_page('reading-the-numbers', 'Traps')}"
        )
    return points


def _point(row: Any) -> CurvePoint:
    """A row of which the script needs this much; its band may be missing."""
    return from_json(CurvePoint, NO_BAND | row if isinstance(row, dict) else row)


def _inert(data: Any) -> str:
    """JSON that a browser reads as nothing but text: no `<` can end the script it stands in, nor begin a comment."""
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the page cannot be made: the metadata is not plain JSON data: {error}") from error
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").strip()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
