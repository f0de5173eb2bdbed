"""Does a circuit of IOI that is cut out on one kind of prompts answer better than the model on another, and why?

    python experiments/ioi_variants.py --write

"Adaptive Circuit Behavior and Generalization in Mechanistic Interpretability" (2024) on another model, with circuits
that are found rather than known, other ablations, intervals and controls. Circuits of Base are found in places
(`ioi_places`) by edge pruning and by EAP-IG, taken to DoubleIO and TripleIO, where IO is named once and twice more,
and judged there. The heads that see that a name is repeated are found by where they look; on the variants the circuit
of Base has them at S2 alone, and the sweep re-opens them at the mentions of IO. A place is a span of tokens, so an edge
of a circuit is open at S2 and cut at IO2.

All stages are kept; a killed run goes on. ``--steps 0`` leaves edge pruning out. ``--quick`` runs on a toy whose
answers are known (`ioi_toy`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import ioi_toy
from ioi_places import PlacedIOI, carried, reopened
from ioi_tables import (
    faithfulness_table,
    head_of,
    heads_table,
    overlap_table,
    restoration_figure,
    restoration_table,
    sides_table,
)
from ioi_toy import ToyIOI
from stages import Run, command, located, machine, markdown, options, quiet_trainer

from lightning_circuits import EAP, EAPIG, CircuitSearch, EdgePruning
from lightning_circuits.ablation import Ablation, GroupMeanAblation, InterchangeAblation, MeanAblation, ZeroAblation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit, ComparedBy
from lightning_circuits.drawing.attention_by_role import attention_by_role_figure
from lightning_circuits.evaluation.attention_by_role import attention_by_role, attention_to
from lightning_circuits.evaluation.overlap import Null, overlap
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.smallest import smallest_circuit
from lightning_circuits.gates import TopK
from lightning_circuits.gates.sizes import SizeRange
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import LogitDifference, MatchLogitDifference
from lightning_circuits.selection import top_n

TOY = "toy"
"""The model of `ioi_toy`."""
VARIANTS = {"Base": 0, "DoubleIO": 1, "TripleIO": 2}
"""How often IO is named once more."""
ORDERS = ("io-first", "s-first")
METHODS = ("edge pruning", "EAP-IG")
ABLATIONS = ("mean-group", "interchange", "mean", "zero")
PER_BATCH = 8
GROUP_MEANS, MEANS = 240, 64
"""ABC prompts that means are taken over."""
SIZES = SizeRange(0.002, 0.1)
"""Shares of the edges in places that edge pruning trains for."""
F = 0.85
"""What the lower end of f's interval has to reach on the validation prompts, for the smallest such circuit."""

SHARED: tuple[ComparedBy, ...] = ("edges-in-any-span", "nodes")
NULLS: tuple[Null, ...] = ("size", "layer")

KINDS = {"duplicate-token": ("S2", "S1"), "induction": ("S2", "S1+1"), "previous-token": ("S1+1", "S1")}
"""From where to where a head of each kind looks."""
LOOKS = 0.5
"""How much, at least."""

SWEEP: dict[str, list[tuple[str, ...]]] = {
    "DoubleIO": [(), ("S2",), ("IO1", "IO2"), ("S2", "IO1"), ("S2", "IO2"), ("S2", "IO1", "IO2"), ("S2", "elsewhere")],
    "TripleIO": [
        (),
        ("S2",),
        ("IO1", "IO2", "IO3"),
        ("S2", "IO1", "IO2"),
        ("S2", "IO1", "IO3"),
        ("S2", "IO1", "IO2", "IO3"),
        ("S2", "elsewhere"),
    ],
}
"""Where the heads that see repetition are re-opened."""


def main() -> None:
    quick = {"model": TOY, "prompts": 8, "pairs": 16, "train": 64, "steps": 100}
    args = options(__doc__, quick, prompts=32, pairs=96, train=320, steps=200, seed=0)
    run = Run(args)
    lab = Lab(args, run)
    methods = METHODS if args.steps else METHODS[1:]
    both = [(method, variant) for method in methods for variant in VARIANTS]
    measured = {(method, variant): lab.measured(method, variant) for method, variant in both}
    attention = [(method, head_of(row)) for method in methods for row in lab.attention(method)]
    overlaps = lab.overlaps()
    for method in methods:
        rows = [row for circuit, row in attention if circuit == method]
        run.figure(f"ioi-variants-attention-{method.replace(' ', '-')}", attention_by_role_figure(rows))
    run.figure("ioi-variants-restoration", restoration_figure(measured))
    tables = {
        "Circuits of Base": lab.sizes(methods),
        "Model and circuit": faithfulness_table(measured, ["both"], ABLATIONS),
        "By order": faithfulness_table(measured, ORDERS, ["mean-group"]),
        "Heads that see repetition": heads_table(
            lab.heads(), {method: lab.base(method).prune().node_names() for method in methods}
        ),
        "Restoration": restoration_table(measured),
        "Heads that change sides": sides_table(attention),
        "From scratch": overlap_table(overlaps),
    }
    about = lab.about()
    results = {
        "about": about,
        "heads": lab.heads(),
        "logit differences": {f"{method}, {variant}": values for (method, variant), values in measured.items()},
        "attention": [{"circuit": method, **row.to_dict()} for method, row in attention],
        "overlap": overlaps,
    }
    labels = {
        "Heads that see repetition": f"On {2 * (args.prompts // 2)} validation prompts of Base, in the model.",
        "Restoration": "Mean ablation by group and position.",
        "Heads that change sides": "DoubleIO, mean ablation by group and position.",
        "From scratch": "Both circuits found by EAP-IG, with as many edges in places.",
    }
    tables = {name: f"{table}\n\n{labels.get(name, '')} {about}" for name, table in tables.items()}
    run.finish(results, tables, "ioi-variants.md")


