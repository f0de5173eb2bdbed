"""Arguments of callbacks: an object or a name, one or several; what is wrong is one error that names the argument."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_circuits import EAPIG, EdgePruning
from lightning_circuits.ablation import GroupMeanAblation, ZeroAblation
from lightning_circuits.callbacks import CircuitExport, CircuitProbe, FaithfulnessCurve, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.objectives import KL, LogitDifference


def names(callback: Any) -> list[str]:
    return [ablation.name for ablation in callback.ablations]


@pytest.mark.parametrize("callback", [FaithfulnessValidation, FaithfulnessCurve])
def test_ablations_are_names_or_objects_one_or_several(callback: Any) -> None:
    zero = ZeroAblation()
    assert names(callback(ablations="mean")) == ["mean"]
    assert callback(ablations=zero).ablations == [zero]
    assert names(callback(ablations=["interchange", zero, "zero", "interchange"])) == ["interchange", "zero"]


@pytest.mark.parametrize("callback", [FaithfulnessValidation, FaithfulnessCurve])
def test_two_ablations_of_one_name_have_to_be_the_same(callback: Any) -> None:
    """Rows go by the name."""
    both = [GroupMeanAblation("corrupt"), GroupMeanAblation("clean")]
    assert names(callback(ablations=[both[1], "mean-group"])) == ["mean-group"]
    with pytest.raises(ValueError, match=r"two ablations are called 'mean-group', and are not the same: set the name"):
        callback(ablations=both)
    both[0].name = "mean-group of corrupt prompts"
    assert names(callback(ablations=both)) == ["mean-group of corrupt prompts", "mean-group"]


def test_lone_values_are_one_of_several() -> None:
    assert FaithfulnessValidation(sizes=0.1).sizes == [0.1]
    assert CircuitExport("x", formats="json", sizes=50).formats == ["json"]
    assert CircuitExport("x", formats="json", sizes=50).sizes == [50]
    assert FaithfulnessCurve(rankings="absolute").rankings == ["absolute"]
    assert CircuitProbe(probed(), sizes=0.1).sizes == [0.1]


def probed() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=2, n_val=2, n_test=2)


def test_a_method_s_name_scores_as_the_probe_says_and_an_object_as_it_says_itself() -> None:
    by_name = CircuitProbe(probed(), method="EAP-IG", objective="KL", ablation="zero").method
    assert isinstance(by_name, EAPIG) and (by_name.steps, by_name.absolute) == (5, True)
    assert isinstance(by_name.objective, KL) and by_name.ablation.name == "zero"
    own = CircuitProbe(probed(), method=EAPIG(steps=3), ablation="zero").method
    assert (own.steps, own.absolute, own.ablation.name) == (3, True, "interchange")  # type: ignore[attr-defined]
    assert isinstance(own.objective, LogitDifference)
    trained = CircuitProbe(probed(), method="edge-pruning", ablation="mean")
    assert isinstance(trained.method, EdgePruning) and trained.training_steps == 50
    assert isinstance(trained.method.objective, KL) and trained.method.ablation.name == "mean"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FaithfulnessValidation(every_n_steps=0), "every_n_steps is 0: it has to be at least 1"),
        (lambda: FaithfulnessValidation(ablations=["interchnage"]), "unknown ablation 'interchnage'"),
        (lambda: FaithfulnessValidation(ablations=[]), "no ablation"),
        (lambda: FaithfulnessValidation(measure="accuracy"), "unknown measure 'accuracy'; choose one of logit_"),
        (lambda: FaithfulnessCurve(measure=lambda *_: 0), "has no name: write it with def"),
        (lambda: CircuitExport("x", formats=["json", "jpg"]), "unknown format 'jpg': choose from json, pt"),
        (lambda: CircuitExport("x", formats=[]), "no format"),
        (lambda: CircuitExport("x", monitor="loss"), "monitor is one of 'kl', 'faithfulness', 'accuracy', got 'loss'"),
        (lambda: CircuitExport("x", save_top_k=-2), "save_top_k is -2"),
        (lambda: FaithfulnessCurve(sizes=[0.1]), "at least two sizes"),
        (lambda: FaithfulnessCurve(sizes=[0.1, 0.1]), "at least two sizes"),
        (lambda: FaithfulnessCurve(rankings=["best"]), "rankings is one of 'signed', 'absolute', got 'best'"),
        (lambda: FaithfulnessCurve(rankings=[]), "no ranking"),
        (lambda: FaithfulnessCurve(ablations="nonsense"), "unknown ablation 'nonsense'"),
        (lambda: FaithfulnessCurve(ablations=[]), "no ablation"),
        (lambda: CircuitProbe(probed(), every_n_steps=0), "every_n_steps is 0: it has to be at least 1"),
        (lambda: CircuitProbe(probed(), sizes=[]), "no size of a circuit"),
        (lambda: CircuitProbe(probed(), faithfulness=0), "reached by the empty circuit"),
        (lambda: CircuitProbe(probed(), method="ACDC"), "not by 'ACDC'; choose one of .*EAPIG, .*EdgePruning"),
        (
            lambda: CircuitProbe(probed(), method="NodePruning"),
            "by attribution or by EdgePruning, not by 'NodePruning'",
        ),
        (lambda: CircuitProbe(probed(), method=EAPIG("tiny-ioi")), "leave its model out"),
        (lambda: CircuitProbe(probed(), method=EdgePruning("tiny-ioi")), "leave its model out"),
        (lambda: CircuitProbe(probed(), method=EdgePruning(spans=True)), "tells no spans of tokens apart"),
        (lambda: CircuitProbe(probed(), method=EdgePruning(), objective="KL"), "EdgePruning says its own, give it"),
        (lambda: CircuitProbe(probed(), training_steps=50), "training_steps: EAPIG is not trained"),
        (lambda: CircuitProbe(probed(), method="EdgePruning", training_steps=0), "training_steps is 0"),
        (lambda: CircuitProbe(probed(), method=EAPIG(), objective="KL"), "EAPIG says its own, give it there"),
        (lambda: CircuitProbe(probed(), ablation="noise"), "unknown ablation 'noise'"),
        (lambda: CircuitProbe(probed(), objective="noise"), "unknown objective 'noise'"),
    ],
)
def test_values_that_make_no_sense_are_said_when_they_are_given(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FaithfulnessValidation(every_n_steps="often"), "every_n_steps takes a whole number, got 'often'"),
        (lambda: FaithfulnessValidation(sizes="1%"), "sizes takes shares .* got '1%'"),
        (lambda: FaithfulnessValidation(sizes=[0.1, None]), "sizes takes shares"),
        (lambda: FaithfulnessValidation(ablations=3), "ablations takes"),
        (lambda: FaithfulnessValidation(ablations=[None]), "ablations takes"),
        (lambda: FaithfulnessValidation(seed=None), "seed takes a whole number"),
        (lambda: CircuitExport("x", formats=7), "formats takes names of formats"),
        (lambda: CircuitExport("x", sizes=True), "sizes takes shares"),
        (lambda: CircuitExport("x", save_top_k=1.5), "save_top_k takes a whole number"),
        (lambda: CircuitExport(7), "dirpath takes a folder, got 7"),
        (lambda: FaithfulnessCurve(rankings=1), "rankings takes 'signed' or 'absolute'"),
        (lambda: FaithfulnessCurve(measure=3), "measure takes a Measure or a name"),
        (lambda: CircuitProbe(probed(), measure=["kl"]), "measure takes a Measure or a name"),
        (lambda: FaithfulnessCurve(random="yes"), "random takes True or False"),
        (lambda: FaithfulnessCurve(dirpath=7), "dirpath takes a folder, got 7"),
        (lambda: CircuitProbe("pairs.jsonl"), "data takes a data module, got 'pairs.jsonl'"),
        (lambda: CircuitProbe(probed(), method=7), "method takes an attribution, an EdgePruning, or the name of one"),
        (
            lambda: CircuitProbe(probed(), method=EdgePruning),
            "method takes an attribution, an EdgePruning, or the name",
        ),
        (lambda: CircuitProbe(probed(), method="EdgePruning", training_steps=0.5), "training_steps takes a whole num"),
        (lambda: CircuitProbe(probed(), objective=7), "objective takes"),
        (lambda: CircuitProbe(probed(), ablation=7), "ablation takes"),
        (lambda: CircuitProbe(probed(), model=7), "model takes"),
        (lambda: CircuitProbe(probed(), faithfulness="high"), "faithfulness takes a number"),
    ],
)
def test_wrong_types_are_said_when_they_are_given(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()
