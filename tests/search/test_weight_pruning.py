"""Weight pruning as a search: what it leaves of the model, what it keeps, how it goes on, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search.identity import WeightsHash
from lightning_circuits.search.weight_pruning import WeightPruning
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support.babble import Babble, ioi
from tests.support.training import quiet_trainer


def search(**options: Any) -> WeightPruning:
    return WeightPruning("tiny-ioi", Babble(), **options)


def fitted(steps: int = 4, callbacks: Any = (), resume: Path | None = None, **options: Any) -> WeightPruning:
    found = search(**options)
    trainer = quiet_trainer(*callbacks, max_steps=steps, max_epochs=-1, enable_checkpointing=bool(callbacks))
    trainer.fit(found, ioi(), ckpt_path=resume)
    return found


def test_the_model_is_what_it_was_and_the_circuit_as_dense_as_asked() -> None:
    before = WeightsHash()(load_model("tiny-ioi"))
    found = fitted(density=0.3)
    assert WeightsHash()(found.model) == before
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    circuit = found.circuit()
    assert circuit.n_weights == round(0.3 * found.space.n_weights)
    assert found.circuit(0.1).n_weights == round(0.1 * found.space.n_weights)
    nested = zip(circuit.masks(), found.circuit(0.1).masks(), strict=True)
    assert all(bool((small & ~large).sum() == 0) for (_, large), (_, small) in nested)
    said = circuit.metadata
    assert (said["method"], said["density"], said["step"]) == ("WeightPruning", 0.3, 4)
    assert said["text"]["text"] == "babble" and said["weights_hash"] == before


@torch.no_grad()
def divergences(found: WeightPruning, circuit: WeightCircuit, module: IOIDataModule) -> tuple[float, float]:
    """KL of a circuit to the model, in nats: on held-out prompts, and on text that no step has seen."""
    model = found.circuit_model
    prompts = [(batch["clean_ids"], batch["attention_mask"]) for batch in module.val_dataloader()]
    lines = [(line["input_ids"], line["attention_mask"]) for line in map(found.text.batch, range(900, 908))]

    def said() -> list[list[torch.Tensor]]:
        return [[model.token_logits(*each).log_softmax(-1) for each in some] for some in (prompts, lines)]

    full = said()
    with circuit.applied(model):
        kept = said()
    ends = [[torch.arange(len(ids)), mask.cumsum(1).argmax(1)] for ids, mask in prompts]
    of_prompts = [(f[e].exp() * (f[e] - k[e])).sum(-1).mean() for f, k, e in zip(full[0], kept[0], ends, strict=True)]
    of_text = [(f.exp() * (f - k)).sum(-1).mean() for f, k in zip(full[1], kept[1], strict=True)]
    return float(torch.stack(of_prompts).mean()), float(torch.stack(of_text).mean())


@pytest.mark.slow
def test_training_keeps_what_it_is_asked_for() -> None:
    """Far better than where it begins, and than largest or random weights, on held-out prompts and on text."""
    module = ioi(n_train=64, n_val=64, batch_size=16)
    found = search(density=0.2)
    quiet_trainer(max_steps=1).fit(found, module)
    start = divergences(found, found.circuit(), module)
    found = search(density=0.2)
    quiet_trainer(max_steps=60, max_epochs=-1).fit(found, module)
    circuit = found.circuit()
    trained = divergences(found, circuit, module)
    others = [circuit.random(0), circuit.magnitude(found.circuit_model)]
    for other in (start, *(divergences(found, each, module) for each in others)):
        assert trained[0] < 0.7 * other[0] and trained[1] < 0.7 * other[1]


def test_embeddings_and_head_are_pruned_where_that_is_asked_for() -> None:
    before = WeightsHash()(load_model("tiny-ioi"))
    found = fitted(2, kinds=["embedding", "head", "mlp"], density=0.3)
    circuit = found.circuit()
    assert WeightsHash()(found.model) == before
    kept = {kind: sum(map(circuit.kept, some)) for kind, some in circuit.space.groups(lambda tensor: tensor.kind)}
    assert sum(kept.values()) == circuit.n_weights and all(kept.values())
    assert found.space.n_weights == sum(
        parameter.numel() for name, parameter in found.model.named_parameters() if ".mlp." in name or ".h." not in name
    )


def test_two_runs_are_the_same() -> None:
    assert fitted(seed=1).circuit() == fitted(seed=1).circuit()


def test_a_run_that_was_killed_goes_on_to_the_same_logits(tmp_path: Path) -> None:
    def keep() -> list[pl.Callback]:
        return [pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)]

    whole = fitted(6, keep())
    resumed = fitted(6, keep(), resume=tmp_path / "step=2.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.logits.parameters(), resumed.logits.parameters(), strict=True))
    size = (tmp_path / "step=2.ckpt").stat().st_size
    assert size < 2 * whole.space.n_weights + 100_000  # two bytes a logit, and none of the model


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    fitted(2, [pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)])
    with pytest.raises(ValueError, match=r"it is of another model or search: density 0\.5 there, 0\.4 here"):
        fitted(4, resume=tmp_path / "step=2.ckpt", density=0.4)
    with pytest.raises(ValueError, match="it is of another model or search: "):
        fitted(4, resume=tmp_path / "step=2.ckpt", kinds=["mlp"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"density": 0.0}, ValueError, "density is 0.0: the share of the weights to keep lies between 0 and 1"),
        ({"density": 1.0}, ValueError, "density is 1.0"),
        ({"density": "half"}, TypeError, "density"),
        ({"lr": 0}, ValueError, "lr has to be positive"),
        ({"text_weight": -1}, ValueError, "text_weight has to be positive"),
        ({"text": None}, ValueError, "ordinary text is missing"),
        (
            {"text": ["a line"]},
            TypeError,
            r"text takes a source of text, such as TextLines\(tokenizer\), got \['a line'\]",
        ),
        ({"kinds": ["bias"]}, ValueError, "kinds is a list of some of attention, mlp, norm, embedding, head"),
        ({"layers": [7]}, ValueError, "layers has 7"),
        ({"objective": "nothing"}, ValueError, "nothing"),
    ],
)
def test_what_cannot_be_searched(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        WeightPruning("tiny-ioi", **{"text": Babble(), **options})


def test_a_density_of_a_circuit_lies_above_0() -> None:
    with pytest.raises(ValueError, match=r"density is 1\.5"):
        search().circuit(1.5)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    def broken(logits: torch.Tensor, batch: Any, full_logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 0] * torch.nan

    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        fitted(2, objective=broken)
