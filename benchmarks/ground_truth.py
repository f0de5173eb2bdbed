"""Which methods find a circuit that is known? AUROC of their scores for the true edges of models made by hand.

    python benchmarks/ground_truth.py --write

The models and their circuits are those of the tests (`ground_truth.py` and `planted_circuit.py` of `tests/support`),
where brute force says that these edges matter and no others. Every method of the registry is fitted on the same pairs,
those that learn for `--steps` steps on batches of 8. What has a seed is run with several, and its figures averaged.
"""

from __future__ import annotations

import inspect
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import results_page
import torch
from measuring import quiet_trainer
from options import parse, parser, write_json
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc

from lightning_circuits import METHODS, Attribution, NodePruning
from lightning_circuits.gates import SizeRange, TopK

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.ground_truth import TASKS
from tests.support.planted_circuit import PLANTED, planted_batches, planted_model

QUICK = {"steps": 2, "batches": 1, "seeds": 1}
NEEDS_A_CIRCUIT = {"SavedCircuit"}
OPTIONS: dict[str, dict[str, Any]] = {"EdgePruning": {"gate": TopK(SizeRange(0.03, 0.5))}}
"""Of 40 to 60 edges the default sizes would be none."""


class Known(NamedTuple):
    """A model, an ablation, batches of pairs that are as many as one asks for, and the names of the true edges."""

    model: nn.Module
    ablation: str
    batches: Callable[[int], list[Any]]
    truth: set[str]


def known() -> dict[str, Known]:
    """By what the column is called."""
    found = {}
    for name, task in TASKS.items():
        for ablation in ("zero", "interchange"):
            batches = lambda n, task=task: [task.batch(8, seed=seed) for seed in range(n)]  # noqa: E731
            found[f"{name}, {ablation}"] = Known(task.model(), ablation, batches, task.truth(ablation))
    return found | {"planted, interchange": Known(planted_model(), "interchange", planted_batches, set(PLANTED))}


def main() -> None:
    args = parse(parser(__doc__, steps=300, batches=10, seeds=3), QUICK)
    settings = known()
    rows, figures = [], {}
    for name in METHODS.names():
        if name in NEEDS_A_CIRCUIT:
            continue
        seeds = range(args.seeds) if "seed" in inspect.signature(METHODS[name]).parameters else [None]
        rankings = {
            setting: [fitted(name, of, seed, args.steps, args.batches) for seed in seeds]
            for setting, of in settings.items()
        }
        found = {setting: statistics.mean(map(auroc, each)) for setting, each in rankings.items()}
        exact = statistics.mean(is_exact(one) for each in rankings.values() for one in each)
        figures[name] = {**found, "exact": exact}
        cells = {setting: f"{value:.3f}" for setting, value in found.items()}
        mean = f"**{statistics.mean(found.values()):.3f}**"
        rows.append({"method": f"`{name}`", **cells, "mean": mean, "exact": f"{exact:.0%}"})
    results_page.show(rows, "AUROC for the true edges")
    write_json(args, auroc=figures)
    if args.write:
        edges = ", ".join(f"{len(of.truth)}" for of in settings.values())
        results_page.write_table(
            "ground truth",
            rows,
            f"True edges, in order of the columns: {edges}. {8 * args.batches} pairs of all kinds; edge pruning "
            f"{args.steps} steps of batch 8; {args.seeds} seeds. {results_page.command()}, {results_page.machine()}.",
        )


class Ranking(NamedTuple):
    """Of edges ``[n_edges]``: what they are ranked by, and whether each is of the true circuit."""

    scores: Tensor
    true: Tensor


def fitted(name: str, of: Known, seed: int | None, steps: int, batches: int) -> Ranking:
    """How a method ranks the edges; by |score| where it does."""
    takes = inspect.signature(METHODS[name]).parameters
    options = {**OPTIONS.get(name, {}), **({} if seed is None else {"seed": seed})}
    if "ablation" in takes or any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        options["ablation"] = of.ablation
    search = METHODS[name](of.model, **options)
    learns = not isinstance(search, (Attribution, NodePruning))
    loader: Any = DataLoader(of.batches(steps if learns else batches), batch_size=None)  # type: ignore[arg-type]
    quiet_trainer(**({"max_steps": steps} if learns else {})).fit(search, loader)
    scores = search.edge_scores().detach()
    true = [edge in of.truth for edge in search.layout.edge_names(range(search.layout.n_edges))]
    return Ranking(scores.abs() if search.absolute else scores, torch.tensor(true))


def auroc(ranking: Ranking) -> float:
    """How probable it is that a true edge stands above another one; of equal scores, one half."""
    # As ranks in [0, 1): what is outside would be taken for logits.
    ranks = ranking.scores.unique(return_inverse=True)[1] / len(ranking.scores)
    return float(binary_auroc(ranks, ranking.true))


def is_exact(ranking: Ranking) -> bool:
    """Whether every true edge stands above all others."""
    return bool(ranking.scores[ranking.true].min() > ranking.scores[~ranking.true].max())


if __name__ == "__main__":
    main()
