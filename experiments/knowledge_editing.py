"""Do circuits resist new facts? "Understanding Language Model Circuits through Knowledge Editing" (2406.17241).

    python experiments/knowledge_editing.py --write

Masks over the single weights of SmolLM2's blocks by weight pruning, on facts that it knows and on ordinary text: at
density .5 in three seeds, then at .35, .15 and .05. They are judged on the facts of the training and on held-out ones,
beside their complement, random and largest weights, always with the NLL of ordinary text. Then held-out facts are
edited by fine-tuning the circuit's weights alone, those of a control, or all: once with all other weights at zero, as
the paper does, and once with the model whole; as far as the paper goes, by the same budget, and to the same loss.

Tables and figures are written after each part, the first mask and its edits first. Two processes on one folder share
the parts: each passes over what the other is at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import editing_facts
from editing_claims import claims, required
from editing_conditions import BESIDE, FIRST, FULL, RESTS, WITH_NORMS, Condition, Mask, as_large
from editing_figures import edits_figure, masks_figure, steps_figure
from editing_tables import Shared, plain, tables
from stages import QUICK_MODEL, Run, located, markdown, options, quiet_trainer

from lightning_circuits import WeightPruning
from lightning_circuits.files.numbers import from_json
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.weights.composition import Composition, composition, weight_overlap
from lightning_circuits.weights.editing import Probes, masked_finetune, same_budget
from lightning_circuits.weights.judging import WeightRow, beside, judge
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.weight_circuit import WeightCircuit

MASKS = FIRST, Mask(0.5, 1), Mask(0.5, 2), Mask(0.35, 0), Mask(0.15, 0), Mask(0.05, 0)
"""In the order in which they are made."""
QUICK_MASKS = FIRST, Mask(0.5, 1), Mask(0.05, 0)
LR = EPSILON = 5e-4
"""The paper's, for each weight."""
QUICK = {
    "facts": 12,
    "held_out": 8,
    "batch": 4,
    "steps": 2,
    "edited": 3,
    "fewer": 2,
    "edit_steps": 2,
    "most": 3,
    "matched": 2,
    "lines": 4,
}


def main() -> None:
    args = options(
        __doc__,
        QUICK,
        facts=100,
        held_out=40,
        batch=10,
        steps=60,
        edited=20,
        fewer=6,
        edit_steps=10,
        loss=1.0,
        most=15,
        matched=10,
        lines=8,
    )
    if (most := max(args.edited, args.fewer, args.matched)) > args.held_out:
        sys.exit(f"{most} facts are to be edited, and --held_out is {args.held_out}: give more, or edit fewer")
    run = Run(args)
    parts = Parts(args, run)
    run.each([partial(parts.add, name) for name in parts.all])


