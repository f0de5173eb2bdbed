"""Edge pruning on a model whose circuit is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of

from lightning_circuits import EAP, EAPIG, EdgePruning, Ensemble, ExpectedGradients, MaskedGradients, RelP
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.models import wrap
from tests.support.edge_pruning import as_loader, fit
from tests.support.oracle import ALL_OPEN, Pairs, oracle
from tests.support.planted_circuit import PLANTED, planted_batches, planted_model
from tests.support.training import quiet_trainer


def test_the_planted_circuit_is_what_the_oracle_says_it_is() -> None:
    """Cutting any of the three edges destroys the behaviour, keeping only the three keeps it."""
    model, batch = planted_model(), planted_batches(1)[0]
    prompts = Pairs(batch["clean_ids"], batch["corrupt_ids"], batch["attention_mask"], batch["positions"])
    carried = oracle(model, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    full = oracle(model, ALL_OPEN, prompts.clean_ids, prompts)
    layout = wrap(model).layout

    def kl(gates: Mapping[str, float]) -> float:
        logits = oracle(model, gates, prompts.clean_ids, prompts, carried).logits
        return kl_of(Categorical(logits=full.logits), Categorical(logits=logits)).mean().item()

    names = layout.edge_names(range(layout.n_edges))
    only = kl({name: float(name in PLANTED) for name in names})
    destroyed = kl(dict.fromkeys(names, 0.0))
    assert destroyed > 0.5 and only < 0.02 * destroyed
    for cut in PLANTED:
        assert kl({name: float(name != cut) for name in names}) > 0.9 * destroyed


@pytest.mark.parametrize(
    "gate",
    [TopK(SizeRange(0.03, 0.5)), HardConcrete(TargetSparsity(1 - 3 / 46, warmup=0.5))],
    ids=lambda gate: type(gate).__name__,
)
def test_a_planted_circuit_is_found_edge_by_edge(gate: Any) -> None:
    search = EdgePruning(planted_model(), gate=gate)
    assert search.layout.n_edges == 46
    fit(search, 100, as_loader(planted_batches(20)))
    assert set(search.circuit(3).edge_names()) == set(PLANTED)


@pytest.mark.parametrize("method", [EAP, EAPIG, ExpectedGradients, MaskedGradients, RelP, Ensemble])
def test_a_planted_circuit_is_what_attribution_ranks_first(method: Any) -> None:
    search = method(planted_model())
    quiet_trainer().fit(search, as_loader(planted_batches(4)))
    assert set(search.circuit(3).edge_names()) == set(PLANTED)
