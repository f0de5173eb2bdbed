"""An ensemble ranks edges by what its methods say in the mean, and they say what each says by itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits import EAP, EAPIG, METHODS, Attribution, EdgePruning, Ensemble, MaskedGradients, RelP
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.search.ensemble import mean_of_log_ranks
from tests.support.training import quiet_trainer

SCORES = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=3)
)


def fitted(search: Any, **options: Any) -> Any:
    data = IOIDataModule("tiny-ioi", n_train=12, n_val=4, n_test=4, batch_size=4)
    quiet_trainer(**options).fit(search, data)
    return search


def one_by_one(rankings: list[list[float]]) -> list[float]:
    """A rank is the number of edges that are not better than this one, itself among them, counted from the last."""
    n = len(rankings[0])
    ranks = [[n - sum(other < edge for other in scores) for edge in scores] for scores in rankings]
    return [sum(math.log(n / rank) for rank in of_edge) / len(rankings) for of_edge in zip(*ranks, strict=True)]


@given(SCORES)
def test_scores_are_means_of_log_ranks(rankings: list[list[int]]) -> None:
    found = mean_of_log_ranks(torch.tensor(rankings, dtype=torch.float32))
    assert found.tolist() == pytest.approx(one_by_one(rankings), abs=1e-6)
    assert found.min() >= 0 and found.max() <= math.log(len(rankings[0])) + 1e-6


@given(st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=30, unique=True))
def test_methods_that_agree_are_followed(scores: list[float]) -> None:
    found = mean_of_log_ranks(torch.tensor([scores, [3 * score + 1 for score in scores]], dtype=torch.float64))
    assert found.argsort(descending=True).tolist() == torch.tensor(scores).argsort(descending=True).tolist()


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("methods", [["EAP", "EAPIG"], ["RelP", "EAP", "MaskedGradients"]])
def test_each_method_says_what_it_says_by_itself(methods: list[str], absolute: bool) -> None:
    options = {"ablation": "zero", "objective": "ProbabilityDifference", "absolute": absolute}
    search = fitted(Ensemble("tiny-ioi", methods=methods, **options))
    alone: list[Tensor] = [fitted(METHODS[name]("tiny-ioi", **options)).edge_scores() for name in methods]
    rankings = [(scores.abs() if absolute else scores).tolist() for scores in alone]
    assert search.edge_scores().tolist() == pytest.approx(one_by_one(rankings), abs=1e-3)
    assert search.describe()["methods"] == methods and search.describe()["scores_are"] == "ranks"
    # Higher is better, whichever way edges are ranked.
    assert search.circuit(size=20).members.equal(search.edge_scores() >= search.edge_scores().sort().values[-20])


def test_gates_begin_there_by_default() -> None:
    search = fitted(EdgePruning("tiny-ioi"), max_steps=2)
    assert search.start.equal(fitted(Ensemble("tiny-ioi")).edge_scores())
    assert search.describe()["warm_start"]["methods"] == ["EAP", "EAPIG"]


def test_it_is_its_methods_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that is not finite is named by its edge, whichever method it is of."""
    search = Ensemble("tiny-ioi")

    def broken(self: Attribution, batch: Any) -> tuple[Tensor, None]:
        scores = torch.zeros(self.layout.n_edges)
        scores[7] = math.nan
        return scores, None

    monkeypatch.setattr(EAPIG, "attribute", broken)
    with pytest.raises(FloatingPointError, match=f"the score of {search.layout.edge_names([7])[0]} is nan in batch 0"):
        fitted(search)


def test_an_objective_without_a_gradient_for_one_of_them_is_refused() -> None:
    with pytest.raises(ValueError, match="the objective KL has no gradient at the full model"):
        fitted(Ensemble("tiny-ioi", objective="KL"))
    assert fitted(Ensemble("tiny-ioi", methods=["EAPIG", "MaskedGradients"], objective="KL")).edge_scores().any()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["EAP"], r"at least two methods, each once, got \['EAP'\]"),
        (["EAP", "EAP"], "at least two methods, each once"),
        (["EAP-IG", "eapig"], "at least two methods, each once"),
        (["EAP", "EAPP"], "methods has 'EAPP': an ensemble can be made of .*EAP, .*RelP"),
        (["EAP", "EdgePruning"], "methods has 'EdgePruning'"),
        (["EAP", "ActivationPatching"], "methods has 'ActivationPatching'"),
        (["EAP", "Ensemble"], "methods has 'Ensemble'"),
    ],
)
def test_what_is_no_ensemble_is_refused(methods: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ensemble(methods=methods)


def test_names_are_spelt_as_everywhere() -> None:
    assert Ensemble(methods=["eap-ig", "masked_gradients", "relp"]).methods == ["EAPIG", "MaskedGradients", "RelP"]


def test_methods_are_names() -> None:
    for wrong in ("EAP", [EAP(), RelP()], [MaskedGradients, EAP]):
        with pytest.raises(TypeError, match="methods takes names of attributions"):
            Ensemble(methods=wrong)  # type: ignore[arg-type]
