"""The tables of `sequence_continuation`, in Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from stages import markdown, number, with_interval

from lightning_circuits.evaluation.metrics.ratio import beside_the_model
from lightning_circuits.evaluation.overlap import Overlap
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.evaluation.transfer import match_of

METHODS = "node pruning", "EAP-IG", "edge pruning"
ORDERS = "backward", "forward", *(f"random {seed}" for seed in range(8))
"""Of node pruning's first sweep. Of so many as are asked for, circuits of the first are compared with others."""
MOST = 6
"""So many heads a row of a table names."""
_CELLS = "Columns are circuits: f = (F(C) - F(empty)) / (F(M) - F(empty)) with its 95 % interval, then accuracy."
_PATHS = (
    "`random`: edges drawn evenly, as many as the largest circuit has; `matched`: the mean f of circuits of random \
paths, each with as many edges after pruning as one of the circuits."
)
CONTROLS = {
    "node pruning": f"{_CELLS} `matched`: the mean f of circuits with as many random heads of each layer as one of the "
    "circuits, and its MLPs.",
    "EAP-IG": f"{_CELLS} {_PATHS}",
    "edge pruning": f"{_CELLS} {_PATHS}",
}
"""What stands in a matrix."""
MISSING = "Edge pruning has not been run for all tasks."


Matrix = dict[str, dict[str, Row]]
"""The row of each circuit and control, by the names of data and of the column."""
Parts = dict[tuple[str, str], tuple[Overlap, Overlap]]
"""What two circuits have in common, nodes and edges, by the names of both."""


@dataclass(frozen=True)
class Removed:
    """What is left of F(M) on some data when heads are removed from the model.

    ``model``: F(M), and how often it is right, ``right``. ``share``: F without the shared heads, over F(M), with its 95
    % bootstrap ``interval`` over all ``prompts``, and how often the model is right without them, ``still_right``.
    ``drawn``: the mean share without random heads, with the interval that holds 95 % of the draws, on the first
    ``few`` prompts; ``few_share`` is that of the shared heads there, and ``p`` how seldom random heads take as much:
    (1 + draws that do) / (1 + draws).
    """

    model: float
    right: float
    prompts: int
    share: float
    interval: tuple[float, float]
    still_right: float
    few: int
    few_share: float
    drawn: float
    drawn_interval: tuple[float, float]
    p: float

    @classmethod
    def of(cls, shared: Mapping[str, Any], drawn: Mapping[str, Any]) -> Removed:
        """From the values of stages: of the model, without the shared heads, and then without each random set."""
        (full, without), right = torch.tensor(shared["values"]), torch.tensor(shared["right"]).double().mean(1)
        beside = {name: float(value) for name, value in beside_the_model(without, full).items()}
        few = torch.tensor(drawn["values"]).mean(1)
        shares = few[2:] / few[0]
        low, high = shares.quantile(torch.tensor([0.025, 0.975])).tolist()
        return cls(
            model=float(full.mean()),
            right=float(right[0]),
            prompts=len(full),
            share=beside["ratio"],
            interval=(beside["ratio_low"], beside["ratio_high"]),
            still_right=float(right[1]),
            few=len(drawn["values"][0]),
            few_share=float(few[1] / few[0]),
            drawn=float(shares.mean()),
            drawn_interval=(low, high),
            p=(1 + int((shares <= few[1] / few[0]).sum())) / (1 + len(shares)),
        )


