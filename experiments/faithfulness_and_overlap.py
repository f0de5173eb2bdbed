"""Do circuits that share their parts do each other's task? "Have Faith in Faithfulness" (2403.17806) on SmolLM2-135M.

    python experiments/faithfulness_and_overlap.py --write

For six tasks, circuits by attribution (EAP, EAP-IG, clean-corrupted), by exact patching of the edges that attribution
holds for the best, by edge pruning, and random ones. They are judged by exact ablation on the same test prompts: f and
accuracy against size, the smallest circuit that keeps 85 %, what circuits of other methods share with those of exact
patching, and what circuits of EAP-IG and of edge pruning do on the tasks of others, beside what they share.

Attribution has two seeds: other training pairs. Edge pruning takes as long as all the rest and comes last; tables and
figures are written before it, and once more after it. `--steps 0` leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from circuit_task import CircuitTask
from overlap_claims import claims
from overlap_figures import curves_figure
from overlap_tables import COMPARED, SHARES, SHOWN, Judged, tables
from stages import QUICK_MODEL, Run, located, markdown, options, quiet_trainer

from lightning_circuits import (
    EAP,
    EAPIG,
    Attribution,
    Circuit,
    CleanCorrupted,
    EdgePruning,
    RandomScores,
)
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import (
    CountryCapitalDataModule,
    GenderBiasDataModule,
    GreaterThanDataModule,
    HypernymyDataModule,
    IOIDataModule,
    SubjectVerbAgreementDataModule,
    TaskDataModule,
)
from lightning_circuits.drawing.transfer import matrix_figure, scatter_figure
from lightning_circuits.evaluation.overlap import Overlap, overlap
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.evaluation.smallest import clears, smallest_circuit
from lightning_circuits.evaluation.transfer import SharedPart, Transfer, TransferRow, transfer
from lightning_circuits.files.numbers import from_json
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import OBJECTIVES, MatchLogitDifference
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks
from lightning_circuits.selection import top_n

ATTRIBUTION: dict[str, Callable[..., Attribution]] = {
    "EAP": EAP,
    "clean-corrupted": CleanCorrupted,
    "EAP-IG": partial(EAPIG, steps=5),
}
SEEDS = {"random": 1, **dict.fromkeys(ATTRIBUTION, 2), "exact patching": 1, "edge pruning": 1}
"""How many circuits of each method there are for a task."""
TRANSFERRED = "EAP-IG", "edge pruning"
"""Whose circuits are run on each other's tasks."""
LEAST = 0.85
"""The f that the smallest circuit has to clear."""
INTERCHANGE = ABLATIONS.make("interchange")


@dataclass(frozen=True)
class Kind:
    """Where the prompts of a task come from, and the measure that is attributed and judged by."""

    data: Callable[..., TaskDataModule]
    measure: str = "logit_difference"


TASKS = {
    "IOI": Kind(partial(IOIDataModule, corruption="s2-io-flip")),
    "capital": Kind(CountryCapitalDataModule),
    "hypernymy": Kind(HypernymyDataModule),
    "gender": Kind(GenderBiasDataModule),
    "agreement": Kind(SubjectVerbAgreementDataModule),
    "greater-than": Kind(GreaterThanDataModule, "probability_difference"),
}
ASIDE = {"IOI, third name": Kind(IOIDataModule)}
"""Judged with EAP-IG alone: what another corrupt prompt makes of it."""
QUICK_TASKS = {
    "IOI": TASKS["IOI"],
    "IO first": Kind(partial(IOIDataModule, order="io-first")),
    "S first": Kind(partial(IOIDataModule, order="s-first"), "probability_difference"),
}
"""What the tiny model can read."""
QUICK = {"train": 16, "pairs": 8, "prompts": 8, "candidates": 60, "steps": 4, "share": 0.2, "compared": 0.05}


