"""Do numerals, months and letters go by one circuit? "Towards Interpretable Sequence Continuation" (2311.04131).

    python experiments/sequence_continuation.py --write

For numerals, number words, months, weekdays and letters, circuits by node pruning (in several orders), by EAP-IG and by
edge pruning, judged by exact ablation on test prompts: what they share beside what random ones share, what each does on
the data of the others, and which heads they cannot do without. Then the heads that the circuits share are removed from
the whole model, against as many random heads of the same layers: on the sequences, on steps of ten, and on two tasks
that have nothing to do with sequences. Next and copy scores say what heads write by their weights alone, generated
texts what the model says without them.

Edge pruning, which takes longer than all the rest, comes last; tables and figures are written before it, and anew after
each task. `--steps 0` leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations
from typing import Any

import torch
from sequence_claims import claims
from sequence_figures import heads_figure, matrices_figure, removal_figure
from sequence_tables import METHODS, Matrix, Parts, Removed, tables
from sequence_tasks import ASIDE, INTERCHANGE, KINDS, QUICK_ASIDE, QUICK_KINDS, Task, judged_by_nodes
from stages import QUICK_MODEL, Run, located, markdown, options

from lightning_circuits import Circuit
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.evaluation.completeness import cut_edges
from lightning_circuits.evaluation.generation import generate
from lightning_circuits.evaluation.overlap import overlap
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.evaluation.transfer import match_of, transfer
from lightning_circuits.files.numbers import from_json
from lightning_circuits.layout import Layout
from lightning_circuits.models.loading import load_model, load_tokenizer
from lightning_circuits.search.node_pruning import lower_of_both_nodes

QUICK = {
    "train": 24,
    "pairs": 8,
    "pruned": 8,
    "orders": 3,
    "prompts": 8,
    "drawn_on": 4,
    "draws": 5,
    "share": 0.2,
    "steps": 4,
    "tokens": 2,
}


def main() -> None:
    args = options(
        __doc__,
        QUICK,
        train=200,
        pairs=24,
        pruned=8,
        prompts=64,
        orders=2,
        drawn_on=16,
        draws=50,
        threshold=0.8,
        share=0.02,
        steps=100,
        tokens=12,
    )
    run, quick = Run(args), args.model == QUICK_MODEL
    language_model = load_model(located(args.model))
    tasks, aside = (
        [Task(name, kind, language_model, args, run) for name, kind in kinds.items()]
        for kinds in ((QUICK_KINDS, QUICK_ASIDE) if quick else (KINDS, ASIDE))
    )
    for trained in range(len(tasks) + 1 if args.steps else 1):
        report(run, args, tasks, aside, trained)


def crossed(run: Run, method: str, tasks: Sequence[Task]) -> Matrix:
    """The circuits of a method and their controls on each other's data, a row for the data of each task.

    The control of a circuit of nodes has as many random heads of each layer, and the same MLPs; of one of edges, as
    many edges on random paths.
    """
    circuits, model = {task.name: task.circuit(method) for task in tasks}, tasks[0].model

    def measured(task: Task) -> list[Any]:
        if method == "node pruning":
            matched = {match_of(name): like(circuit) for name, circuit in circuits.items()}
            return [row.to_dict() for row in judged_by_nodes(model, task.test, circuits | matched)]
        found = transfer(model, circuits, {task.name: task.test}, [INTERCHANGE], "test")
        return [row.to_dict() for row in found.rows]

    kept = {task.name: run.data(f"{task.name}-{method}-crossed", partial(measured, task)) for task in tasks}
    return {data: {row["circuit"]: from_json(Row, row) for row in rows} for data, rows in kept.items()}


def shared_parts(circuits: Mapping[str, Circuit]) -> Parts:
    """What each two circuits have in common, nodes and edges, against as many of each layer."""
    return {
        (a, b): (
            overlap(circuits[a], circuits[b], "nodes", "layer"),
            overlap(circuits[a], circuits[b], "edges", "layer"),
        )
        for a, b in combinations(circuits, 2)
    }


# ---- the shared heads ------------------------------------------------------------------------------------------------


def times_found(tasks: Sequence[Task]) -> dict[str, int]:
    """Of every head in a node-pruned circuit of some task, in how many it is."""
    counts = torch.stack([task.circuit("node pruning").nodes[:-1] for task in tasks]).sum(0).tolist()
    names = tasks[0].model.layout.writer_names
    return {name: count for name, count in zip(names, counts, strict=True) if count and ".h" in name}


def shared_heads(counts: Mapping[str, int], n_tasks: int) -> list[str]:
    """The heads of all circuits; if those are fewer than three, of all but one, and so on."""
    for least in range(n_tasks, 0, -1):
        if len(found := [name for name, count in counts.items() if count >= least]) >= 3:
            return found
    return list(counts)


def drawn_like(heads: Sequence[int], layout: Layout, draws: int) -> list[list[int]]:
    """Sets of random heads, of every layer as many as there are among some heads, and others where it has enough."""
    generator = torch.Generator().manual_seed(0)
    sets = []
    for _ in range(draws):
        drawn: list[int] = []
        for layer in range(layout.n_layers):
            own = range(*layout.own_writers(layer)[0].indices(layout.n_writers))
            n = len(set(own) & set(heads))
            others = [head for head in own if head not in heads]
            others = others if len(others) >= n else list(own)
            drawn += [others[i] for i in torch.randperm(len(others), generator=generator)[:n].tolist()]
        sets.append(drawn)
    return sets


def like(circuit: Circuit) -> Circuit:
    """Every edge between as many random heads of each layer as a circuit has, and its MLPs."""
    layout, nodes = circuit.layout, circuit.nodes[:-1].nonzero()[:, 0].tolist()
    heads = [node for node in nodes if ".h" in layout.writer_names[node]]
    kept = torch.zeros(layout.n_writers)
    kept[[*set(nodes) - set(heads), *drawn_like(heads, layout, 1)[0]]] = 1
    return Circuit(layout, lower_of_both_nodes(layout, kept) == 1)


def texts(run: Run, task: Task, sets: Mapping[str, Sequence[str]], data: Sequence[Task]) -> dict[str, str]:
    """What the model says after a task's first test prompt, without some heads, under mean ablation."""

    def said() -> dict[str, str]:
        mean, layout = ABLATIONS.make("mean"), task.model.layout
        mean.fit(task.model, [batch for each in data for batch in each.train[:2]])
        tokenizer = load_tokenizer(located(task.args.model))
        circuits = {name: Circuit(layout, ~cut_edges(layout, heads)) for name, heads in sets.items()}
        return {
            name: generate(task.model, circuit, mean, tokenizer, task.text, task.args.tokens)
            for name, circuit in circuits.items()
        }

    found: dict[str, str] = run.data(f"{task.name}-texts", said)
    return {"prompt": task.text, **found}