def tables(
    results: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Sequence[Row]]],
    orders: Mapping[str, Sequence[Overlap]],
    removal: Mapping[str, Removed],
    matrices: Mapping[str, Matrix],
    shared: Mapping[str, Parts],
    args: argparse.Namespace,
) -> dict[str, str]:
    """By their headings, each with the words that say what it was measured on.

    Args:
        results: plain data, as they are kept.
        rows: of each task and method.
        orders: of each task, what the circuits of each two orders share.
        removal: of all data.
        matrices: of the methods, circuits on each other's data.
        shared: of the methods, what each two circuits have in common.
        args: of the command line.
    """
    test = f"Interchange ablation, logit difference, test split, {args.prompts} prompts, seed 0"
    made = {
        "The circuits": circuits_table(rows)
        + f"\n\n{test}. Node pruning: {args.pruned} training pairs, threshold {args.threshold:g}, one circuit for each "
        f"order of the first sweep; EAP-IG: 5 steps, {args.pairs} pairs a seed; edge pruning: {args.steps} steps of 4 "
        "pairs, started from EAP-IG. Edges before and after pruning; brackets hold 95 % bootstrap intervals over "
        "prompts.",
        "What depends on the order": orders_table(orders, args)
        + "\n\nNodes of node-pruned circuits whose first sweeps go other ways. By chance: as many nodes of each layer, "
        "drawn anew for both.",
        "The heads that circuits share": shared_table(results)
        + "\n\nHeads in the circuits of node pruning (backward), by in how many of the tasks' circuits they are; the "
        "shared heads, which are removed below, are those of the first rows: " + ", ".join(results["shared"]) + ".",
        "Without the shared heads": removal_table(removal)
        + f"\n\nThe heads are removed from the whole model. {test}; random heads: {args.draws} draws of as many heads "
        f"of each layer, on the first {args.drawn_on} prompts, as is p. Shares of the model's F; brackets hold a 95 % "
        "interval: over prompts for the shared heads, over draws for random ones.",
        "Heads that a circuit cannot do without": importance_table(results)
        + f"\n\nShare of F(M) that is lost when the node leaves the circuit of node pruning (backward), one at a time; "
        f"interchange ablation, logit difference, the first {args.drawn_on} test prompts, seed 0.",
        "What heads write by their weights": ov_table(results)
        + "\n\nThe share of members for which a head that looks at a member alone has the next member (next) or the "
        "member itself (copy) among the 5 most probable tokens. No prompts, no ablation.",
        "What the model says": texts_table(results)
        + f"\n\nGreedy, at most {args.tokens} tokens, after the first test prompt of each data. Removed heads carry "
        "their mean over 8 training prompts of each data; the random heads are those of the first draw.",
    }
    for method in METHODS:
        there = method in matrices
        made[f"On each other's data: {method}"] = (
            f"{matrix_table(matrices[method])}\n\n{CONTROLS[method]} {test}." if there else MISSING
        )
        made[f"What the circuits share: {method}"] = (
            f"{overlap_table(shared[method])}\n\nIoU, and by chance: its mean and 95 % interval for as many nodes "
            "(edges) of each layer, drawn anew for both circuits."
            if there
            else MISSING
        )
    return made


def circuits_table(rows: Mapping[str, Mapping[str, Sequence[Row]]]) -> str:
    lines = []
    for task, methods in rows.items():
        for method, (full, *circuits) in methods.items():
            for row in circuits:
                variant = ORDERS if method == "node pruning" else ("seed 0", "seed 1")
                lines.append(
                    {
                        "task (F(M), accuracy)": f"{task} ({full.value:.2f}, {full.accuracy:.0%})",
                        "method": f"{method}, {variant[int(row.circuit)]}",
                        "edges": f"{row.edges:,} / {row.edges_pruned:,}",
                        "F(C)/F(M)": with_interval(row.ratio, row.ratio_low, row.ratio_high),
                        "f": with_interval(row.faithfulness, row.faithfulness_low, row.faithfulness_high),
                        "accuracy": f"{row.accuracy:.0%}",
                    }
                )
    return markdown(lines)


def orders_table(orders: Mapping[str, Sequence[Overlap]], args: argparse.Namespace) -> str:
    pairs = [" / ".join(pair) for pair in combinations(ORDERS[: args.orders], 2)]
    return markdown(
        [
            {"task": task}
            | {
                pair: f"{of.in_a} and {of.in_b} nodes: {beside_chance(of)}"
                for pair, of in zip(pairs, found, strict=True)
            }
            for task, found in orders.items()
        ]
    )