def main() -> None:
    args = options(
        __doc__,
        QUICK,
        train=320,
        pairs=80,
        prompts=64,
        patched=1,
        candidates=2000,
        steps=150,
        share=0.02,
        compared=0.005,
    )
    run = Run(args)
    language_model = load_model(located(args.model))
    kinds = QUICK_TASKS if args.model == QUICK_MODEL else TASKS

    def task(name: str, kind: Kind) -> Task:
        return Task(name, kind, language_model, args, run)

    tasks, aside = ([task(name, kind) for name, kind in some.items()] for some in (kinds, ASIDE))
    methods = [method for method in SEEDS if method != "edge pruning"]
    rounds = [methods, list(SEEDS)] if args.steps else [methods]
    for of_each in rounds:
        run.write = args.write and of_each is rounds[-1]  # the page has tables of edge pruning, too
        report(run, args, dict.fromkeys(tasks, of_each), aside)


class Task(CircuitTask):
    """A task of a kind. Arguments but the kind are those of `CircuitTask`."""

    batch_size = 8

    def __init__(self, name: str, kind: Kind, language_model: Any, args: argparse.Namespace, run: Run) -> None:
        super().__init__(name, kind.data, language_model, args, run)
        self.measure = kind.measure

    # ---- circuits ----------------------------------------------------------------------------------------------

    def circuit(self, method: str, seed: int = 0, share: float | None = None) -> Circuit:
        """The best edges by a method, with the scores of all; of the share that transfer is about by default."""
        other = {"random": self.drawn, "exact patching": self.patched, "edge pruning": self.trained}
        make = other.get(method) or (lambda: self.attributed(method, seed))
        found = self.run.circuit(f"{self.name}-{method}-{seed}", make)
        return best(found, share or self.args.share)

    def drawn(self) -> Circuit:
        search = RandomScores(self.language_model, seed=0)
        search.scores_over(lambda: self.pairs(0)[:1])
        return search.circuit(size=self.args.share)

    def attributed(self, method: str, seed: int) -> Circuit:
        return self.by_attribution(ATTRIBUTION[method](self.language_model, objective=self.measure), seed)

    def patched(self) -> Circuit:
        """Exact patching of the edges that attribution holds for the best."""
        layout, candidates = self.model.layout, self.candidates()
        objective = OBJECTIVES.make(self.measure, "objective")
        scores = torch.zeros(layout.n_edges, dtype=torch.float64)
        batches = self.pairs(0)[: self.args.patched]
        for batch in batches:
            patching = ExactPatching(self.model, self.model.receive(batch), INTERCHANGE, objective)
            for edges in chunks(layout, 16, among=candidates):
                scores[edges] += patching.scores(edges).sum(-1).double()
        prompts = sum(len(batch["clean_ids"]) for batch in batches)
        about = {"method": "ExactPatching", "ranking": "absolute", "prompts": prompts, "data": self.data.describe()}
        return Circuit(layout, candidates, scores / prompts, about)

    def candidates(self) -> torch.Tensor:
        """The edges that stand highest with one or another method of attribution, from each about as many."""
        scores = [self.circuit(method).scores for method in ATTRIBUTION]
        ranks = torch.stack([each.abs().argsort(descending=True, stable=True).argsort() for each in scores])
        return top_n(-ranks.amin(0).float(), min(self.args.candidates, self.model.layout.n_edges))

    def trained(self) -> Circuit:
        search = EdgePruning(
            self.language_model, objective=MatchLogitDifference(), warm_start=self.circuit("EAP-IG"), seed=0
        )
        quiet_trainer(max_steps=self.args.steps).fit(search, self.data)
        return search.circuit(size=self.args.share)

    # ---- what they are worth -----------------------------------------------------------------------------------

    def judged(self, methods: Sequence[str]) -> Judged:
        """Everything that the tables say of this task alone."""
        rows = {method: [self.rows(method, seed) for seed in range(SEEDS[method])] for method in methods}
        smallest = {method: self.smallest(method) for method in methods if method != "random"}
        return Judged(self.measure, rows, smallest, self.shared(methods))

    def rows(self, method: str, seed: int) -> list[Row]:
        """Of the full model, the empty circuit, and a circuit of each size, smallest first, by exact ablation."""

        def measured() -> list[Any]:
            most = self.args.candidates if method == "exact patching" else self.model.layout.n_edges
            shares = SHARES if method != "random" and seed == 0 else SHOWN
            small = [share for share in shares if share * self.model.layout.n_edges <= most]
            circuits = {f"{share:g}": self.circuit(method, seed, share) for share in small}
            rows = evaluate(
                self.model, self.test, circuits, [INTERCHANGE], "test", controls=False, measure=self.measure
            )
            return [row.to_dict() for row in rows]

        return [from_json(Row, each) for each in self.run.data(f"{self.name}-{method}-{seed}-rows", measured)]

    def smallest(self, method: str) -> Row | None:
        """The smallest circuit whose interval clears `LEAST`; None if none of `SHARES` does."""

        def found() -> Any:
            judged = self.rows(method, 0)[2:]
            shares = [float(row.circuit) for row in judged]
            clear = next((i for i, row in enumerate(judged) if clears(row, LEAST, "lower")), None)
            if clear is None:
                return None
            grid = shares[max(clear - 1, 0) : clear + 1]
            scored, options = self.circuit(method), {"measure": self.measure, "split": "test", "grid": grid}
            return smallest_circuit(scored, self.model, self.test, INTERCHANGE, LEAST, **options).row.to_dict()

        row = self.run.data(f"{self.name}-{method}-smallest", found)
        return row and from_json(Row, row)

    def shared(self, methods: Sequence[str]) -> dict[str, list[dict[str, Overlap]]]:
        """What circuits of a method have in common with that of exact patching, by method, seed, and what is held
        against what."""
        if "exact patching" not in methods:
            return {}
        exact = self.circuit("exact patching", share=self.args.compared)

        def of(method: str, seed: int) -> dict[str, Overlap]:
            mine = self.circuit(method, seed, self.args.compared)
            return {name: overlap(mine, exact, *compared) for name, compared in COMPARED.items()}

        return {
            method: [of(method, seed) for seed in range(SEEDS[method])]
            for method in methods
            if method not in ("random", "exact patching")
        }