class Lab:
    """The model, prompts and ablations of a run, and its stages.

    Args:
        args: the options.
        run: where stages are kept.
    """

    def __init__(self, args: argparse.Namespace, run: Run) -> None:
        self.args, self.run = args, run
        self.name: Any = ioi_toy.tokenizer() if args.model == TOY else located(args.model)
        self.kind = ToyIOI if args.model == TOY else PlacedIOI
        self._fitted: dict[tuple[str, str], Ablation] = {}

    @cached_property
    def model(self) -> CircuitModel:
        return wrap(ioi_toy.by_hand() if self.args.model == TOY else load_model(self.name))

    # ---- prompts and ablations -----------------------------------------------------------------------------------

    def prompts(self, variant: str, **options: Any) -> PlacedIOI:
        """A variant's prompts; those for validation and test are the same but for the order of the two people."""
        args = self.args
        sizes = {"n_train": args.pairs, "n_val": args.prompts // 2, "n_test": args.prompts, "seed": args.seed}
        return self.kind(self.name, extra_io=VARIANTS[variant], batch_size=PER_BATCH, **{**sizes, **options})

    def held_out(self, variant: str, split: str = "test") -> list[Batch]:
        """The held-out prompts of both orders, those with IO first coming first."""
        loaders = (getattr(self.prompts(variant, order=order), f"{split}_dataloader")() for order in ORDERS)
        return list(chain.from_iterable(loaders))

    def ablation(self, name: str, variant: str) -> Ablation:
        """What cut edges carry; means are of the ABC prompts of the variant."""
        if name in ("interchange", "zero"):
            return InterchangeAblation() if name == "interchange" else ZeroAblation()
        n = GROUP_MEANS if name == "mean-group" else MEANS
        abc = self.prompts(variant, n_train=n, n_val=1, n_test=1, corruption="abc", seed=self.args.seed + 1)
        return (GroupMeanAblation if name == "mean-group" else MeanAblation)("corrupt", data=abc)

    def fitted(self, name: str, variant: str) -> Ablation:
        """The same, ready for use."""
        if (name, variant) not in self._fitted:
            self._fitted[name, variant] = self.ablation(name, variant)
            self._fitted[name, variant].fit(self.model, ())
        return self._fitted[name, variant]

    # ---- circuits ------------------------------------------------------------------------------------------------

    def found(self, method: str, variant: str) -> Circuit:
        """The scores of a method on a variant, in places, under mean ablation by group and position."""
        return self.run.circuit(f"{method.replace(' ', '-')}-{variant}", lambda: self._search(method, variant))

    def _search(self, method: str, variant: str) -> Circuit:
        args, ablation = self.args, self.ablation("mean-group", variant)
        search: CircuitSearch
        if method == "EAP-IG":
            data = self.prompts(variant, n_val=1, n_test=1)
            search = EAPIG(self.model.model, ablation=ablation, objective=LogitDifference(), spans=True)
            quiet_trainer(limit_val_batches=0).fit(search, data)
        else:
            data = self.prompts(variant, n_train=args.train, n_val=1, n_test=1)
            search = EdgePruning(
                self.model.model,
                gate=TopK(sizes=SIZES),
                objective=MatchLogitDifference(),
                ablation=ablation,
                warm_start=EAP(),
                seed=args.seed,
                spans=True,
            )
            quiet_trainer(max_steps=args.steps, limit_val_batches=0).fit(search, data)
        return search.circuit(size=0.01)

    def base(self, method: str) -> Circuit:
        """The smallest circuit of Base that is faithful there, on the validation prompts."""

        def smallest() -> Circuit:
            scored = self.found(method, "Base")
            model, ablation = self.model.in_spans(scored.layout.spans), self.fitted("mean-group", "Base")
            held_out = self.held_out("Base", "val")
            return smallest_circuit(scored, model, held_out, ablation, f=F).circuit

        return self.run.circuit(f"circuit-{method.replace(' ', '-')}", smallest)

    def own(self, variant: str) -> Circuit:
        """The circuit of a variant found from scratch by EAP-IG, of as many edges as that of Base."""
        scored = self.found("EAP-IG", variant)
        assert scored.scores is not None
        members = top_n(scored.scores, self.base("EAP-IG").n_edges, scored.layout, absolute=scored.absolute)
        return Circuit(scored.layout, members, scored.scores, scored.metadata)

    # ---- heads ---------------------------------------------------------------------------------------------------

    def heads(self) -> dict[str, dict[str, float]]:
        """Of every kind the heads that look so on Base, with how much: the mean over validation prompts."""

        def look() -> dict[str, dict[str, float]]:
            prompts = self.held_out("Base", "val")
            found = {}
            for kind, (query, role) in KINDS.items():
                means = {h: float(a.mean()) for h, a in attention_to(self.model, prompts, role, query).items()}
                found[kind] = {head: mean for head, mean in means.items() if mean >= LOOKS}
            return found

        return self.run.data("heads", look)

    def repetition(self) -> list[str]:
        """All heads that see that a name is repeated."""
        return list(dict.fromkeys(chain.from_iterable(self.heads().values())))

    # ---- what circuits do ----------------------------------------------------------------------------------------

    def lineup(self, method: str, variant: str) -> Iterator[tuple[str, Circuit]]:
        """The circuits to run on a variant, by name: that of Base, one found from scratch, and the sweep."""
        layout = self.own(variant).layout
        base = carried(self.base(method), layout)
        yield "base circuit", base
        if method == "EAP-IG" and variant != "Base":
            yield "from scratch", self.own(variant)
        for at in SWEEP.get(variant, []):
            if at != ("S2",):
                yield " + ".join(at) or "none", reopened(base, self.repetition(), at)

    def measured(self, method: str, variant: str) -> dict[str, Any]:
        """The logit difference of every circuit on every prompt: by ablation, then by circuit."""

        def measure() -> dict[str, Any]:
            prompts, lineup = self.held_out(variant), dict(self.lineup(method, variant))
            layout = next(iter(lineup.values())).layout
            model = self.model.in_spans(layout.spans)
            found = {}
            for name in ABLATIONS:
                runs = {"full": Circuit.full(layout), "empty": Circuit.empty(layout)}
                swept = name == "mean-group"
                runs |= {key: c for key, c in lineup.items() if swept or key in ("base circuit", "from scratch")}
                values = measured(model, prompts, list(runs.values()), self.fitted(name, variant))
                found[name] = dict(zip(runs, values.tolist(), strict=True))
            return found

        return self.run.data(f"measured-{method.replace(' ', '-')}-{variant}", measure)

    def attention(self, method: str) -> list[dict[str, Any]]:
        """Where heads look from END on DoubleIO, to S2 or to IO2, in the model and in the circuit of Base."""
        variant = "DoubleIO"

        def look() -> list[dict[str, Any]]:
            circuit = carried(self.base(method), self.own(variant).layout)
            prompts, ablation = self.held_out(variant), self.fitted("mean-group", variant)
            rows = attention_by_role(self.model, prompts, circuit, "S2", "IO2", ablation=ablation, split="test")
            return [row.to_dict() for row in rows]

        return self.run.data(f"attention-{method.replace(' ', '-')}-{variant}", look)

    # ---- what circuits share -------------------------------------------------------------------------------------

    def overlaps(self) -> list[dict[str, Any]]:
        """Of each variant's own circuit with that of Base, both by EAP-IG: edges in any place, and nodes."""

        def compare() -> list[dict[str, Any]]:
            base = self.base("EAP-IG")
            return [
                {"variant": variant, **overlap(base, self.own(variant), of, null).to_dict()}
                for variant in VARIANTS
                if variant != "Base"
                for of in SHARED
                for null in NULLS
            ]

        return self.run.data("overlap", compare)

    def about(self) -> str:
        """What all tables are of."""
        args = self.args
        name = "A toy with weights set by hand" if args.model == TOY else args.model
        return (
            f"{name}, {2 * args.prompts} test prompts, half of them with IO first; logit difference; in brackets 95 % "
            f"intervals over prompts; seed {args.seed}. {command()}, {machine()}."
        )

    def sizes(self, methods: Sequence[str]) -> str:
        """How the circuits of Base came about, and how large they are, in all and in each place."""
        args, rows = self.args, []
        for method in methods:
            circuit = self.base(method)
            layout, pruned = circuit.layout, circuit.prune()
            steps = f"{args.steps} steps on {args.train}" if method == "edge pruning" else str(args.pairs)
            of_place = zip(layout.spans, layout.each_span(pruned.members).sum(1).tolist(), strict=True)
            rows.append(
                {
                    "method": method,
                    "prompts": steps,
                    "edges in places": f"{circuit.n_edges:,} ({circuit.size:.2%})",
                    "after pruning": f"{pruned.n_edges:,}",
                    "in each place": ", ".join(f"{place} {n:,}" for place, n in of_place),
                }
            )
        return (
            f"{markdown(rows)}\n\nFound under mean ablation by group and position over {GROUP_MEANS} ABC prompts: the "
            f"smallest circuit whose f is at least {F} with its whole interval, under the same ablation, on "
            f"{2 * (args.prompts // 2)} validation prompts."
        )


if __name__ == "__main__":
    main()