def shared_table(results: Mapping[str, Any]) -> str:
    counts = results["heads"]
    return markdown(
        [
            {"in so many circuits": str(n), "heads": ", ".join(name for name, count in counts.items() if count == n)}
            for n in sorted(set(counts.values()), reverse=True)
        ]
    )


def removal_table(removal: Mapping[str, Removed]) -> str:
    return markdown(
        [
            {
                "data": data,
                "F(M), accuracy": f"{each.model:.2f}, {each.right:.0%}",
                "without the shared heads": f"{with_interval(each.share, *each.interval)}, {each.still_right:.0%}",
                "there, on fewer prompts": f"{each.few_share:.2f}",
                "without random heads": with_interval(each.drawn, *each.drawn_interval),
                "p": f"{each.p:.2f}",
            }
            for data, each in removal.items()
        ]
    )


def importance_table(results: Mapping[str, Any]) -> str:
    def first(found: Mapping[str, float], head: bool) -> str:
        of_kind = sorted((lost, name) for name, lost in found.items() if (".h" in name) == head)
        return ", ".join(f"{name} {lost:.2f}" for lost, name in of_kind[: -MOST - 1 : -1])

    return markdown(
        [
            {"task": task, "heads": first(found, True), "MLPs": first(found, False)}
            for task, found in results["importance"].items()
        ]
    )


def ov_table(results: Mapping[str, Any]) -> str:
    def first(scores: Sequence[Sequence[float]]) -> str:
        flat = sorted(
            ((-score, layer, head) for layer, heads in enumerate(scores) for head, score in enumerate(heads) if score)
        )
        return ", ".join(f"a{layer}.h{head} {-score:.0%}" for score, layer, head in flat[:MOST])

    def of_shared(scores: Sequence[Sequence[float]]) -> str:
        places = [(name, *map(int, name[1:].split(".h"))) for name in results["shared"]]
        found = sorted(((-scores[layer][head], name) for name, layer, head in places if scores[layer][head]))
        return ", ".join(f"{name} {-score:.0%}" for score, name in found[:MOST]) or "none above 0"

    return markdown(
        [
            {
                "members": f"{task} ({len(found['members'])})",
                "best next": first(found["next"]) or "none above 0",
                "best copy": first(found["copy"]) or "none above 0",
                "shared heads, next": of_shared(found["next"]),
                "shared heads, copy": of_shared(found["copy"]),
            }
            for task, found in results["ov"].items()
        ]
    )


def texts_table(results: Mapping[str, Any]) -> str:
    return markdown(
        [
            {"data": data} | {name: f"`{' '.join(text.split())}`".replace("|", "\\|") for name, text in said.items()}
            for data, said in results["texts"].items()
        ]
    )


def matrix_table(found: Matrix) -> str:
    lines = []
    for data, of in found.items():
        cells = {}
        for name in (*found, *(["random"] if "random" in of else [])):
            row = of[name]
            cells[name] = (
                f"{with_interval(row.faithfulness, row.faithfulness_low, row.faithfulness_high)}, {row.accuracy:.0%}"
            )
        matches = [of[match_of(name)].faithfulness for name in found]
        lines.append({"data": data, **cells, "matched": number(sum(matches) / len(matches))})
    return markdown(lines)


def overlap_table(found: Parts) -> str:
    return markdown(
        [
            {"circuits": f"{a}, {b}", "nodes": beside_chance(nodes), "edges": beside_chance(edges)}
            for (a, b), (nodes, edges) in found.items()
        ]
    )


def beside_chance(found: Overlap) -> str:
    return f"{found.iou:.2f}; by chance {with_interval(found.expected, found.low, found.high)}"
