"""Training gates: the circuits that are learned are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of

from lightning_circuits import Circuit, CircuitSearch, EdgePruning
from lightning_circuits.gates import HardConcrete, L0Penalty, TargetSparsity
from lightning_circuits.masked import masked_logits
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.namespace import pl
from tests.support.edge_pruning import Trained, best, data, fit


def mean_kl(search: CircuitSearch, members: Tensor, batches: Any) -> float:
    """KL of a binary circuit from the full model under interchange ablation."""
    found = []
    with torch.no_grad():
        for batch in batches:
            full, corrupt = search.circuit_model.run_pair(batch)
            ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
            logits = masked_logits(search.circuit_model, members.float(), ids, mask, positions, corrupt)
            found.append(kl_of(Categorical(logits=full.double()), Categorical(logits=logits.double())))
    return torch.cat(found).mean().item()


def eap_scores(search: CircuitSearch, batches: Any) -> Tensor:
    """Minus the gradient of minus the logit difference with respect to the gates, where all are 1 (FIELD.md 1)."""
    gates = torch.ones(search.layout.n_edges, requires_grad=True)
    for batch in batches:
        full, corrupt = search.circuit_model.run_pair(batch)
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        logits = masked_logits(search.circuit_model, gates, ids, mask, positions, corrupt)
        rows = torch.arange(len(full))
        (logits[rows, batch["answers"][:, 0]] - logits[rows, batch["distractors"][:, 0]]).sum().backward()
    return gates.grad


def test_the_circuit_found_is_far_better_than_attribution_and_chance(trained: Trained) -> None:
    search, held_out = trained.search, list(trained.data.val_dataloader())
    scores = eap_scores(search, trained.data.train_dataloader())
    n = int(0.05 * search.layout.n_edges)
    circuit = search.circuit(size=0.05)
    assert circuit.n_edges == n
    found = mean_kl(search, circuit.members, held_out)
    attributed = min(mean_kl(search, best(ranking, n), held_out) for ranking in (scores, scores.abs()))
    drawn = min(mean_kl(search, Circuit.random(search.layout, n, seed).members, held_out) for seed in range(3))
    assert found < 0.4 * attributed
    assert found < 0.2 * drawn
    everything = best(search.edge_scores(), search.layout.n_edges)
    assert mean_kl(search, everything, held_out) < 1e-6  # the model itself


def test_one_run_ranks_the_edges_for_circuits_of_all_sizes(trained: Trained) -> None:
    search, held_out = trained.search, list(trained.data.val_dataloader())
    values = [mean_kl(search, search.circuit(size).members, held_out) for size in (0.02, 0.05, 0.15, 0.5)]
    assert values[0] > values[1] > values[2] and values[3] < values[1]
    circuits = [search.circuit(size) for size in (10, 24, 70)]
    assert circuits[0] <= circuits[1] <= circuits[2]


def test_hard_concrete_reaches_the_target_it_was_given() -> None:
    """...with multipliers that rise while it is not met, without a warmup that would hide it."""
    multipliers = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            multipliers.append(pl_module.gate.sparsity.multipliers.detach().clone())

    search = EdgePruning(EMBEDDED, gate=HardConcrete(TargetSparsity(0.9, warmup=0.5)))
    fit(search, 90, data(n_train=300, batch_size=4), callbacks=[Recorder()])
    assert 0.06 < search.gate.openness().item() < 0.15
    assert search.trained_size() == pytest.approx(0.1)
    assert search.circuit().n_edges == int(0.1 * search.layout.n_edges)
    held_out = list(data(n_train=300).val_dataloader())
    found = mean_kl(search, search.circuit().members, held_out)
    assert found < 0.3 * mean_kl(search, Circuit.random(search.layout, search.circuit().n_edges, 0).members, held_out)
    # The target ran ahead of the gates in between: both multipliers had to rise.
    assert max(m[0] for m in multipliers) > 0.5 and max(m[1] for m in multipliers) > 0.5


def test_multipliers_ascend_from_the_first_step_while_the_target_is_missed() -> None:
    search = EdgePruning(EMBEDDED, gate=HardConcrete(TargetSparsity(0.99, warmup=0.0)), lr=0.01)
    risen = []

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            risen.append(pl_module.gate.sparsity.multipliers.tolist())

    fit(search, 4, callbacks=[Recorder()])
    for first, second in zip([[0.0, 0.0], *risen], risen, strict=False):
        assert second[0] > first[0] and second[1] > first[1]


def test_a_price_on_open_gates_closes_them() -> None:
    shares = []
    for weight in (0.0, 20.0):
        search = EdgePruning(EMBEDDED, gate=HardConcrete(L0Penalty(weight)))
        fit(search, 25, data(batch_size=2))
        shares.append(search.gate.openness().item())
    assert shares[1] < shares[0] - 0.2