def best(scored: Circuit, share: float) -> Circuit:
    """The circuit of a share of the edges, by the scores of another."""
    n = max(round(share * scored.layout.n_edges), 1)
    members = top_n(scored.scores, n, scored.layout, absolute=scored.absolute)
    return replace(scored, members=members)


def crossed(run: Run, method: str, tasks: Sequence[Task]) -> Transfer:
    """The circuits of a method on each other's tasks: a stage for the prompts of each."""
    circuits = {task.name: task.circuit(method) for task in tasks}

    def on(task: Task) -> Any:
        return transfer(task.model, circuits, {task.name: task.test}, [INTERCHANGE], "test").to_dict()

    kept = [run.data(f"transfer-{method}-{task.name}", partial(on, task)) for task in tasks]
    rows = [from_json(TransferRow, row) for of_task in kept for row in of_task["rows"]]
    shared = [SharedPart(each["a"], each["b"], from_json(Overlap, each)) for each in kept[0]["shared"]]
    return Transfer(list(circuits), list(circuits), kept[0]["ablations"], rows, shared)


def report(run: Run, args: argparse.Namespace, tasks: dict[Task, list[str]], aside: Sequence[Task]) -> None:
    """Make what there is not yet, and write tables and figures.

    Args:
        run: that keeps the stages.
        args: of the command line.
        tasks: each with its methods.
        aside: tasks that are judged with EAP-IG alone.
    """
    judged = {task.name: task.judged(methods) for task, methods in tasks.items()}
    common = set.intersection(*map(set, tasks.values()))
    transfers = {method: crossed(run, method, list(tasks)) for method in TRANSFERRED if method in common}
    run.figure("overlap-curves", curves_figure(judged))
    for method, found in transfers.items():
        stem = method.replace(" ", "-").lower()
        run.figure(f"overlap-matrix-{stem}", matrix_figure(found))
        run.figure(f"overlap-scatter-{stem}", scatter_figure(found))
    reached = claims(judged, transfers)
    judged |= {task.name: task.judged(["EAP-IG"]) for task in aside}
    results = {
        "required": reached,
        "tasks": {name: each.to_dict() for name, each in judged.items()},
        "transfer": {method: found.to_dict() for method, found in transfers.items()},
    }
    shown = {"Required and reached": markdown(reached), **tables(judged, transfers, args)}
    run.finish(results, shown, "faithfulness-and-overlap.md")


if __name__ == "__main__":
    main()