# ---- all of it -------------------------------------------------------------------------------------------------------


def report(run: Run, args: argparse.Namespace, tasks: Sequence[Task], aside: Sequence[Task], trained: int) -> None:
    """Make what there is not yet, and write tables and figures.

    Args:
        run: that keeps the stages.
        args: of the command line.
        tasks: that have circuits.
        aside: others, from which the shared heads are removed as well.
        trained: how many of the tasks have a circuit of edge pruning.
    """
    model = tasks[0].model
    index = {name: i for i, name in enumerate(model.layout.writer_names)}
    counts = times_found(tasks)
    heads = shared_heads(counts, len(tasks))
    drawn = drawn_like([index[name] for name in heads], model.layout, args.draws)
    everything = [*tasks, *aside]
    removal = {}
    for task in everything:
        few = task.test[: args.drawn_on // task.data.batch_size]
        ours = [[], [index[name] for name in heads]]
        on_all, on_few = task.removed(ours, "shared", task.test), task.removed([*ours, *drawn], "drawn", few)
        removal[task.name] = Removed.of(on_all, on_few)
    names = [model.layout.writer_names[i] for i in drawn[0]]
    sets = {"model": [], "without the shared heads": heads, "without random heads": names}
    ready = [method for method in METHODS if method != "edge pruning" or trained == len(tasks)]
    rows = {
        task.name: {method: task.rows(method) for method in METHODS if method != "edge pruning" or i < trained}
        for i, task in enumerate(tasks)
    }
    orders = {task.name: task.orders() for task in tasks}
    results = {
        "heads": counts,
        "shared": heads,
        "rows": {
            name: {method: [row.to_dict() for row in some] for method, some in of.items()} for name, of in rows.items()
        },
        "orders": {name: [each.to_dict() for each in found] for name, found in orders.items()},
        "importance": {task.name: task.importance() for task in tasks},
        "ov": {task.name: found for task in tasks if (found := task.ov())},
        "removal": {name: asdict(found) for name, found in removal.items()},
        "texts": {task.name: texts(run, task, sets, everything) for task in everything},
    }
    matrices = {method: crossed(run, method, tasks) for method in ready}
    shared = {method: shared_parts({task.name: task.circuit(method) for task in tasks}) for method in ready}
    run.figure("sequence-matrices", matrices_figure(matrices))
    run.figure("sequence-heads", heads_figure({task.name: task.circuit("node pruning") for task in tasks}, heads))
    run.figure("sequence-removal", removal_figure(removal, len(heads), args.draws))
    held = claims(results, orders, removal, matrices, shared, [task.name for task in aside])
    results["claims"] = held
    shown = {"Claims": markdown(held), **tables(results, rows, orders, removal, matrices, shared, args)}
    results["matrices"] = {
        method: {data: [row.to_dict() for row in of.values()] for data, of in found.items()}
        for method, found in matrices.items()
    }
    results["overlaps"] = {
        method: [{"a": a, "b": b, **each.to_dict()} for (a, b), both in found.items() for each in both]
        for method, found in shared.items()
    }
    run.finish(results, shown, "sequence-continuation.md")


if __name__ == "__main__":
    main()