class Parts:
    """The parts of the experiment: of each mask what it is worth and the edits in it; and edits to the same loss.

    Args:
        args: of the command line.
        run: that keeps the stages.
    """

    def __init__(self, args: argparse.Namespace, run: Run) -> None:
        self.args, self.run = args, run
        self.language_model = load_model(located(args.model))
        self.model = wrap(self.language_model)
        self.facts, self.text = editing_facts.facts(args, run.folder), editing_facts.text(args)
        first, *others = QUICK_MASKS if args.model == QUICK_MODEL else MASKS
        self.all = {
            first.name: partial(self.of_mask, first),
            "same-loss": self.to_the_same_loss,
            **{mask.name: partial(self.of_mask, mask) for mask in others},
        }

    def add(self, name: str) -> None:
        """Make a part, and write tables and figures of all that are made by now."""
        self.run.data(f"part-{name}", self.all[name])
        ready = [name for name in self.all if self.run.has(f"part-{name}")]
        made = {name: self.run.data(f"part-{name}", self.all[name]) for name in ready}
        if masks := [mask for mask in MASKS if mask.name in made]:
            report(self.run, self.args, made, self.shared(masks))

    # ---- masks -------------------------------------------------------------------------------------------------

    def circuit(self, mask: Mask) -> WeightCircuit:
        return self.run.weight_circuit(f"mask-{mask.name}", partial(self.trained, mask))

    def trained(self, mask: Mask) -> WeightCircuit:
        """What weight pruning finds; a seed sees the training facts in an order of its own."""
        search = WeightPruning(self.language_model, self.text, density=mask.density, seed=mask.seed)
        loader = self.facts.train_dataloader()
        loader.seed = mask.seed
        quiet_trainer(max_steps=self.args.steps).fit(search, loader)
        found = search.circuit()
        return replace(found, metadata={**found.metadata, "data": self.facts.describe(), "seed": mask.seed})

    def of_mask(self, mask: Mask) -> dict[str, Any]:
        """What a mask is worth, what it is made of, and the edits in it."""
        judged = self.run.data(f"judged-{mask.name}", partial(self.judged, mask))
        made_of = [part.to_dict() for part in composition(self.circuit(mask))]
        return {"judged": judged, "made of": made_of, "edits": [asdict(each) for each in self.edits(mask)]}

    def judged(self, mask: Mask) -> list[Any]:
        """Rows on the facts of the training and on held-out ones, and of the first mask with the rest at its mean."""
        circuit = self.circuit(mask)
        circuits = {"circuit": circuit, WITH_NORMS: with_norms(circuit), **beside(circuit, self.model)}
        train, test = list(self.facts.train_dataloader()), list(self.facts.test_dataloader())
        text = list(self.text.held_out("test"))
        rows = judge(self.model, circuits, train, self.lines, split="train")
        rows += judge(self.model, circuits, test, text, split="test")
        if mask == FIRST:
            rows += judge(self.model, circuits, test, text, rest="mean", split="test")[1:]
        return [row.to_dict() for row in rows]

    def shared(self, masks: list[Mask]) -> list[Shared]:
        """What each two masks have in common, against chance."""

        def of(a: Mask, b: Mask) -> Any:
            mine, other = self.circuit(a), self.circuit(b)
            found = {within: weight_overlap(mine, other, within) for within in ("tensor", "whole")}
            return {"a": a.name, "b": b.name, **{within: each.to_dict() for within, each in found.items()}}

        pairs = [(a, b) for i, a in enumerate(masks) for b in masks[i + 1 :]]
        return [Shared.of(self.run.data(f"shared-{a.name}-{b.name}", partial(of, a, b))) for a, b in pairs]

    # ---- edits -------------------------------------------------------------------------------------------------

    @cached_property
    def lines(self) -> list[Any]:
        """Held-out text that every edit is looked at by."""
        batches = list(self.text.held_out("test"))
        return batches[: max(self.args.lines // self.text.batch_size, 1)]

    def edits(self, mask: Mask) -> Iterator[Condition]:
        """Inside of a mask and of its controls: as published, and by the circuit's budget where that is another, which
        for all seeds of a density is the same."""
        circuit = self.circuit(mask)
        n, kept, of = self.args.edited, circuit.n_weights, circuit.space.n_weights
        controls: Sequence[str] = BESIDE
        if mask != FIRST:
            n, controls = self.args.fewer, ["random"] if mask.density == FIRST.density else [WITH_NORMS, "random"]
        for weights in ("circuit", *controls):
            for rest in RESTS:
                yield self.condition(mask, weights, rest, "published", n)
        yield self.condition(mask, FULL, "keep", "published", self.args.edited)
        outside = with_norms(circuit).n_weights
        for weights, rest, free in [*((WITH_NORMS, rest, outside) for rest in RESTS), (FULL, "keep", of)]:
            if mask.seed == 0 and not as_large(free, kept):
                yield self.condition(mask, weights, rest, "same budget", n, same_budget(EPSILON, free, kept))

    def to_the_same_loss(self) -> dict[str, Any]:
        """Inside of the first mask and of its controls, until the new object is likely enough."""
        kinds = [*((weights, rest) for weights in ("circuit", *BESIDE) for rest in RESTS), (FULL, "keep")]
        found = [self.condition(FIRST, *kind, "same loss", self.args.matched) for kind in kinds]
        return {"edits": [asdict(each) for each in found]}

    def condition(
        self, mask: Mask, weights: str, rest: str, budget: str, n: int, epsilon: float = EPSILON
    ) -> Condition:
        """The first n held-out facts, each edited by itself.

        Args:
            mask: whose.
            weights: that may move: ``circuit``, one of `BESIDE` or ``full``.
            rest: what the others are: ``zero`` or ``keep``.
            budget: ``published``, ``same budget`` or ``same loss``.
            n: how many facts.
            epsilon: how far a weight may go.
        """
        to_loss = budget == "same loss"
        steps, below = (self.args.most, self.args.loss) if to_loss else (self.args.edit_steps, None)

        def edited() -> list[Any]:
            free = self.free(mask, weights)
            found = []
            for fact in self.facts.facts("test")[:n]:
                batches = self.facts.to_edit(fact)
                probes = Probes(batches.paraphrases, batches.neighbours, self.lines)
                options = {"steps": steps, "lr": LR, "epsilon": epsilon, "rest": rest, "stop_below": below}
                with masked_finetune(self.model, batches.prompt, free, **options, probes=probes) as edit:
                    found.append(edit.to_dict())
            return found

        whose = weights if weights == FULL and budget != "same budget" else f"{mask.name}-{weights}-{rest}"
        return Condition(mask.name, weights, rest, budget, self.run.data(f"edits-{whose}-{budget}", edited))

    def free(self, mask: Mask, weights: str) -> WeightCircuit | WeightSpace:
        """The weights that may move."""
        circuit = self.circuit(mask)
        made: dict[str, Callable[[], WeightCircuit | WeightSpace]] = {
            "circuit": lambda: circuit,
            WITH_NORMS: lambda: with_norms(circuit),
            "random": lambda: circuit.random(seed=0),
            "magnitude": lambda: circuit.magnitude(self.model),
            FULL: lambda: circuit.space,
        }
        return made[weights]()


def with_norms(circuit: WeightCircuit) -> WeightCircuit:
    """The weights that a circuit does not keep, and all norms: it keeps nearly all of them, and without norms a model
    says nothing, nor has its weights a gradient."""
    masks = {tensor.name: ~mask | (tensor.kind == "norm") for tensor, mask in circuit.masks()}
    return WeightCircuit.of(circuit.space, masks, {"weights": WITH_NORMS, "beside": circuit.metadata})


def report(run: Run, args: argparse.Namespace, made: dict[str, Any], shared: list[Shared]) -> None:
    """Write tables and figures.

    Args:
        run: that keeps the stages.
        args: of the command line.
        made: the parts that there are.
        shared: what masks have in common.
    """
    masks = {name: part for name, part in made.items() if "judged" in part}
    rows = {name: [from_json(WeightRow, each) for each in part["judged"]] for name, part in masks.items()}
    made_of = {name: [from_json(Composition, each) for each in part["made of"]] for name, part in masks.items()}
    edits = [Condition(**each) for part in made.values() for each in part["edits"]]
    run.figure("editing-efficacy", edits_figure(edits))
    run.figure("editing-steps", steps_figure(edits))
    run.figure("editing-masks", masks_figure(rows))
    reached, held = required(rows), claims(rows, made_of, edits, shared)
    shown = {"Required and reached": markdown(reached), "Claims": markdown(held)}
    results = {"required": reached, "claims": held, "parts": made, "shared": plain(shared)}
    run.finish(results, {**shown, **tables(rows, made_of, edits, shared, args)}, "knowledge-editing.md")


if __name__ == "__main__":
    main()
