"""What the paper says of editing in circuits, and what was asked of the masks, held against `knowledge_editing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from editing_conditions import BESIDE, FALLEN, FIRST, FULL, RESTS, STANDING, WITH_NORMS, Condition, find, paired
from editing_tables import MadeOf, Rows, Shared, interval
from stages import number

TRAINED, HELD_OUT, TEXT = 0.85, 0.7, 1.0
"""The agreement that masks of half of the weights are to have on facts of the training and on held-out ones, and how
far the NLL of text may be above the full model's."""
NORMS = 0.6
"""The part of a circuit that is said to be LayerNorm."""
MORE = 3.0
"""So many standard deviations above chance is more than chance."""
WORDS = {
    WITH_NORMS: "than its complement",
    "random": "than as many random weights",
    "magnitude": "than as many of the largest weights",
}
Claim = tuple[str, str, str, bool]
"""What is said, what is seen, the rule, and whether it holds by it."""


def required(rows: Rows) -> list[dict[str, str]]:
    """A row for each thing that masks of half of the weights were to reach, in all seeds that there are."""
    halves = [judged for mask, judged in rows.items() if mask.startswith(f"{FIRST.density:g}-")]

    def of(split: str, circuit: str, name: str) -> list[float]:
        return [
            getattr(row, name)
            for judged in halves
            for row in judged
            if (row.split, row.circuit) == (split, circuit) and row.rest == "zero"
        ]

    trained, held_out = (of(split, "circuit", "agreement") for split in ("train", "test"))
    above = [a - b for a, b in zip(of("test", "circuit", "text_nll"), of("test", FULL, "text_nll"), strict=True)]
    asked = [
        (f"agreement of {TRAINED} or more on facts of the training", trained, min(trained, default=0.0) >= TRAINED),
        (f"agreement of {HELD_OUT} or more on held-out facts", held_out, min(held_out, default=0.0) >= HELD_OUT),
        (f"NLL of text within {TEXT} of the full model's", above, max(above, default=TEXT + 1) <= TEXT),
    ]
    return [
        {"required at density .5": what, "found, by seed": ", ".join(map(number, found)), "reached": yes(reached)}
        for what, found, reached in asked
    ]


def claims(rows: Rows, made_of: MadeOf, edits: Sequence[Condition], shared: Sequence[Shared]) -> list[dict[str, str]]:
    """A row for each claim: what is seen of it, and whether it holds by the rule that stands with it."""
    found = [*resistance(edits), *causes(edits, list(rows)), *composed(made_of), *alike(shared)]
    return [{"claim": claim, "here": here, "rule": rule, "holds": yes(holds)} for claim, here, rule, holds in found]


def resistance(edits: Sequence[Condition]) -> Iterator[Claim]:
    """Of the first mask: does a circuit take less of an edit, and the full model most?"""
    for rest, words in RESTS.items():
        circuit = find(edits, FIRST.name, "circuit", rest)
        for control in BESIDE:
            if circuit and (other := find(edits, FIRST.name, control, rest)):
                fall, height = (paired(of(circuit), of(other)) for of in (FALLEN, STANDING))
                yield (
                    f"circuits resist new facts, more {WORDS[control]} ({words})",
                    f"falls by {interval(fall)} nats more, stands {interval(height)} higher",
                    "circuit minus control, over the steps: the fall below 0, the height above it, both intervals",
                    fall.high < 0 < height.low,
                )
    full = find(edits, FIRST.name, FULL, "zero")
    parts = {name: each for name in ("circuit", *BESIDE) if (each := find(edits, FIRST.name, name, "zero"))}
    if full and parts:
        ends = {name: float(each.end.mean()) for name, each in ({FULL: full} | parts).items()}
        yield (
            "the full model takes new facts best",
            "NLL after: " + ", ".join(f"{name} {number(end)}" for name, end in ends.items()),
            "full minus every part with the rest at zero, intervals below 0",
            all(paired(full.end, each.end).high < 0 for each in parts.values()),
        )


def causes(edits: Sequence[Condition], masks: Sequence[str]) -> Iterator[Claim]:
    """Is it the circuit that resists, a model broken by pruning, or fewer free weights?"""
    whole = {name: find(edits, FIRST.name, name, "keep") for name in ("circuit", WITH_NORMS, "random")}
    circuit, *controls = whole.values()
    if circuit and all(controls):
        differences = [paired(circuit.fallen, each.fallen) for each in controls if each]
        yield (
            "it is the circuit that resists",
            f"in the whole model, {' and '.join(map(interval, differences))} nats more than complement and random",
            "the fall over the steps, circuit minus either control with the model whole, both intervals below 0",
            all(each.high < 0 for each in differences),
        )
    zeroed = find(edits, FIRST.name, "circuit", "zero")
    if circuit and zeroed:
        difference = paired(circuit.fallen, zeroed.fallen)
        yield (
            "it is the broken model that resists",
            f"the circuit's weights take {interval(difference)} nats more in the whole model",
            "the fall over the steps, whole minus zeroed, interval above 0",
            difference.low > 0,
        )
    least = min(masks, key=lambda name: float(name.rpartition("-")[0]), default=FIRST.name)
    many, few = (find(edits, mask, "random", "keep") for mask in (FIRST.name, least))
    if many and few and least != FIRST.name:
        difference = paired(many.fallen, few.fallen)
        yield (
            "it is fewer free weights that resist",
            f"random weights in the whole model, {FIRST.name} minus {least}: {interval(difference)} nats",
            "interval above 0",
            difference.low > 0,
        )
    full, halved = (find(edits, FIRST.name, FULL, "keep", budget) for budget in ("published", "same budget"))
    if full and halved:
        difference = paired(full.fallen, halved.fallen)
        yield (
            "an edit is bound by how far weights may go",
            f"full model, epsilon {full.epsilon:.1e} minus {halved.epsilon:.1e}: {interval(difference)} nats",
            "interval above 0",
            difference.low > 0,
        )


def composed(made_of: MadeOf) -> Iterator[Claim]:
    """Is much of a circuit LayerNorm?"""
    norms = {mask: part for mask, parts in made_of.items() for part in parts if part.part == "norm"}
    for name in ("share", "retention") if norms else ():
        found = {mask: getattr(part, name) for mask, part in norms.items()}
        most = max(found, key=found.__getitem__)
        yield (
            f"up to {NORMS:.0%} of a circuit is LayerNorm, as {name}",
            f"up to {found[most]:.2%} (mask {most})",
            f"{NORMS:.0%} or more in some mask",
            found[most] >= NORMS,
        )


def alike(shared: Sequence[Shared]) -> Iterator[Claim]:
    """Do several trainings find the same weights?"""
    seeds = [each for each in shared if each.a.partition("-")[0] == each.b.partition("-")[0]]
    for what, some in (("seeds", seeds), ("densities", [each for each in shared if each not in seeds])):
        if some:
            least = min(some, key=lambda each: each.tensor.z)
            iou, chance = number(least.tensor.iou), number(least.tensor.expected)
            yield (
                f"masks of several {what} share more weights than chance",
                f"nearest to chance: IoU {iou}, by chance {chance} (masks {least.a}, {least.b})",
                f"z of {MORE:g} or more against as many of every tensor, all pairs ({len(some)})",
                least.tensor.z >= MORE,
            )


def yes(holds: bool) -> str:
    return "yes" if holds else "no"
