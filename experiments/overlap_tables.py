"""The tables of `faithfulness_and_overlap.py`: plain numbers in, Markdown out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages import markdown, number, with_interval

from lightning_circuits.circuit import ComparedBy
from lightning_circuits.evaluation.overlap import Null, Overlap
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.evaluation.transfer import EXACT_NULLS, RANDOM, SHARED, Transfer, match_of
from lightning_circuits.measures import DEFAULT

SHARES = (0.005, 0.01, 0.02, 0.03, 0.05)
"""Sizes of the circuits that are judged, as shares of the edges."""
SHOWN = (0.01, 0.02, 0.03)
"""Those in the table; random circuits, and those of the second seed, are judged at no others."""
COMPARED: dict[str, tuple[ComparedBy, Null]] = {
    "edges, size": ("edges", "size"),
    "edges, layer": ("edges", "layer"),
    "nodes, layer": ("nodes", "layer"),
}
"""What is compared with exact patching, and the null that it is held against."""


@dataclass(frozen=True)
class Judged:
    """What was measured of a task.

    Args:
        measure: what f is of.
        rows: by method, for each seed: of the full model, the empty circuit, and of circuits of `SHARES`.
        smallest: by method, the smallest circuit that is faithful enough; None if there is none.
        shared: by method, for each seed, what it shares with exact patching, by what is held against which null.
    """

    measure: str
    rows: dict[str, list[list[Row]]]
    smallest: dict[str, Row | None]
    shared: dict[str, list[dict[str, Overlap]]]

    @property
    def full(self) -> Row:
        """Of the full model."""
        return self._either[0]

    @property
    def empty(self) -> Row:
        """Of the empty circuit."""
        return self._either[1]

    @property
    def _either(self) -> list[Row]:
        return next(rows for seeds in self.rows.values() for rows in seeds)  # the same in all of them

    def at(self, method: str, share: float) -> list[Row]:
        """The circuits of a size, one for each seed; none if the method has no circuit as large."""
        return [row for rows in self.rows.get(method, []) for row in rows if row.circuit == f"{share:g}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "measure": self.measure,
            "rows": {
                method: [[row.to_dict() for row in rows] for rows in seeds] for method, seeds in self.rows.items()
            },
            "smallest": {method: row and row.to_dict() for method, row in self.smallest.items()},
            "shared": {
                method: [{name: each.to_dict() for name, each in seed.items()} for seed in seeds]
                for method, seeds in self.shared.items()
            },
        }


def tables(tasks: Mapping[str, Judged], transfers: Mapping[str, Transfer], args: argparse.Namespace) -> dict[str, str]:
    """All tables by their headings, each with the words that say what it was measured on."""
    others = [f"of {name} by the {judged.measure}" for name, judged in tasks.items() if judged.measure != DEFAULT]
    by = ", ".join([f"f by the {DEFAULT}", *others]).replace("_", " ")
    on = f"Interchange ablation, {args.prompts} test prompts a task, data of seed 0; intervals: 95 %, bootstrap"
    trained = (
        f"Attribution saw {args.pairs} training pairs (behind the slash, {args.pairs} others), exact patching "
        f"{8 * args.patched}, edge pruning {args.train} in {args.steps} steps of 8, seed 0"
    )
    made = {
        "Faithfulness": (
            faithfulness_rows(tasks),
            "f [interval] / f of the second seed, accuracy, edges after pruning; behind a task, the full model's "
            f"accuracy; empty: not run. {by}. {trained}. {on}.",
        ),
        "Smallest circuits": (
            smallest_rows(tasks),
            f"Edges (after pruning), f [interval] of the smallest circuit of which the lower end clears .85, by "
            f"bisection. {by}. {trained}. {on}.",
        ),
    }
    if by_other := [name for name, judged in tasks.items() if judged.measure != DEFAULT]:
        words = f"f by the logit difference of the same circuits, which were found by the other measure. {on}."
        made["By the logit difference"] = other_measure_rows({name: tasks[name] for name in by_other}), words
    if any(judged.shared for judged in tasks.values()):
        made["Overlap with exact patching"] = (
            overlap_rows(tasks, args.compared),
            f"Circuits of {args.compared:.1%} of the edges, before pruning; f and IoU with the circuit of exact "
            "patching, and what random circuits have in common in the mean: of as many edges; of as many from each "
            f"layer to each layer; of as many nodes in each layer. {by}. {trained}. {on}.",
        )
    for method, found in transfers.items():
        n = found.row(found.data[0], found.circuits[0]).edges
        of = f"{method}, circuits of {args.share:.0%} of the edges ({n:,}, before pruning), seed 0"
        made[f"Transfer of {method}"] = (
            matrix_rows(found),
            f"f [interval] and accuracy, by the logit difference for all. {of}. Random edges: as many; random paths: "
            f"as many as the task's own circuit has after pruning. {on}.",
        )
        made[f"Pairs of {method}"] = (
            pair_rows(found),
            "IoU of nodes and edges (what circuits of as many from each layer have by chance: mean, 95 % interval), "
            f"and f of either circuit on the task of the other. {of}. {on}.",
        )
        made[f"Correlation of {method}"] = (
            correlation_rows(found),
            "Spearman's rho over all pairs of a circuit and the task of another, of f with the IoU and with how many "
            f"standard deviations it lies above the null. {of}. {on}.",
        )
    return {heading: f"{markdown(rows)}\n\n{words}" for heading, (rows, words) in made.items()}


# ---- cells -----------------------------------------------------------------------------------------------------------


def interval(row: Row) -> str:
    return with_interval(row.faithfulness, row.faithfulness_low, row.faithfulness_high, between="..")


def with_accuracy(row: Row) -> str:
    return f"{interval(row)}, {row.accuracy:.0%}"


# ---- circuits of one task --------------------------------------------------------------------------------------------


def faithfulness_rows(tasks: Mapping[str, Judged]) -> list[dict[str, str]]:
    """A row for each task and size, a column for each method."""
    methods = {method: None for judged in tasks.values() for method in judged.rows}

    def cell(rows: Sequence[Row]) -> str:
        if not rows:
            return ""
        first, *others = rows
        also = "".join(f" / {number(row.faithfulness)}" for row in others)
        return f"{interval(first)}{also}, {first.accuracy:.0%}, {first.edges_pruned:,}"

    return [
        {
            "task": f"{name} ({judged.full.accuracy:.0%})",
            "edges": f"{share:.0%}",
            **{method: cell(judged.at(method, share)) for method in methods},
        }
        for name, judged in tasks.items()
        for share in SHOWN
    ]


def smallest_rows(tasks: Mapping[str, Judged]) -> list[dict[str, str]]:
    """A row for each task, a column for each method."""
    methods = {method: None for judged in tasks.values() for method in judged.smallest}

    def cell(judged: Judged, method: str) -> str:
        if method not in judged.smallest:
            return ""
        row = judged.smallest[method]
        return "none up to 5%" if row is None else f"{row.edges:,} ({row.edges_pruned:,}), {interval(row)}"

    return [{"task": name, **{method: cell(judged, method) for method in methods}} for name, judged in tasks.items()]


def other_measure_rows(tasks: Mapping[str, Judged]) -> list[dict[str, str]]:
    """A row for each task and size, a column for each method: f by the logit difference, of seed 0."""

    def f(judged: Judged, method: str, share: float) -> str:
        full, empty = judged.full, judged.empty
        return "".join(
            number((row.logit_difference - empty.logit_difference) / (full.logit_difference - empty.logit_difference))
            for row in judged.at(method, share)[:1]
        )

    return [
        {"task": name, "edges": f"{share:.0%}", **{method: f(judged, method, share) for method in judged.rows}}
        for name, judged in tasks.items()
        for share in SHOWN
    ]


def overlap_rows(tasks: Mapping[str, Judged], share: float) -> list[dict[str, str]]:
    """A row for each task and method, of circuits of a share of the edges."""

    def each(values: Iterable[float]) -> str:
        return " / ".join(map(number, values))

    rows = []
    for name, judged in tasks.items():
        for exact in judged.at("exact patching", share):
            rows.append({"task": name, "method": "exact patching", "f": number(exact.faithfulness)})
        for method, seeds in judged.shared.items():
            size, layer, nodes = ([seed[of] for seed in seeds] for of in COMPARED)
            rows.append(
                {
                    "task": name,
                    "method": method,
                    "f": each(row.faithfulness for row in judged.at(method, share)),
                    "edges: IoU": each(found.iou for found in size),
                    "by chance, size": number(size[0].expected),
                    "by chance, layer": number(layer[0].expected),
                    "nodes: IoU": each(found.iou for found in nodes),
                    "by chance, nodes by layer": number(nodes[0].expected),
                }
            )
    return [{heading: row.get(heading, "") for heading in rows[-1]} for row in rows]


# ---- circuits on each other's tasks ----------------------------------------------------------------------------------


def matrix_rows(found: Transfer) -> list[dict[str, str]]:
    """A row for the data of each task, a column for each circuit, the random one, and the match of the task's own."""
    return [
        {
            "data": data,
            **{circuit: with_accuracy(found.row(data, circuit)) for circuit in found.circuits},
            "random edges": with_accuracy(found.row(data, RANDOM)),
            "random paths": with_accuracy(found.row(data, match_of(data))),
        }
        for data in found.data
    ]


