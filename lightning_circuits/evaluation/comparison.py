"""Several curves of one model side by side: which of them compare, what a reader should know, and what is best.

Curves are compared if they are of one model, one split, one measure, and one ablation at least. Everything else that
may make a comparison unfair (other prompts, other sizes) is a note (`comparable`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from lightning_circuits.evaluation.curve import RANDOM, Curve, CurveRow
from lightning_circuits.measures import by_measure
from lightning_circuits.pages import see_page

Shown = Literal["faithfulness", "kl", "accuracy"]
"""What is drawn against size."""

Size = Literal["share", "edges", "token-edges"]
"""How the size of a circuit is counted: as a share of the edges, as their number, or each once for every token at which
it is open (`Circuit.token_edges`)."""


def size_of(row: CurveRow, x: Size) -> float:
    """How large a circuit is before pruning, counted so."""
    return {"share": row.size, "edges": row.edges, "token-edges": row.token_edges}[x]


class CurveLine(NamedTuple):
    """One line of a figure or a table: a curve, and one of its rankings."""

    curve: Curve
    ranking: str


def lines_of(curves: Mapping[str, Curve]) -> dict[str, CurveLine]:
    """Every line by its name: that of its curve, and the ranking where the curve has several.

    Random circuits are the same for all curves of a model in the same spans, so one line, at the end, stands for all.
    """
    lines: dict[str, CurveLine] = {}
    for name, curve in curves.items():
        own = [ranking for ranking in curve.rankings if ranking != RANDOM]
        for ranking in own:
            lines[distinct(f"{name}, {ranking}" if len(own) > 1 else name, lines)] = CurveLine(curve, ranking)
    random: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves.values():
        if RANDOM in curve.rankings:
            random.setdefault(spans_of(curve), []).append(curve)
    for spans, alike in random.items():
        name = "random edges in spans" if spans and len(random) > 1 else "random edges"
        lines[distinct(name, lines)] = CurveLine(max(alike, key=lambda curve: len(curve.ablations)), RANDOM)
    return lines


def distinct(name: str, taken: Collection[str]) -> str:
    """A name that is not taken: a method may be called as something else is, and hides nothing."""
    return next(tried for tried in (name, *(f"{name} ({i})" for i in range(2, len(taken) + 3))) if tried not in taken)


# ---- what may be compared --------------------------------------------------------------------------------------------


def comparable(curves: Mapping[str, Curve], by: Size = "share") -> list[str]:
    """What a reader should know about a comparison, a sentence each.

    Args:
        curves: by name.
        by: how sizes are to be counted.

    Raises:
        ValueError: different models, or counts of their edges; edges in different spans, unless by ``token-edges``;
            by these, and a file of a time when they were not counted; faithfulness of different measures; no ablation
            in common.
    """
    measures = {name: curve.measure for name, curve in curves.items()}
    if len(set(measures.values())) > 1:
        told = "; ".join(f"{name}: {measure}" for name, measure in measures.items())
        raise ValueError(
            f"the faithfulness of these curves is of different measures, and one says nothing about another: {told}. "
            "Name files of one measure (beside curve.json, that by KL is curve-kl.json), or measure again, "
            f"'lightning-circuits evaluate --measure {next(iter(measures.values()))}' "
            f"{see_page('reading-the-numbers', 'Traps')}"
        )
    spans = {name: spans_of(curve) for name, curve in curves.items()}
    told = "; ".join(f"{name}: {', '.join(names) or 'none'}" for name, names in spans.items())
    if len(set(spans.values())) > 1 and by != "token-edges":
        one = "an edge" if by == "edges" else "a share"
        raise ValueError(
            f"the edges of these curves are in different spans, and {one} of one is none of the others: {told}. "
            "Compare them by token-edges (--x token-edges), or judge all in the same spans (circuit.in_spans, "
            "circuit.without_spans)"
        )
    if by == "token-edges" and (
        old := [name for name, curve in curves.items() if any(math.isnan(row.token_edges) for row in curve.rows)]
    ):
        raise ValueError(f"token-edges were not counted yet when {old[0]} was measured: evaluate its circuit again")
    models = {
        name: (str(curve.metadata.get("model_hash", curve.model)), curve.n_edges // max(len(spans[name]), 1))
        for name, curve in curves.items()
    }
    if len(set(models.values())) > 1:
        told = "; ".join(f"{name}: {curve.model}, {curve.n_edges:,} edges" for name, curve in curves.items())
        raise ValueError(
            f"curves of different models, or of edges counted in different ways, do not compare: {told} "
            f"{see_page('own-model', 'Keys and values')}"
        )
    if not (shared := _shared_ablations(curves)):
        told = "; ".join(f"{name}: {', '.join(curve.ablations)}" for name, curve in curves.items())
        raise ValueError(f"the curves were measured under different ablations, none of them in common ({told})")

    notes = []
    if len(set(spans.values())) > 1:
        notes.append(f"different spans: {told}; shares and areas are of the edges of each")
    for name, curve in curves.items():
        if left_out := [ablation for ablation in curve.ablations if ablation not in shared]:
            notes.append(f"{name} was measured under {', '.join(left_out)} ablation too, not all others were: left out")
    aspects: dict[str, dict[str, Any]] = {
        "different models by name": {name: curve.model for name, curve in curves.items()},
        "different numbers of prompts": {name: curve.prompts for name, curve in curves.items()},
        "different data": {name: _data(curve, curves) for name, curve in curves.items()},
        "different sizes, so that CPR, CMD and log-x area are over different ranges": {
            name: ", ".join(f"{100 * share:.3g}%" for share in curve.shares) for name, curve in curves.items()
        },
    }
    for aspect, values in aspects.items():
        if len(set(values.values())) > 1:
            notes.append(f"{aspect}: {'; '.join(f'{name}: {value}' for name, value in values.items())}")
    return notes


def shared_part(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves without what was measured under an ablation that not all of them have."""
    shared = _shared_ablations(curves)
    return {
        name: replace(
            curve,
            rows=[row for row in curve.rows if row.ablation in shared],
            summary=[areas for areas in curve.summary if areas.ablation in shared],
        )
        for name, curve in curves.items()
    }


