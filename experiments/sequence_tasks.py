"""The tasks of `sequence_continuation`: their prompts, their circuits, and what these are worth."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import torch
from circuit_task import CircuitTask
from sequence_tables import ORDERS
from stages import Run, located, quiet_trainer
from torch import Tensor

from lightning_circuits import EAPIG, Circuit, EdgePruning, NodePruning
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.datamodules import (
    IOIDataModule,
    SequenceDataModule,
    SubjectVerbAgreementDataModule,
    TaskDataModule,
    ioi,
    sequence,
)
from lightning_circuits.evaluation.metrics import CircuitFaithfulness
from lightning_circuits.evaluation.ov import ov_scores
from lightning_circuits.evaluation.overlap import Overlap, overlap
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.files.numbers import from_json
from lightning_circuits.measures import correct, logit_difference
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import load_tokenizer
from lightning_circuits.objectives import MatchLogitDifference
from lightning_circuits.scoring.node_ablation import NodeAblation

SEEDS = 2
"""Of EAP-IG: other training pairs."""
INTERCHANGE = ABLATIONS.make("interchange")


@dataclass(frozen=True)
class Kind:
    """Where the prompts of a task come from, and the sequence that is asked about."""

    data: Callable[..., TaskDataModule]
    members: tuple[str, ...] = ()


KINDS = {
    name: Kind(
        partial(SequenceDataModule, members=name),
        kind.members[: sequence.STEPS] if name == "numerals" else kind.members,
    )
    for name, kind in sequence.SEQUENCES.items()
}
ASIDE = {
    "steps of ten": Kind(partial(SequenceDataModule, step=10)),
    "IOI": Kind(IOIDataModule),
    "agreement": Kind(SubjectVerbAgreementDataModule),
}
"""What has no circuits here: the shared heads are removed, and that is all."""
QUICK_KINDS = {
    name: Kind(partial(IOIDataModule, order=order), tuple(ioi.NAMES[:5]))
    for name, order in {"both orders": "both", "IO first": "io-first", "S first": "s-first"}.items()
}
QUICK_ASIDE = {"IOI, two more": Kind(partial(IOIDataModule, corruption="abc"))}
"""What the tiny model can read and do: no sequences."""


class Task(CircuitTask):
    """A task of a kind. Arguments but the kind are those of `CircuitTask`."""

    batch_size = 4

    def __init__(self, name: str, kind: Kind, language_model: Any, args: argparse.Namespace, run: Run) -> None:
        super().__init__(name, kind.data, language_model, args, run)
        self.members = kind.members

    @cached_property
    def text(self) -> str:
        """The first test prompt."""
        return next(iter(self.data.make_splits()["test"])).clean

    # ---- circuits ----------------------------------------------------------------------------------------------

    def circuit(self, method: str, variant: int = 0) -> Circuit:
        """The circuit of a method: of node pruning in one of the `ORDERS`, of EAP-IG of one of its seeds."""
        make = {"node pruning": self.pruned, "EAP-IG": self.attributed, "edge pruning": self.trained}[method]
        return self.run.circuit(f"{self.name}-{method}-{variant}", lambda: make(variant))

    def pruned(self, order: int) -> Circuit:
        kind, _, seed = ORDERS[order].partition(" ")
        search = NodePruning(self.language_model, threshold=self.args.threshold, order=kind, seed=int(seed or 0))
        batches = self.args.pruned // self.data.batch_size
        quiet_trainer(limit_train_batches=batches, limit_val_batches=0, num_sanity_val_steps=0).fit(search, self.data)
        return search.circuit()

    def attributed(self, seed: int) -> Circuit:
        return self.by_attribution(EAPIG(self.language_model), seed)

    def trained(self, seed: int) -> Circuit:
        search = EdgePruning(
            self.language_model, objective=MatchLogitDifference(), warm_start=self.circuit("EAP-IG"), seed=seed
        )
        trainer = quiet_trainer(max_steps=self.args.steps, limit_val_batches=0, num_sanity_val_steps=0)
        trainer.fit(search, self.data)
        return search.circuit(size=self.args.share)

    # ---- what they are worth -----------------------------------------------------------------------------------

    def rows(self, method: str) -> list[Row]:
        """Of the model, and of the circuits of a method, all its variants, by exact ablation on the test prompts."""
        variants = range({"node pruning": self.args.orders, "EAP-IG": SEEDS, "edge pruning": 1}[method])

        def measured() -> list[Any]:
            circuits = {str(variant): self.circuit(method, variant) for variant in variants}
            if method == "node pruning":
                return [row.to_dict() for row in judged_by_nodes(self.model, self.test, circuits)]
            rows = evaluate(self.model, self.test, circuits, [INTERCHANGE], "test", controls=False)
            return [row.to_dict() for row in rows if row.circuit != "empty"]

        return [from_json(Row, each) for each in self.run.data(f"{self.name}-{method}-rows", measured)]

    def orders(self) -> list[Overlap]:
        """What the circuits of each two orders have in common, by nodes, against as many of each layer."""
        circuits = [self.circuit("node pruning", order) for order in range(self.args.orders)]
        return [overlap(a, b, "nodes", "layer") for a, b in combinations(circuits, 2)]

    def importance(self) -> dict[str, float]:
        """Of every node of the node-pruned circuit but the input: how much of F(M) is lost when it goes, too."""

        def lost() -> dict[str, float]:
            layout, circuit = self.model.layout, self.circuit("node pruning")
            kept = circuit.nodes[:-1]
            nodes = [node for node in kept.nonzero()[:, 0].tolist() if node]
            sets = [~kept, *((~kept).index_fill(0, torch.tensor(node), True) for node in nodes)]
            batches = self.test[: self.args.drawn_on // self.data.batch_size]
            values, _ = without(self.model, batches, [torch.zeros_like(kept), *sets])
            full, whole, *others = values.mean(1).tolist()
            return {layout.writer_names[node]: (whole - f) / full for node, f in zip(nodes, others, strict=True)}

        found: dict[str, float] = self.run.data(f"{self.name}-importance", lost)
        return found

    def ov(self) -> dict[str, Any]:
        """Next and copy scores of all heads."""
        tokenizer = load_tokenizer(located(self.args.model))
        single = [
            word for word in self.members if len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1
        ]
        if len(single) < 2:
            return {}
        found: dict[str, Any] = self.run.data(
            f"{self.name}-ov", lambda: ov_scores(self.model, tokenizer, single).to_dict()
        )
        return found

    def removed(self, sets: Sequence[Sequence[int]], name: str, batches: Sequence[Batch]) -> dict[str, Any]:
        """The model without each set of writers: on every prompt the logit difference, and whether it is right."""

        def found() -> dict[str, Any]:
            members = [torch.zeros(self.model.layout.n_writers, dtype=torch.bool) for _ in sets]
            for member, some in zip(members, sets, strict=True):
                member[list(some)] = True
            values, right = without(self.model, batches, members)
            return {"values": values.tolist(), "right": right.tolist()}

        kept: dict[str, Any] = self.run.data(f"{self.name}-removed-{name}", found)
        return kept


@torch.no_grad()
def without(model: CircuitModel, batches: Sequence[Batch], sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The model without sets of nodes, bool ``[n_writers]`` each: ``[n_sets, n_prompts]``, the logit difference, and
    whether the best answer stands above the best distractor."""
    values: list[list[Tensor]] = [[] for _ in sets]
    right: list[list[Tensor]] = [[] for _ in sets]
    for batch in map(model.receive, batches):
        run = NodeAblation(model, batch, INTERCHANGE)
        for i, removed in enumerate(sets):
            logits = run.logits(removed)
            values[i].append(logit_difference(logits, batch).double())
            right[i].append(correct(logits, batch))
    return torch.stack([torch.cat(each) for each in values]), torch.stack([torch.cat(each) for each in right])


@torch.no_grad()
def judged_by_nodes(model: CircuitModel, batches: Sequence[Batch], circuits: Mapping[str, Circuit]) -> list[Row]:
    """The rows of `evaluate` for the model and for circuits of whole nodes, for a fraction of the cost."""
    metrics = {name: CircuitFaithfulness() for name in ("full", *circuits)}
    for batch in map(model.receive, batches):
        run = NodeAblation(model, batch, INTERCHANGE)
        empty = model.run(batch["corrupt_ids"], batch["attention_mask"], batch["positions"])
        metrics["full"].update(run.full_logits, run.full_logits, empty, batch)
        for name, circuit in circuits.items():
            metrics[name].update(run.logits(~circuit.nodes[:-1]), run.full_logits, empty, batch)
    rows = []
    for name, circuit in {"full": Circuit.full(model.layout), **circuits}.items():
        numbers: dict[str, Any] = {key: value.item() for key, value in metrics[name].compute().items()}
        sizes = circuit.size, circuit.n_edges, circuit.prune().n_edges
        rows.append(Row(name, INTERCHANGE.name, "test", *sizes, **numbers))
    return rows
