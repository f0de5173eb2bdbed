"""The experiment on knowledge editing: what it makes of edits, and says of the claims, whichever way they fall."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.weights.composition import Composition, WeightOverlap
from lightning_circuits.weights.judging import WeightRow

pytestmark = pytest.mark.usefixtures("experiments")

BEFORE, FREE, OUTSIDE = 10.0, 50, "complement and norms"


def edits(
    weights: str,
    rest: str,
    falls: Sequence[float],
    budget: str = "published",
    mask: str = "0.5-0",
    free: int = FREE,
    start: float = BEFORE,
) -> Any:
    """Edits in which the NLL of the new object falls from ``start`` by so much each; that of the true one is 5 → 6."""
    from editing_conditions import Condition

    def look(new: float, true: float, neighbours: float) -> dict[str, float | None]:
        said = {"new_nll": new, "true_nll": true, "paraphrase_new_nll": new + 1, "paraphrase_true_nll": None}
        return {**said, "neighbours": neighbours, "text_nll": 4.0}

    plain = [
        {
            "free": free,
            "epsilon": 5e-4,
            "steps": number + 1,
            "losses": [start, start - fall / 2],
            "before": look(start, 5.0, 1.0),
            "after": look(start - fall, 6.0, 0.5),
        }
        for number, fall in enumerate(falls)
    ]
    return Condition(mask, weights, rest, budget, plain)


def around(fall: float) -> list[float]:
    return [fall - 0.1, fall, fall + 0.1, fall]


def holds(claims: Sequence[dict[str, str]], word: str) -> list[str]:
    return [row["holds"] for row in claims if word in row["claim"]]


def test_edits_are_counted_by_fact() -> None:
    from editing_conditions import paired

    one, other = edits("circuit", "zero", [1.0, 4.5, 6.0]), edits("random", "zero", [3.0, 4.0, 8.0, 99.0])
    assert (
        one.fall.tolist() == [1.0, 4.5, 6.0]
        and one.end.tolist() == [9.0, 5.5, 4.0]
        and one.steps.tolist() == [1, 2, 3]
        and one.free == FREE
    )
    assert one.edited("before").tolist() == [0, 0, 0] and one.edited("after").tolist() == [0, 1, 1]
    assert one.at("after", "paraphrase_true_nll").isnan().all()
    difference = paired(one.fall, other.fall)  # of the facts that both have
    assert difference.value == pytest.approx((-2.0 + 0.5 - 2.0) / 3) and -2 <= difference.low <= difference.high <= 0.5
    assert paired(one.fall + 2, one.fall) == (2.0, 2.0, 2.0)


def test_the_full_model_is_found_with_either_rest() -> None:
    from editing_conditions import find
    from editing_tables import conditions

    full = edits("full", "keep", around(8))
    some = [edits("circuit", "zero", around(1)), edits("circuit", "keep", around(2)), full]
    assert find(some, "0.5-0", "full", "zero") is full is find(some, "0.5-0", "full", "keep")
    assert find(some, "0.5-0", "circuit", "keep") is some[1] and find(some, "0.5-1", "circuit", "keep") is None
    assert find(some, "0.5-0", "full", "keep", "same budget") is None
    assert [each.weights for _, each in conditions(some, "0.5-0", "published")] == ["circuit", "circuit", "full"]


CASES = {
    "as the paper says": {"circuit": (1, 2), OUTSIDE: (5, 6), "random": (4, 5)},
    "the model is broken": {"circuit": (1, 6), OUTSIDE: (5, 3), "random": (4, 5)},
    "beside random alone": {"circuit": (1, 2), OUTSIDE: (5, 1), "random": (4, 3)},
    "beside both": {"circuit": (3, 2), OUTSIDE: (5, 4), "random": (4, 5)},
}
"""By how much the new object falls with the rest at zero, and in the whole model."""


@pytest.mark.parametrize("case", CASES)
def test_resistance_is_the_circuits_only_if_it_resists_in_the_whole_model(case: str) -> None:
    from editing_claims import claims

    falls = CASES[case]
    some = [
        edits(name, rest, around(fall))
        for name, both in falls.items()
        for rest, fall in zip(("zero", "keep"), both, strict=True)
    ]
    said = claims({}, {}, some, [])
    circuit, complement, random = (falls[name] for name in ("circuit", OUTSIDE, "random"))
    assert holds(said, "it is the circuit") == ["yes" if circuit[1] < min(complement[1], random[1]) else "no"]
    assert holds(said, "than its complement (the rest at zero)") == ["yes"]
    assert holds(said, "than its complement (the model whole)") == ["yes" if circuit[1] < complement[1] else "no"]
    assert holds(said, "broken model") == ["yes" if circuit[1] > circuit[0] else "no"]
    assert not holds(said, "largest") and not holds(said, "fewer free weights") and not holds(said, "full model")


def test_a_fall_from_higher_up_is_no_resistance() -> None:
    from editing_claims import claims

    some = [edits("circuit", "zero", around(1), start=5.0), edits("random", "zero", around(4), start=12.0)]
    assert holds(claims({}, {}, some, []), "random weights (the rest at zero)") == ["no"], "it falls less, and is lower"


@pytest.mark.parametrize(("full", "verdict"), [(9, "yes"), (4, "no")])
def test_the_full_model_has_to_be_above_every_part(full: float, verdict: str) -> None:
    from editing_claims import claims

    parts = [edits(name, "zero", around(fall)) for name, fall in (("circuit", 1), ("random", 4), (OUTSIDE, 6))]
    assert holds(claims({}, {}, [*parts, edits("full", "keep", around(full))], []), "takes new facts best") == [verdict]


@pytest.mark.parametrize(("few", "verdict"), [(1.0, "yes"), (3.0, "no")])
def test_fewer_weights_are_those_of_the_smallest_mask(few: float, verdict: str) -> None:
    from editing_claims import claims

    some = [
        edits("random", "keep", around(3)),
        edits("random", "keep", around(9), mask="0.35-0"),
        edits("random", "keep", around(few)[:2], mask="0.05-0"),
    ]
    masks: Any = dict.fromkeys(("0.5-0", "0.35-0", "0.05-0"), ())
    assert holds(claims(masks, {}, some, []), "fewer free weights") == [verdict]
    assert not holds(claims({"0.5-0": ()}, {}, some, []), "fewer free weights"), "of one mask there is nothing to say"


def judged(trained: float, held_out: float, text: float) -> list[WeightRow]:
    def row(circuit: str, split: str, agreement: float, nll: float, rest: str = "zero") -> WeightRow:
        means = {"agreement": agreement, "answer_nll": 1.0, "text_nll": nll}
        around = {f"{name}{end}": value for name, value in means.items() for end in ("", "_low", "_high")}
        return WeightRow(circuit, rest, split, 0.5, FREE, 8, 4, **around)

    return [
        row("full", "train", 1.0, 3.0),
        row("circuit", "train", trained, 9.0),
        row("full", "test", 1.0, 3.0),
        row("circuit", "test", held_out, 3.0 + text),
        row("circuit", "test", 0.0, 99.0, rest="mean"),
    ]


@pytest.mark.parametrize(
    ("second", "reached"),
    [
        ((0.9, 0.75, 0.9), ["yes", "yes", "yes"]),
        ((0.84, 0.75, 0.9), ["no", "yes", "yes"]),
        ((0.9, 0.69, 1.1), ["yes", "no", "no"]),
    ],
)
def test_every_seed_has_to_reach_what_is_required(second: tuple[float, float, float], reached: list[str]) -> None:
    from editing_claims import required

    rows = {"0.5-0": judged(0.95, 0.8, 0.5), "0.5-1": judged(*second), "0.05-0": judged(0.1, 0.1, 9.0)}
    said = required(rows)
    assert [row["reached"] for row in said] == reached
    assert said[0]["found, by seed"] == f"0.95, {second[0]:.2f}"


def test_a_circuit_is_not_norms_because_it_keeps_them() -> None:
    from editing_claims import claims

    parts = [Composition("mlp", 900, 99, 0.99, 0.11, 1.1), Composition("norm", 1, 1, 0.01, 1.0, 10.0)]
    said = claims({}, {"0.1-0": parts}, [], [])
    assert holds(said, "as share") == ["no"] and holds(said, "as retention") == ["yes"]


def test_masks_are_alike_beside_chance() -> None:
    from editing_claims import claims
    from editing_tables import Shared, shared_rows

    def pair(a: str, b: str, z: float) -> Any:
        return Shared(a, b, WeightOverlap("whole", 9, 0.4, 0.3, z), WeightOverlap("tensor", 9, 0.4, 0.35, z))

    some = [pair("0.5-0", "0.5-1", 9.0), pair("0.5-0", "0.5-2", 2.9), pair("0.5-0", "0.05-0", 80.0)]
    said = claims({}, {}, [], some)
    assert holds(said, "seeds") == ["no"] and holds(said, "densities") == ["yes"]
    assert list(shared_rows(some)[0].values()) == ["0.5-0, 0.5-1", "0.40", "0.30", "0.35", "9"]


def test_the_complement_has_the_norms() -> None:
    from knowledge_editing import with_norms

    from lightning_circuits.weights.space import WeightSpace, WeightTensor
    from lightning_circuits.weights.weight_circuit import WeightCircuit

    space = WeightSpace((WeightTensor("n", (2,), 0, "norm"), WeightTensor("w", (3,), 0, "mlp")))
    kept = {"n": torch.tensor([True, False]), "w": torch.tensor([True, False, False])}
    outside = dict(with_norms(WeightCircuit.of(space, kept)).masks())
    assert [mask.tolist() for mask in outside.values()] == [[True, True], [False, True, True]]


def test_the_same_budget_is_that_of_masks_with_as_many_free_weights() -> None:
    from editing_tables import mask_edit_rows

    some = [
        *(edits(name, "keep", around(fall)) for name, fall in (("circuit", 1), ("random", 2), (OUTSIDE, 3))),
        edits("full", "keep", around(4), "same budget", free=2 * FREE),
        edits("circuit", "keep", around(5), mask="0.05-0", free=5),
        edits(OUTSIDE, "keep", around(6), mask="0.05-0", free=95),
        edits(OUTSIDE, "keep", around(0.5), "same budget", "0.05-0", free=95),
    ]
    rows = {(row["mask"], row["budget"]): row for row in mask_edit_rows(some, ["0.5-0", "0.05-0"], 3)
            if row["rest"] == "the model whole"}  # fmt: skip
    half, few = rows["0.5-0", "same budget"], rows["0.05-0", "same budget"]
    assert [half[name][:4] for name in ("circuit", OUTSIDE, "random", "full")] == [
        "0.75",
        "2.25",
        "1.50",
        "3.00",
    ]
    assert few[OUTSIDE].startswith("0.38") and few["circuit"].startswith("3.75") and few["full"] == ""
    assert rows["0.05-0", "published"][OUTSIDE].startswith("4.50")


def test_tables_and_figures_are_made_of_what_there_is() -> None:
    from editing_figures import edits_figure, masks_figure, steps_figure
    from editing_tables import tables

    some = [edits(name, rest, around(2)) for name in ("circuit", "random") for rest in ("zero", "keep")]
    some += [edits("full", "keep", around(8)), edits("circuit", "keep", [1.0, 9.5], "same loss")]
    rows = {"0.5-0": judged(0.95, 0.8, 0.5)}
    args = Namespace(steps=1, batch=1, facts=1, lines=4, edited=4, edit_steps=2, fewer=3, loss=1.0, most=5, matched=2)
    parts = {"0.5-0": [Composition("norm", 1, 1, 0.01, 1.0, math.nan)]}
    shown = tables(rows, parts, some, [], args)
    assert shown["What masks share"] == "Not run yet." and "(editing-efficacy.png)" in shown["Efficacy against text"]
    assert "| the model whole | circuit | 50 | 50% | 1.50 [1.00..2.00] |" in shown["Edits to the same loss"]
    assert "| none | full | 50 | 0% → 100% | 10.00 → 2.00 | 8.00 [" in shown["Edits"]
    page = (Path(__file__).parents[2] / "docs" / "papers" / "knowledge-editing.md").read_text()
    asked = {*re.findall(r"<!-- table: (.+?) -->", page)}
    assert asked == {*shown, "Claims", "Required and reached"}, "a part of a run can be written"
    assert [len(axes.get_lines()) > 0 for axes in edits_figure(some).axes] == [True, True]
    assert [len(axes.get_lines()) for axes in steps_figure(some).axes] == [3, 3], "the full model in both"
    assert [axes.get_title(loc="left") for axes in masks_figure(rows).axes][1] == "agreement, held-out facts"
