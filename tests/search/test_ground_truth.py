"""The models of ground_truth.py are what they say they are, and methods find in them what is there.

That an edge belongs is argued in ground_truth.py; here it is checked by brute force, with the loops of oracle.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc

from lightning_circuits import (
    EAP,
    EAPIG,
    ActivationPatching,
    EdgePruning,
    Ensemble,
    ExpectedGradients,
    MaskedGradients,
    RelP,
)
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.models import wrap
from lightning_circuits.objectives import KL, LogitDifference
from lightning_circuits.search.base import CircuitSearch
from tests.support.ground_truth import SEEN, TASKS, UNSEEN, Fraction, grouped
from tests.support.oracle import ALL_OPEN, Pairs, oracle
from tests.support.training import quiet_trainer

model_of = cache(lambda name: TASKS[name].model())
SETTINGS = [
    (name, ablation, kind)
    for name, task in TASKS.items()
    for ablation, kind in [("zero", None), *(("interchange", kind) for kind in task.kinds)]
]


class BruteForce:
    """The KL from the full model when any set of edges is cut, by the oracle."""

    def __init__(self, model: nn.Module, batch: dict[str, Tensor], ablation: str, kv: str = "head") -> None:
        self.model, self.kv = model, kv
        self.batch = Pairs(*(batch[key] for key in ("clean_ids", "corrupt_ids", "attention_mask", "positions")))
        corrupt = oracle(model, ALL_OPEN, self.batch.corrupt_ids, self.batch, kv=kv)
        full = oracle(model, ALL_OPEN, self.batch.clean_ids, self.batch, kv=kv)
        self.reference = corrupt.writers if ablation == "interchange" else None
        self.edges, self.full = full.edges, full.logits.double()

    def __call__(self, cut: Iterable[str]) -> float:
        gates = dict.fromkeys(self.edges, 1.0) | dict.fromkeys(cut, 0.0)
        run = oracle(self.model, gates, self.batch.clean_ids, self.batch, self.reference, self.kv)
        full, here = self.full.log_softmax(-1), run.logits.double().log_softmax(-1)
        return float((full.exp() * (full - here)).sum(-1).mean())


@pytest.mark.parametrize("name", TASKS)
def test_the_models_do_their_tasks(name: str) -> None:
    for kind in TASKS[name].kinds:
        batch = TASKS[name].batch(24, kind)
        for side, right in (("clean_ids", "answers"), ("corrupt_ids", "distractors")):
            logits = wrap(model_of(name)).run(batch[side], batch["attention_mask"], batch["positions"])
            if name == "fraction":  # eight times the share of x among the tokens that are neither BOS nor padding
                is_x, real = batch[side] == 1, batch["attention_mask"].sum(-1) - 1
                torch.testing.assert_close(logits[:, 1], 8 * is_x.sum(-1) / real, atol=0.01, rtol=0)
            else:
                assert torch.equal(logits.argmax(-1), batch[right][:, 0])


@pytest.mark.parametrize(("name", "ablation", "kind"), SETTINGS)
def test_an_edge_matters_if_and_only_if_it_is_in_the_circuit(name: str, ablation: str, kind: str | None) -> None:
    kl = BruteForce(model_of(name), TASKS[name].batch(3, kind), ablation)
    assert TASKS[name].truth(ablation, kind) < set(kl.edges)
    for edge in kl.edges:
        found = kl([edge])
        assert found > SEEN if edge in TASKS[name].truth(ablation, kind) else abs(found) < UNSEEN, (edge, found)


@pytest.mark.parametrize(("name", "ablation", "kind"), SETTINGS)
def test_the_circuit_alone_is_enough_and_all_of_it_is_needed(name: str, ablation: str, kind: str | None) -> None:
    kl = BruteForce(model_of(name), TASKS[name].batch(6, kind), ablation)
    truth = TASKS[name].truth(ablation, kind)
    assert abs(kl(set(kl.edges) - truth)) < UNSEEN
    for edge in truth:
        assert kl(set(kl.edges) - truth | {edge}) > SEEN, edge


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_the_circuit_of_shared_readers_is_the_same_by_other_names(ablation: str) -> None:
    truth = grouped(TASKS["fraction"].truth(ablation), Fraction.heads_per_group)
    assert truth != TASKS["fraction"].truth(ablation)
    kl = BruteForce(model_of("fraction"), TASKS["fraction"].batch(3), ablation, kv="group")
    matters = {edge: kl([edge]) for edge in kl.edges}
    assert {edge for edge, found in matters.items() if found > SEEN} == truth
    assert {edge for edge, found in matters.items() if abs(found) > UNSEEN} == truth


@pytest.mark.parametrize("name", TASKS)
def test_components_that_are_not_in_the_circuit_are_busy(name: str) -> None:
    """Their outputs differ from prompt to prompt; otherwise it would be no feat to ignore them."""
    model, batch = wrap(model_of(name)), TASKS[name].batch(8)
    stacks = []
    for side in ("clean_ids", "corrupt_ids"):
        stacks.append(model.new_stack(batch[side].shape))
        model.run(batch[side], batch["attention_mask"], batch["positions"], writers=stacks[-1])
    changed = (stacks[0] - stacks[1])[:, batch["attention_mask"].bool()].abs().amax((1, 2))
    assert (changed > 0.1).all(), model.layout.writer_names


def test_what_is_claimed_of_the_two_ablations_differs() -> None:
    sizes = {
        name: (len(task.truth("zero")), len(task.truth("interchange", task.kinds[0]))) for name, task in TASKS.items()
    }
    assert sizes == {"induction": (5, 2), "reversal": (5, 2), "fraction": (5, 3)}


# ---- what methods find ---------------------------------------------------------------------------------------------


def fit(search: CircuitSearch, name: str, kind: str | None, n_batches: int, size: int = 8, **options: Any) -> None:
    batches = [TASKS[name].batch(size, kind, seed) for seed in range(n_batches)]
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    quiet_trainer(**options).fit(search, loader)


def is_true(search: CircuitSearch, name: str, kind: str | None) -> Tensor:
    """bool ``[n_edges]``: membership in the true circuit."""
    truth = TASKS[name].truth(search.ablation.name, kind)
    if search.layout.kv == "group":
        truth = grouped(truth, Fraction.heads_per_group)
    return torch.tensor([edge in truth for edge in search.layout.edge_names(range(search.layout.n_edges))])


@pytest.mark.parametrize("kv", ["head", "group"])
@pytest.mark.parametrize(("name", "ablation", "kind"), SETTINGS)
def test_exact_patching_finds_the_circuit_exactly(name: str, ablation: str, kind: str | None, kv: str) -> None:
    if kv == "group" and name != "fraction":
        pytest.skip("GPT-2 has no K/V groups")
    search = ActivationPatching(model_of(name), ablation=ablation, objective=KL(), kv=kv)
    fit(search, name, kind, n_batches=2, size=6)
    scores, true = search.edge_scores(), is_true(search, name, kind)
    assert (scores[true] > SEEN).all()
    assert (scores[~true].abs() < UNSEEN).all()
    assert torch.equal(search.circuit(int(true.sum())).members, true)
    assert torch.equal(search.circuit(threshold=SEEN).members, true)


GATES = {
    "TopK": lambda n, n_edges: TopK(SizeRange(0.5 * n / n_edges, 0.5)),
    "HardConcrete": lambda n, n_edges: HardConcrete(TargetSparsity(1 - n / n_edges, warmup=0.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("ablation", ["zero", "interchange"])
@pytest.mark.parametrize("name", TASKS)
def test_learned_masks_find_the_circuit_exactly(name: str, ablation: str, gate: str) -> None:
    layout = wrap(model_of(name)).layout
    n = len(TASKS[name].truth(ablation))
    search = EdgePruning(
        model_of(name), gate=GATES[gate](n, layout.n_edges), ablation=ablation, objective=KL(), warm_start=None
    )
    fit(search, name, None, n_batches=200, max_steps=200)
    found = set(search.circuit(n).edge_names())
    assert found == TASKS[name].truth(ablation), found ^ TASKS[name].truth(ablation)


@pytest.mark.parametrize(("name", "ablation", "kind"), SETTINGS)
def test_attribution_ranks_the_circuit_above_chance(name: str, ablation: str, kind: str | None) -> None:
    """Attribution owes nobody the exact circuit: how near it comes is printed (see with `pytest -rP`)."""
    for method in (EAP, EAPIG, ExpectedGradients, MaskedGradients, RelP, Ensemble):
        search = method(model_of(name), ablation=ablation, objective=LogitDifference())
        fit(search, name, kind, n_batches=2)
        auroc = binary_auroc(search.edge_scores().abs(), is_true(search, name, kind)).item()
        print(f"AUROC of {method.__name__}: {auroc:.3f} ({name}, {ablation}, {kind or 'all kinds'})")
        assert auroc > 0.6