def pair_rows(found: Transfer) -> list[dict[str, str]]:
    """A row for each two circuits, those that share most first."""
    nodes, edges = (
        {
            (part.a, part.b): part.overlap
            for part in found.shared
            if (part.overlap.of, part.overlap.null) == (of, "layer")
        }
        for of in ("nodes", "edges")
    )

    def cell(overlap: Overlap) -> str:
        chance = f"{number(overlap.expected)}, {number(overlap.low)}..{number(overlap.high)}"
        return f"{number(overlap.iou)} ({chance})"

    return [
        {
            "circuits": f"{a}, {b}",
            "nodes: IoU (layer null)": cell(nodes[a, b]),
            "edges: IoU (layer null)": cell(edges[a, b]),
            "f of the first on the second": interval(found.row(b, a)),
            "f of the second on the first": interval(found.row(a, b)),
        }
        for a, b in sorted(nodes, key=lambda pair: -nodes[pair].iou)
    ]


def correlation_rows(found: Transfer) -> list[dict[str, str]]:
    """Whether what circuits share foretells what they do for each other, for nodes and edges and each null."""
    return [
        {
            "shared": of,
            "null": null,
            "pairs": str(each.pairs),
            "rho of f and IoU": number(each.iou),
            "rho of f and z": number(each.z),
        }
        for of in SHARED
        for null in EXACT_NULLS
        for each in [found.correlation(found.ablations[0], of, null)]
    ]
