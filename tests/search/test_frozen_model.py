"""What training gates leaves alone, what it depends on, and what a circuit says of it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EAP, EdgePruning, RandomScores
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.models.loading import EMBEDDED, load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import (
    CrossEntropy,
    LogitDifference,
    MatchDecision,
    MatchLogitDifference,
    Objective,
    ProbabilityDifference,
)
from tests.support.edge_pruning import STEPS, Trained, as_loader, data, fit, fresh
from tests.support.tiny_models import tiny_model


def test_not_a_bit_of_the_language_model_has_changed(trained: Trained) -> None:
    after = trained.search.model.state_dict()
    assert after.keys() == trained.weights_before.keys()
    for name, value in trained.weights_before.items():
        assert torch.equal(after[name], value), name
    assert not any(p.requires_grad or p.grad is not None for p in trained.search.model.parameters())


def test_only_gates_are_trained_and_without_weight_decay(trained: Trained) -> None:
    trainable = [name for name, p in trained.search.named_parameters() if p.requires_grad]
    assert trainable == ["gate.logits"]
    groups = trained.trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.0]
    search = EdgePruning(EMBEDDED, gate=HardConcrete())
    groups = fit(search, 1).optimizers[0].param_groups
    assert [(group["weight_decay"], group["maximize"]) for group in groups] == [(0.0, False), (0.0, True)]
    assert groups[0]["params"][0] is search.gate.logits
    assert groups[1]["params"][0] is search.gate.sparsity.multipliers


def test_the_learning_rate_holds_and_then_falls_to_nothing() -> None:
    rates = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(EdgePruning(EMBEDDED, lr=0.3), 10, callbacks=[Recorder()])
    assert rates[:5] == [0.3] * 5  # the last 60 % of 10 steps are 6: 6/6, 5/6, ... 1/6
    torch.testing.assert_close(torch.tensor(rates[4:]), 0.3 * torch.tensor([6, 5, 4, 3, 2, 1]) / 6)


def test_a_model_with_dropout_is_run_without() -> None:
    model = deepcopy(tiny_model("gpt2")).train()
    assert model.config.resid_pdrop > 0 and model.config.attn_pdrop > 0
    search = EdgePruning(model)
    modes = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            modes.append((pl_module.training, any(module.training for module in pl_module.model.modules())))

    ids = torch.arange(10).view(2, 5)
    batch = {"clean_ids": ids, "corrupt_ids": (ids + 1) % 10, "attention_mask": torch.ones_like(ids)}
    batch |= {"answers": ids[:, :1], "distractors": ids[:, 1:2], "positions": torch.tensor([4, 4])}
    search.train()
    fit(search, 3, as_loader([batch] * 3), callbacks=[Recorder()])
    assert modes == [(True, False)] * 3
    again = [search.circuit_model.run_pair(batch)[0] for _ in range(2)]
    assert torch.equal(*again)


def test_a_checkpoint_holds_the_gates_and_nothing_of_the_model(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "gates.ckpt"
    trained.trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    assert list(checkpoint["state_dict"]) == ["start", "learned_edges", "gate.logits", "gate.average", "gate.averaged"]
    n_edges = trained.search.layout.n_edges
    assert (
        path.stat().st_size < 5 * 4 * n_edges + 13_000
    )  # gates, their start, their mean, two moments of Adam, loops, and what the run is
    restored = EdgePruning.load_from_checkpoint(path, model=EMBEDDED, weights_only=True)
    assert torch.equal(restored.edge_scores(), trained.search.edge_scores())
    assert restored.circuit(0.05) == trained.search.circuit(0.05)
    assert torch.equal(restored.model.lm_head.weight, trained.search.model.lm_head.weight)


def test_a_model_by_name_and_the_same_in_memory_give_the_same() -> None:
    found = []
    for model in (EMBEDDED, load_model(EMBEDDED)):
        search = EdgePruning(model)
        fit(search, 5)
        found.append(search.edge_scores())
    assert torch.equal(*found) and found[0].unique().numel() > 100


def test_the_seed_decides_what_is_drawn() -> None:
    found = []
    for seed in (0, 0, 1):
        search = EdgePruning(EMBEDDED, gate=HardConcrete(), seed=seed)
        torch.manual_seed(len(found))  # the global generator plays no part
        fit(search, 3)
        found.append(search.edge_scores())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("gate", [TopK, HardConcrete])
def test_a_model_cast_by_the_trainer_is_as_one_loaded_narrow(gate: Any) -> None:
    """Gates, multipliers and what is drawn stay float32: only the language model is cast."""
    wide, narrow, cast = (EdgePruning(EMBEDDED, gate=gate(), dtype=d) for d in ("float32", "bfloat16", "float32"))
    for search, precision in ((wide, "32-true"), (narrow, "32-true"), (cast, "bf16-true")):
        fit(search, 12, data(batch_size=8), precision=precision)
    assert cast.describe()["dtype"] == "bfloat16"
    assert all(value.dtype == torch.float32 for value in cast.gate.state_dict().values() if value.is_floating_point())
    assert torch.equal(cast.edge_scores(), narrow.edge_scores())
    assert not torch.equal(cast.edge_scores(), wide.edge_scores())
    assert torch.corrcoef(torch.stack([cast.edge_scores(), wide.edge_scores()]))[0, 1] > 0.8


def test_a_cast_leaves_the_angles_of_rotary_positions_alone(tmp_path: Path) -> None:
    fresh("llama-gqa").save_pretrained(tmp_path)
    ids = torch.arange(60)[None] % 7
    prompts = ids, torch.ones_like(ids), torch.tensor([59])
    cast, narrow = EdgePruning(fresh("llama-gqa")).bfloat16(), EdgePruning(str(tmp_path), dtype="bfloat16")
    assert torch.equal(cast.circuit_model.logits(*prompts), narrow.circuit_model.logits(*prompts))


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
def test_every_ablation_can_be_trained_on(ablation: str) -> None:
    search = EdgePruning(EMBEDDED, ablation=ablation)
    before = search.edge_scores().clone()
    fit(search, 3)
    assert search.edge_scores().isfinite().all() and not torch.equal(search.edge_scores(), before)
    assert search.circuit(0.05).metadata["ablation"] == ablation


def test_means_are_taken_over_all_of_the_training_split() -> None:
    search, source = EdgePruning(EMBEDDED, ablation="mean-positional"), data(n_train=20)
    fit(search, 2, source)
    expected = type(search.ablation)()
    expected.fit(search.circuit_model, source.train_dataloader())
    torch.testing.assert_close(search.ablation.means, expected.means, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [LogitDifference(), MatchLogitDifference(), MatchDecision(), CrossEntropy(), ProbabilityDifference()],
    ids=lambda o: type(o).__name__,
)
def test_every_objective_can_be_trained_on(objective: Objective) -> None:
    search = EdgePruning(EMBEDDED, objective=objective)
    fit(search, 3)
    assert search.edge_scores().isfinite().all() and search.edge_scores().abs().max() > 0
    assert search.circuit(0.05).metadata["objective"] == type(objective).__name__


def test_a_circuit_says_how_it_came_about(trained: Trained) -> None:
    metadata = trained.search.circuit(0.05).metadata
    expected = {
        "method": "EdgePruning", "model": EMBEDDED, "ablation": "interchange", "objective": "KL", "kv": "head",
        "gate": "TopK", "seed": 1, "step": STEPS, "dtype": "float32", "n_edges": trained.search.layout.n_edges,
    }  # fmt: skip
    assert {key: metadata[key] for key in expected} == expected
    assert {"torch", "transformers"} <= metadata["versions"].keys()
    assert len(metadata["model_hash"]) == 16


def test_the_hash_tells_models_apart_by_shapes_and_config_not_by_dtype_or_place(tmp_path: Path) -> None:
    model = load_model(EMBEDDED)
    model.save_pretrained(tmp_path / "copy")
    here = EdgePruning(model).describe()["model_hash"]
    assert EdgePruning(str(tmp_path / "copy"), dtype="bfloat16").describe()["model_hash"] == here
    assert EdgePruning(deepcopy(tiny_model("gpt2"))).describe()["model_hash"] != here
    assert EdgePruning(deepcopy(tiny_model("llama-gqa"))).describe()["model_hash"] != here


def test_a_model_by_name_has_the_attention_that_is_asked_for() -> None:
    assert EAP("tiny-ioi").model.config._attn_implementation == "sdpa"
    for search in (EAP("tiny-ioi", attention="eager"), RandomScores("tiny-ioi", attention="eager")):
        assert search.model.config._attn_implementation == "eager"
    with pytest.raises(
        ValueError, match=r'tiny-ioi cannot be read: Specified `attn_implementation="fast"` is not supp'
    ):
        EAP("tiny-ioi", attention="fast")
