"""Attribution where the loss has no gradient is refused, by what the loss is and not by its name; no other is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import (
    EAP,
    EAPIG,
    CleanCorrupted,
    EAPIGActivations,
    Ensemble,
    ExpectedGradients,
    MaskedGradients,
    RelP,
)
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import SizeRange
from lightning_circuits.models import wrap
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import OBJECTIVES, Maximise
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.no_gradient import require_gradient_at_the_full_model
from tests.support.oracle import pairs
from tests.support.tiny_models import VOCABULARY, tiny_model
from tests.support.training import quiet_trainer


def batch_of() -> Any:
    prompts = pairs("left")
    return vars(prompts) | {"answers": torch.tensor([[1], [2]]), "distractors": torch.tensor([[3], [4]])}


def own_distance(logits: Tensor, batch: Any, full: Tensor) -> Tensor:
    return (logits.softmax(-1) - full.softmax(-1)).square().sum(-1)


def own_divergence(logits: Tensor, batch: Any, full: Tensor) -> Tensor:
    """Minimal at the full model, though it is no 0 there: cross entropy with what the full model says."""
    return -(full.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def absolute_change(logits: Tensor, batch: Any, full: Tensor) -> Tensor:
    return (logits - full).abs().sum(-1)


DISTANCES = ["KL", "MatchLogitDifference", Maximise(lambda *of: -own_distance(*of)), own_distance, own_divergence]
DISTANCES += [absolute_change]
ENOUGH = [
    lambda logits, batch, full: (1 - logits.gather(1, batch["answers"][:, :1])[:, 0]).relu(),
    lambda logits, batch, full: OBJECTIVES.make("KL")(logits, batch, full) + 0.01 * logits[:, 3],
    lambda logits, batch, full: -(full.softmax(-1) * logits).sum(-1),
]
OTHERS = ["LogitDifference", "CrossEntropy", "ProbabilityDifference", *ENOUGH]


@pytest.mark.parametrize("objective", DISTANCES)
def test_a_distance_from_the_full_model_has_no_gradient_there(objective: Any) -> None:
    with pytest.raises(ValueError, match=r"no gradient at the full model.*such as LogitDifference.*EAPIG"):
        require_gradient_at_the_full_model(OBJECTIVES.make(objective), batch_of(), VOCABULARY)


@pytest.mark.parametrize("objective", OTHERS)
def test_whatever_else_is_asked_has_one(objective: Any) -> None:
    require_gradient_at_the_full_model(OBJECTIVES.make(objective), batch_of(), VOCABULARY)


@pytest.mark.parametrize("objective", ["CrossEntropy", ENOUGH[0]])
def test_a_model_that_is_sure_is_no_reason_to_refuse(objective: Any) -> None:
    """What it says of a sure prompt is next to nothing, or nothing; of another prompt it may be more."""
    stock = tiny_model("gpt2", torch.float32)
    model, batch = wrap(stock), batch_of()
    head = stock.lm_head.weight.data
    before = head.clone()
    try:
        head *= 1000.0
        batch["answers"] = model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"]).topk(1).indices
        found = gradient_scores(model, batch, ABLATIONS.make("zero"), OBJECTIVES.make(objective))
    finally:
        head.copy_(before)
    assert found.edges.abs().max() < 1e-6


class Begun(pl.Callback):
    """Whether a run has come as far as to train: what is refused before, a command says in one line."""

    told = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.told = True


METHODS: dict[str, tuple[Any, bool]] = {
    "EAP": (lambda **options: EAP("tiny-ioi", **options), True),
    "RelP": (lambda **options: RelP("tiny-ioi", **options), True),
    "an ensemble with EAP": (lambda **options: Ensemble("tiny-ioi", **options), True),
    "one step over activations": (lambda **options: EAPIGActivations("tiny-ioi", steps=1, **options), True),
    "masks with all edges": (
        lambda **options: MaskedGradients("tiny-ioi", masks=1, sizes=SizeRange(1.0, 1.0), **options),
        True,
    ),
    "EAP-IG": (lambda **options: EAPIG("tiny-ioi", steps=1, **options), False),
    "both ends": (lambda **options: CleanCorrupted("tiny-ioi", **options), False),
    "over activations": (lambda **options: EAPIGActivations("tiny-ioi", steps=2, **options), False),
    "expected": (lambda **options: ExpectedGradients("tiny-ioi", **options), False),
    "masks": (lambda **options: MaskedGradients("tiny-ioi", masks=2, **options), False),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_pass_ends_before_it_begins_where_no_point_has_a_gradient(method: str, dtype: str) -> None:
    make, at_full_model_alone = METHODS[method]
    data = IOIDataModule("tiny-ioi", n_train=4, n_val=4, n_test=4, batch_size=1)
    for objective in ("KL", "MatchLogitDifference"):
        search = make(objective=objective, dtype=dtype)
        if at_full_model_alone:
            begun = Begun()
            with pytest.raises(ValueError, match=f"the objective {objective} has no gradient at the full model"):
                quiet_trainer(begun).fit(search, data)
            assert search.examples == 0 and not begun.told
        else:
            quiet_trainer(limit_train_batches=1).fit(search, data)
            assert search.examples == 1 and search.edge_scores().any()


@pytest.mark.parametrize("method", [name for name, (_, alone) in METHODS.items() if alone])
def test_an_objective_with_a_gradient_passes_everywhere(method: str) -> None:
    search = METHODS[method][0](objective="CrossEntropy")
    quiet_trainer(limit_train_batches=1).fit(search, IOIDataModule("tiny-ioi", n_train=4, n_val=4, n_test=4))
    assert search.edge_scores().abs().max() > 1e-4
