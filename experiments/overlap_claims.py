"""What `faithfulness_and_overlap.py` was to reach on SmolLM2-135M, and whether it did, whichever way it falls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean

from overlap_tables import SHARES, Judged
from stages import number

from lightning_circuits.evaluation.transfer import RANDOM, Transfer, TransferPair

FAITHFUL = 0.85
AT = {"IOI": 0.03, "capital": 0.03, "gender": 0.03, "agreement": 0.02}
"""The share of the edges at which circuits of EAP-IG are to be faithful."""
TRAINED_BY, TRAINED_TO, TASKS_TRAINED, ACCURATE = 0.01, 1.15, 5, 0.9
"""By which share, and up to which f, edge pruning is to be faithful; on how many tasks; the part of the full model's
accuracy."""
OWN, CHANCE = 0.7, 0.03
"""f of circuits on their own task, and how far from 0 it may be of random edges."""
ALIKE, APART = 0.55, 0.1
"""IoU of nodes, and f, of two circuits that share their nodes and do nothing for each other."""


def claims(tasks: Mapping[str, Judged], transfers: Mapping[str, Transfer]) -> list[dict[str, str]]:
    """A row for each claim: what was found, and whether that is as required."""
    found = [*attributed(tasks), *trained(tasks)]
    if "EAP-IG" in transfers:
        found += crossed(transfers["EAP-IG"])
    return [{"required": claim, "found": what, "reached": "yes" if reached else "no"} for claim, what, reached in found]


def attributed(tasks: Mapping[str, Judged]) -> Iterator[tuple[str, str, bool]]:
    for task, share in AT.items():
        if f := [row.faithfulness for row in tasks[task].at("EAP-IG", share)] if task in tasks else []:
            yield (
                f"EAP-IG, {task}: f at {share:.0%} of the edges is {FAITHFUL} or more, in the mean of two seeds",
                f"{number(fmean(f))} ({', '.join(map(number, f))})",
                fmean(f) >= FAITHFUL,
            )


def trained(tasks: Mapping[str, Judged]) -> Iterator[tuple[str, str, bool]]:
    claim = (
        f"edge pruning: f from {FAITHFUL} to {TRAINED_TO} with {ACCURATE:.0%} of the model's accuracy by "
        f"{TRAINED_BY:.0%} of the edges, on {TASKS_TRAINED} of 6 tasks"
    )
    reached = {}
    for name, judged in tasks.items():
        rows = [row for share in SHARES if share <= TRAINED_BY for row in judged.at("edge pruning", share)]
        if rows:
            good = [
                row
                for row in rows
                if FAITHFUL <= row.faithfulness <= TRAINED_TO and row.accuracy >= ACCURATE * judged.full.accuracy
            ]
            reached[name] = min((row.size for row in good), default=None)
    if reached:
        words = [f"{name} {'no' if size is None else f'at {size:.1%}'}" for name, size in reached.items()]
        number_of = sum(size is not None for size in reached.values())
        yield claim, f"{number_of} of {len(reached)}: {', '.join(words)}", number_of >= TASKS_TRAINED


def crossed(found: Transfer) -> Iterator[tuple[str, str, bool]]:
    own = {name: found.row(name, name).faithfulness for name in found.circuits}
    worst = min(own, key=own.__getitem__)
    yield (
        f"matrix of EAP-IG: f is {OWN} or more on the diagonal",
        f"from {number(own[worst])} ({worst})",
        own[worst] >= OWN,
    )

    chance = [found.row(name, RANDOM).faithfulness for name in found.data]
    farthest = max(chance, key=abs)
    yield (
        f"matrix of EAP-IG: f of random edges is within {CHANCE} of 0",
        f"up to {farthest:.3f}",
        abs(farthest) <= CHANCE,
    )

    def apart(pair: TransferPair) -> float:
        return pair.overlap.iou if abs(pair.row.faithfulness) <= APART else 0.0

    pairs = found.pairs(found.ablations[0], "nodes", "layer")
    best = max(pairs, key=apart)
    yield (
        f"matrix of EAP-IG: two circuits with a node IoU of {ALIKE} or more, and f within {APART} of 0",
        f"{best.row.circuit} on {best.row.data}: IoU {number(best.overlap.iou)}, by chance "
        f"{number(best.overlap.expected)} (layer null); f {number(best.row.faithfulness)}",
        apart(best) >= ALIKE,
    )
