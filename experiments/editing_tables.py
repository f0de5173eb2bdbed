"""The tables of `knowledge_editing.py`: plain numbers in, Markdown out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from editing_conditions import (
    BESIDE,
    FALL,
    FALLEN,
    FIRST,
    FULL,
    RESTS,
    STANDING,
    WITH_NORMS,
    Condition,
    as_large,
    find,
    paired,
)
from stages import markdown, number, with_interval

from lightning_circuits.evaluation.metrics.bootstrap import Estimate, mean_estimate
from lightning_circuits.files.numbers import from_json
from lightning_circuits.weights.composition import Composition, WeightOverlap
from lightning_circuits.weights.judging import WeightRow

MISSING = "Not run yet."

Rows = Mapping[str, Sequence[WeightRow]]
"""By the name of the mask: the full model, the circuit and its controls, on facts of the training and of the test."""
MadeOf = Mapping[str, Sequence[Composition]]
"""By the name of the mask: what it is made of, by kind."""


@dataclass(frozen=True)
class Shared:
    """What two masks have in common, by what random ones have as many of: weights in the whole, or in every tensor."""

    a: str
    b: str
    whole: WeightOverlap
    tensor: WeightOverlap

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Shared:
        """From plain data."""
        return cls(said["a"], said["b"], *(from_json(WeightOverlap, said[within]) for within in ("whole", "tensor")))


# ---- cells -----------------------------------------------------------------------------------------------------------


def interval(found: Estimate) -> str:
    return with_interval(*found, between="..")


def change(edits: Condition, name: str) -> str:
    """A number of `Look` before and after, in the mean over facts."""
    return " → ".join(number(float(edits.at(moment, name).mean())) for moment in ("before", "after"))


# ---- masks -----------------------------------------------------------------------------------------------------------


def mask_rows(rows: Rows) -> list[dict[str, str]]:
    """A row for the full model, and for each mask and control: with the rest at zero, or at its mean."""
    found = []
    for mask, judged in rows.items():
        trained = {row.circuit: row for row in judged if row.split == "train"}
        for row in judged:
            if row.split == "test" and (row.circuit != FULL or not found):
                zero = trained[row.circuit] if row.rest == "zero" else None
                found.append(
                    {
                        "mask": mask if row.circuit != FULL else "",
                        "weights": row.circuit,
                        "rest": row.rest if row.circuit != FULL else "",
                        "kept": f"{row.density:.1%}",
                        "trained: agreement": judged_cell(zero, "agreement"),
                        "held out: agreement": judged_cell(row, "agreement"),
                        "held out: NLL of the answer": judged_cell(row, "answer_nll"),
                        "text, NLL a token": judged_cell(row, "text_nll"),
                    }
                )
    return found


def judged_cell(row: WeightRow | None, name: str) -> str:
    if row is None:
        return ""
    return interval(Estimate(*(getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))))


def made_of_rows(made_of: MadeOf) -> list[dict[str, str]]:
    """A row for each mask, a column for each kind of weights."""
    return [
        {
            "mask": mask,
            **{
                f"{part.part} ({part.weights:,})": f"{part.share:.2%}, {part.retention:.1%}, {part.enrichment:.2f}"
                for part in parts
            },
        }
        for mask, parts in made_of.items()
    ]


def shared_rows(shared: Sequence[Shared]) -> list[dict[str, str]]:
    """A row for each two masks."""
    return [
        {
            "masks": f"{each.a}, {each.b}",
            "IoU": number(each.tensor.iou),
            "by chance, whole": number(each.whole.expected),
            "by chance, tensor": number(each.tensor.expected),
            "z, tensor": f"{each.tensor.z:,.0f}",
        }
        for each in shared
    ]


# ---- edits -----------------------------------------------------------------------------------------------------------


def conditions(edits: Sequence[Condition], mask: str, budget: str) -> list[tuple[str, Condition]]:
    """Those of a mask and budget, with what the rest is in words: all with the rest at zero, then all in the model
    whole, each with the full model."""
    return [
        (words if weights != FULL else "none", each)
        for rest, words in RESTS.items()
        for weights in ("circuit", *BESIDE, FULL)
        if (each := find(edits, mask, weights, rest, budget)) and (weights != FULL or rest == "keep")
    ]


def edit_rows(edits: Sequence[Condition], mask: str, loss: float | None = None) -> list[dict[str, str]]:
    """A row for each condition: as published, or until the NLL of the new object is no higher than ``loss``."""

    def to_loss(each: Condition) -> dict[str, str]:
        if loss is None:
            return {}
        reached = (each.at("after", "new_nll") <= loss).double()
        return {"reached": f"{float(reached.mean()):.0%}", "steps": interval(mean_estimate(each.steps))}

    return [
        {
            "rest": words,
            "weights": each.weights,
            "free": f"{each.free:,}",
            **to_loss(each),
            "edited": " → ".join(f"{float(each.edited(moment).mean()):.0%}" for moment in ("before", "after")),
            "NLL of the new object": change(each, "new_nll"),
            "falls by": interval(mean_estimate(each.fall)),
            "NLL of the true object": change(each, "true_nll"),
            "new object, paraphrased": change(each, "paraphrase_new_nll"),
            "neighbours kept": f"{float(each.at('after', 'neighbours').mean()):.0%}",
            "text, NLL a token": change(each, "text_nll"),
        }
        for words, each in conditions(edits, mask, "published" if loss is None else "same loss")
    ]


def difference_rows(edits: Sequence[Condition], mask: str) -> list[dict[str, str]]:
    """Three rows for each rest: by how much more the NLL of the new object falls in a circuit than in each control, on
    the way and in the end, and how much higher it stands on the way."""
    shown = {"falls by, mean over steps": FALLEN, "stands at, mean over steps": STANDING, "falls by": FALL}
    rows = []
    for rest, words in RESTS.items():
        if circuit := find(edits, mask, "circuit", rest):
            others = {f"minus {name}": find(edits, mask, name, rest) for name in (*BESIDE, FULL)}
            others["minus full, same budget"] = find(edits, mask, FULL, rest, "same budget")
            for what, of in shown.items():
                cells = {name: interval(paired(of(circuit), of(each))) if each else "" for name, each in others.items()}
                rows.append({"rest": words, "NLL of the new object": what, **cells})
    return rows


def mask_edit_rows(edits: Sequence[Condition], masks: Sequence[str], n: int) -> list[dict[str, str]]:
    """A row for each mask, rest and budget, a column for each kind of weights; of the first n facts."""

    def cell(found: Condition | None) -> str:
        return interval(mean_estimate(found.fallen[:n])) if found else ""

    rows = []
    for mask in masks:
        for rest, words in RESTS.items():
            for budget in ("published", "same budget"):
                found = {weights: find(edits, mask, weights, rest, budget) for weights in ("circuit", *BESIDE, FULL)}
                if budget == "same budget":  # those that have it already as published
                    circuit = find(edits, mask, "circuit", rest)
                    found |= {
                        name: same
                        for name in ("circuit", *BESIDE)
                        if circuit and (same := find(edits, mask, name, rest)) and as_large(same.free, circuit.free)
                    }
                text = {
                    f"text before, {name}": change(each, "text_nll").split(" → ")[0]
                    for name in ("circuit", "random")
                    if (each := find(edits, mask, name, rest))
                }
                cells = {weights: cell(each) for weights, each in found.items()}
                rows.append({"mask": mask, "rest": words, "budget": budget, **cells, **text})
    return rows


# ---- all -------------------------------------------------------------------------------------------------------------


def tables(
    rows: Rows, made_of: MadeOf, edits: Sequence[Condition], shared: Sequence[Shared], args: argparse.Namespace
) -> dict[str, str]:
    """All tables and figures by their headings, each with the words that say what it was measured on."""
    trained = f"Masks by weight pruning: {args.steps} steps of {args.batch} of {args.facts} facts and 4 lines of text"
    judged = next(iter(rows.values()))
    held_out = next(row for row in judged if row.split == "test")
    on = f"{trained}. {held_out.prompts} test facts, {held_out.lines} lines of text; intervals: 95 %, bootstrap"
    each = (
        "Facts of the test split, each edited by itself by gradient descent of 5e-4, epsilon 5e-4 where nothing else "
        f"is said; text: {args.lines} lines. {trained}. Intervals: 95 %, bootstrap over facts"
    )
    names = "Masks by density and seed"
    made = {
        "What masks are worth": (
            mask_rows(rows),
            "Agreement with the full model's next token. *Random* and *magnitude* keep as many weights of every tensor "
            f"as the circuit, *random, whole* as many in all. {names}. {on}.",
        ),
        "What masks are made of": (
            made_of_rows(made_of),
            "Share of the mask, retention, enrichment (retention over density); in brackets, how many weights there "
            f"are. {names}. {trained}.",
        ),
        "Edits": (
            edit_rows(edits, FIRST.name),
            f"Before → after, means over {args.edited} facts, {args.edit_steps} steps. *Edited*: the new object is "
            f"likelier than the true one. *{WITH_NORMS.capitalize()}*: what the circuit does not keep, and all norms. "
            f"Mask {FIRST.name}. {each}.",
        ),
        "Circuit minus control": (
            difference_rows(edits, FIRST.name),
            "By how many nats more the NLL of the new object falls in the circuit than in the control, of the same "
            "facts, and how much higher it stands: over the steps, a circuit that resists has the first below 0 and "
            f"the second above. {args.edited} facts, {args.edit_steps} steps; *same budget*: "
            f"epsilon times the free weights. Mask {FIRST.name}. {each}.",
        ),
        "Edits in other masks": (
            mask_edit_rows(edits, list(rows), args.fewer),
            f"By how many nats the NLL of the new object falls, in the mean over {args.edit_steps} steps, and the "
            f"NLL of text before. The first {args.fewer} of the facts. *Same budget*: epsilon is so much less as more "
            f"weights are free than in the circuit. {names}. {each}.",
        ),
        "What masks share": (
            shared_rows(shared),
            "IoU of the weights that two masks keep, and that of random masks in the mean: of as many weights, or of "
            f"as many of every tensor; z by the latter. {names}. {trained}.",
        ),
        "Edits to the same loss": (
            edit_rows(edits, FIRST.name, args.loss),
            f"Until the NLL of the new object is {args.loss:g} or less, {args.most} steps at most. Before → after, "
            f"means over {args.matched} facts. Mask {FIRST.name}. {each}.",
        ),
    }
    figures = {
        "Efficacy against text": (
            "![How far facts are edited against the NLL of text](editing-efficacy.png)",
            "*How far the NLL of the new object falls, against that of ordinary text after the edit, as published: "
            "what may move by colour, the mask by marker. Bars: 95 % intervals over facts.*",
        ),
        "Step by step": (
            "![The NLL of the new object, step by step](editing-steps.png)",
            f"*The NLL of the new object after each step, mean over {args.edited} facts, mask {FIRST.name}, as "
            "published.*",
        ),
        "The frontier": (
            "![Agreement and the NLL of text against density](editing-masks.png)",
            "*Agreement with the full model, and the NLL of ordinary text, against the share of the weights that is "
            "kept, the rest at zero; black: the full model. Bars: 95 % intervals over facts or lines; each seed a "
            "marker.*",
        ),
    }
    return {
        **{heading: f"{markdown(some)}\n\n{words}" if some else MISSING for heading, (some, words) in made.items()},
        **{heading: f"{picture}\n\n{words}" for heading, (picture, words) in figures.items()},
    }


def plain(shared: Sequence[Shared]) -> list[dict[str, Any]]:
    """As JSON data."""
    return [{**asdict(each), "whole": each.whole.to_dict(), "tensor": each.tensor.to_dict()} for each in shared]
