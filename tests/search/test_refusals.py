"""What cannot work is said before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM

from lightning_circuits import EAP, EdgePruning
from lightning_circuits.gates import HardConcrete
from lightning_circuits.models.loading import EMBEDDED, load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import (
    Objective,
)
from lightning_circuits.search.splits import require_training_prompts
from tests.support.edge_pruning import Trained, as_loader, data, fit, fresh
from tests.support.training import QUIET


@pytest.fixture(scope="module")
def checkpoint(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny-ioi.ckpt"
    trained.trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"another model or search: .*model_hash.*n_layers 4 there, 3 here.*d_model"):
        EdgePruning.load_from_checkpoint(checkpoint, model=fresh("gpt2"))


def test_a_checkpoint_of_a_model_of_the_same_layout_is_refused_too(checkpoint: Path) -> None:
    config = load_model(EMBEDDED).config
    config.vocab_size += 1
    with pytest.raises(ValueError, match=r"another model or search: model_hash '\w+' there, '\w+' here$"):
        EdgePruning.load_from_checkpoint(checkpoint, model=AutoModelForCausalLM.from_config(config), weights_only=True)


def test_a_checkpoint_of_other_gates_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"gate 'TopK' there, 'HardConcrete' here"):
        EdgePruning.load_from_checkpoint(checkpoint, model=EMBEDDED, gate=HardConcrete(), weights_only=True)


class BreaksAtCall(Objective):
    """KL's stand-in that gives NaN at one call."""

    def __init__(self, call: int) -> None:
        self.call = self.left = call

    def __call__(self, logits: Tensor, batch: Mapping[str, Tensor], full_logits: Tensor) -> Tensor:
        self.left -= 1
        return (logits - full_logits).square().mean(-1) * (math.nan if self.left == 0 else 1.0)


def test_nan_in_the_objective_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    search = EdgePruning(EMBEDDED, objective=BreaksAtCall(6))
    source = data(n_train=24)  # 3 batches an epoch: the sixth is batch 2 of epoch 1
    with pytest.raises(FloatingPointError, match=r"nan at step 5 \(batch 2 of epoch 1\)"):
        fit(search, 20, source, callbacks=[keep], enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step={step}.ckpt" for step in range(1, 6)]
    last = EdgePruning.load_from_checkpoint(tmp_path / "step=5.ckpt", model=EMBEDDED, objective=BreaksAtCall(6))
    assert last.edge_scores().isfinite().all()
    assert torch.equal(last.edge_scores(), search.edge_scores())  # the bad batch has changed nothing
    mended = EdgePruning(EMBEDDED, objective=BreaksAtCall(6))  # which has begun to count again
    trainer = pl.Trainer(max_steps=8, **QUIET)
    trainer.fit(mended, source, ckpt_path=tmp_path / "step=5.ckpt", weights_only=True)
    assert trainer.global_step == 8 and mended.edge_scores().isfinite().all()


@pytest.mark.parametrize("search", [EdgePruning(EMBEDDED), EdgePruning(EMBEDDED, warm_start=None), EAP(EMBEDDED)])
def test_training_without_a_prompt_is_refused(search: Any) -> None:
    with pytest.raises(
        ValueError, match=r"no training prompts to search on: the training loader \(DataLoader\) has no"
    ):
        fit(search, 2, as_loader([]))


def test_looking_for_prompts_draws_no_random_number_of_the_run() -> None:
    """A module may draw some in making its loader, which is asked for once more then."""
    trainer = pl.Trainer(**QUIET)
    source = trainer.fit_loop._data_source
    source.instance = [torch.zeros(1)]
    source.dataloader = lambda: [DataLoader([torch.rand(())])]  # type: ignore[method-assign]
    before = torch.get_rng_state()
    require_training_prompts(trainer)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="max_steps or max_epochs"):
        fit(EdgePruning(EMBEDDED), -1, max_epochs=-1)


def test_epochs_are_an_end_too() -> None:
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    trainer.fit(EdgePruning(EMBEDDED), data(n_train=24))
    assert trainer.global_step == 6


def test_an_unknown_family_is_refused_with_those_known_and_the_place_for_more() -> None:
    model = AutoModelForCausalLM.from_config(_mpt_config())
    with pytest.raises(ValueError, match="'mpt' is not supported: its scores have a bias by the distance of tokens"):
        EdgePruning(model)
    model.config.model_type = "mine"
    with pytest.raises(ValueError, match=r"'mine' is not supported; supported are .*gpt2.*llama.*BUILT_IN"):
        EdgePruning(model)


def _mpt_config() -> Any:
    from transformers import MptConfig

    return MptConfig(vocab_size=8, d_model=8, expansion_ratio=1, n_layers=1, n_heads=1)


def test_what_is_no_language_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a Hugging Face language model.*Linear"):
        EdgePruning(torch.nn.Linear(2, 2))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EdgePruning(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"ablation": "resample"}, "unknown ablation 'resample'"),
        ({"kv": "pair"}, "kv is one of 'head', 'group'"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgePruning(EMBEDDED, **options)


@pytest.mark.parametrize("size", [0.0001, 0, -0.1, 1.5, 480])
def test_a_size_that_is_none_is_refused(size: float, trained: Trained) -> None:
    with pytest.raises((ValueError, TypeError)):
        trained.search.circuit(size)


def test_a_ranking_has_no_size_of_its_own(trained: Trained) -> None:
    with pytest.raises(ValueError, match=r"circuit\(size=0\.01\)"):
        trained.search.circuit()