def measured_on(curves: Mapping[str, Curve]) -> str:
    """The split, the prompts, and the measure if it is not the logit difference, in words."""
    prompts, first = sorted({curve.prompts for curve in curves.values()}), next(iter(curves.values()))
    said = f"{first.split} split, {' or '.join(f'{n:,}' for n in prompts)} prompts"
    return by_measure(said, first.measure, ", f by ")


def _shared_ablations(curves: Mapping[str, Curve]) -> list[str]:
    first = next(iter(curves.values()))
    return [name for name in first.ablations if all(name in curve.ablations for curve in curves.values())]


def spans_of(curve: Curve) -> tuple[str, ...]:
    """The spans that a curve's metadata say its edges are in; in a file they may be anything."""
    spans = curve.metadata.get("spans")
    return tuple(map(str, spans)) if isinstance(spans, list) else ()


def _data(curve: Curve, curves: Mapping[str, Curve]) -> str:
    """What this curve's data have that is not the same in all."""
    descriptions = [_described(other) for other in curves.values()]
    mine = _described(curve)
    keys = sorted({key for one in descriptions for key in one})
    differ = [key for key in keys if any(one.get(key) != descriptions[0].get(key) for one in descriptions)]
    return ", ".join(f"{key} {mine.get(key)}" for key in differ)


def _described(curve: Curve) -> dict[str, Any]:
    """What a curve's metadata say of its data; in a file it may be anything."""
    data = curve.metadata.get("data")
    return data if isinstance(data, dict) else {}


# ---- what is best ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParetoPoint:
    """A circuit of a curve, and how far it is from the full model.

    ``label``: the line's name. ``size``: by the count that is asked for. ``distance``: |1 - f|, KL, or 1 - accuracy.
    ``front``: whether no circuit as small or smaller is as near.
    """

    label: str
    method: str
    size: float
    distance: float
    front: bool
    row: CurveRow

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the row's own beside it."""
        own = {name: value for name, value in vars(self).items() if name not in ("size", "row")}
        return {**own, **self.row.to_dict()}


def pareto_points(curves: Mapping[str, Curve], ablation: str, x: Size, y: Shown) -> list[ParetoPoint]:
    """Every circuit of every curve as a point: its size before pruning and its distance from the full model.

    The empty circuit is none of them, but nothing that is no nearer than it is on the front. Random circuits are left
    out.
    """
    points = [
        ParetoPoint(name, line.curve.method, size_of(row, x), _distance(row, y), False, row)
        for name, line in lines_of(curves).items()
        if line.ranking != RANDOM
        for row in line.curve.points(ablation, line.ranking)
        if not math.isnan(getattr(row, y))
    ]
    empty = [curve.reference(ablation, "empty") for curve in curves.values()]
    nearest = min((_distance(row, y) for row in empty if not math.isnan(getattr(row, y))), default=math.inf)
    for i in sorted(range(len(points)), key=lambda i: (points[i].size, points[i].distance)):
        if points[i].distance < nearest:
            nearest, points[i] = points[i].distance, replace(points[i], front=True)
    return points


def _distance(row: CurveRow, y: Shown) -> float:
    return row.kl if y == "kl" else abs(1 - float(getattr(row, y)))
