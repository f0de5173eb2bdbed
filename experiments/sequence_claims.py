"""What the paper says, held against the numbers of `sequence_continuation`: a rule for each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from sequence_tables import Matrix, Parts, Removed
from stages import number

from lightning_circuits.evaluation.overlap import Overlap
from lightning_circuits.evaluation.transfer import match_of

SELDOM = 0.05
"""A share of random draws that is called few."""


def claims(
    results: Mapping[str, Any],
    orders: Mapping[str, Sequence[Overlap]],
    removal: Mapping[str, Removed],
    matrices: Mapping[str, Matrix],
    shared: Mapping[str, Parts],
    aside: Sequence[str],
) -> list[dict[str, str]]:
    """A row for each claim: what it says, what is seen, and whether it holds by the rule that stands with it.

    Args:
        results: plain data, as they are kept.
        orders: of each task, what the circuits of each two orders share.
        removal: of all data.
        matrices: of the methods, circuits on each other's data.
        shared: of the methods, what each two circuits have in common.
        aside: the data that have no circuits here, all but the first no sequences.
    """
    tasks, (tens, *others) = list(orders), aside if len(aside) > 1 else ["", *aside]
    rows = []

    def say(claim: str, here: str, holds: bool, rule: str) -> None:
        rows.append({"claim": claim, "here": here, "rule": rule, "holds": "yes" if holds else "no"})

    for method, pairs in shared.items():
        above = [nodes.iou > nodes.high for nodes, _ in pairs.values()]
        say(
            f"circuits of different sequences share their nodes ({method})",
            f"{sum(above)} of {len(above)} pairs above what chance gives",
            all(above),
            "IoU above the 95 % interval of as many nodes of each layer, in all pairs",
        )
    for method, found in matrices.items():
        own = mean(found[task][task].faithfulness for task in tasks)
        crossed = mean(found[data][name].faithfulness for data in tasks for name in tasks if data != name)
        matched = mean(found[data][match_of(name)].faithfulness for data in tasks for name in tasks)
        say(
            f"a circuit does what other sequences ask for ({method})",
            f"mean f {number(own)} on its own data, {number(crossed)} on others', {number(matched)} of matched random "
            "circuits",
            crossed > own / 2,
            "more than half of f on its own data",
        )
    few = [task for task in tasks if removal[task].p <= SELDOM]
    say(
        "the sequences need the shared heads more than other heads of the same layers",
        f"{len(few)} of {len(tasks)} sequences" + (f": {', '.join(few)}" if few else ""),
        len(few) == len(tasks),
        f"random heads take as much in at most {SELDOM:.0%} of the draws, on all",
    )
    if tens:
        found_tens = removal[tens]
        say(
            "so do steps of ten",
            f"{found_tens.share:.2f} of F(M) left, p {found_tens.p:.2f}",
            found_tens.p <= SELDOM,
            "the same",
        )
    for other in others:
        say(
            f"but {other} does not",
            f"{removal[other].share:.2f} of F(M) left, p {removal[other].p:.2f}",
            removal[other].p > SELDOM,
            "random heads take as much more often",
        )
    lowest = min((each.iou for found in orders.values() for each in found), default=1.0)
    chance = [each.iou > each.high for found in orders.values() for each in found]
    say(
        "a circuit of node pruning does not depend on the order of the sweeps",
        f"node IoU of two orders from {lowest:.2f} up; {sum(chance)} of {len(chance)} above what chance gives",
        lowest >= 0.8,
        "IoU of .8 at least",
    )
    best = {task: max(map(max, found["next"])) for task, found in results["ov"].items()}
    say(
        "some head has the next member among its first five tokens, by its weights",
        "; ".join(f"{task} {score:.0%}" for task, score in best.items()),
        bool(best) and min(best.values()) >= 0.5,
        "for half of the members at least, of every sequence",
    )
    return rows
