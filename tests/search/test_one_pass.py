"""Attribution as a Lightning run: one pass, exact sums, whatever the batches, the processes, a kill in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_circuits import (
    EAP,
    EAPIG,
    ActivationPatching,
    Attribution,
    CleanCorrupted,
    EAPIGActivations,
    EdgePruning,
    Ensemble,
    ExpectedGradients,
    InformationFlowRoutes,
    MaskedGradients,
    RandomScores,
    RelP,
)
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.masked import masked_logits
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import ProbabilityDifference
from tests.support import processes
from tests.support.training import QUIET

METHODS = [EAP, EAPIG, CleanCorrupted, EAPIGActivations, InformationFlowRoutes, RandomScores]
METHODS += [ExpectedGradients, MaskedGradients, RelP, Ensemble]


def trainer_of(**options: Any) -> pl.Trainer:
    return pl.Trainer(**QUIET | {"devices": 1} | options)


def data_of(batch_size: int = 4, **options: Any) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=10, n_val=4, n_test=4, batch_size=batch_size, **options)


def fitted(search: Attribution, batch_size: int = 4, side: str = "right", **options: Any) -> Attribution:
    trainer_of(**options).fit(search, data_of(batch_size, padding_side=side))
    return search


def close(one: Tensor, other: Tensor, relative: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=relative * other.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_whatever_the_batches_and_the_limits(method: type[Attribution]) -> None:
    one, other = fitted(method("tiny-ioi"), 4, max_steps=1), fitted(method("tiny-ioi"), 10, "left", max_epochs=3)
    assert int(one.examples) == int(other.examples) == 10
    assert one.trainer.global_step == 3 and other.trainer.global_step == 1
    # What random circuits say of an edge differs in sign: the sum is smaller than what is rounded.
    close(one.edge_sums.data, other.edge_sums.data, 3e-6 if method is MaskedGradients else 1e-6)
    assert one.circuit(size=5).n_edges == 5
    if one.node_scores() is not None:
        close(one.node_scores(), other.node_scores())
    else:
        assert method in (InformationFlowRoutes, RandomScores, MaskedGradients, Ensemble)


def test_limited_batches_are_respected() -> None:
    assert int(fitted(EAP("tiny-ioi"), limit_train_batches=2).examples) == 8


@pytest.mark.parametrize("method", [EAP, ActivationPatching])
def test_the_trainer_is_as_it_was_after_the_pass(method: type[Attribution]) -> None:
    trainer = trainer_of(max_steps=7, max_epochs=5, min_epochs=2, check_val_every_n_epoch=3, limit_val_batches=0)
    before = [
        (trainer.max_steps, trainer.max_epochs, trainer.min_steps, trainer.min_epochs),
        (trainer.check_val_every_n_epoch, trainer.val_check_interval),
    ]
    trainer.fit(method("tiny-ioi"), data_of(10))
    assert before == [
        (trainer.max_steps, trainer.max_epochs, trainer.min_steps, trainer.min_epochs),
        (trainer.check_val_every_n_epoch, trainer.val_check_interval),
    ]


@pytest.mark.parametrize("method", [EAP, ActivationPatching])
def test_one_pass_needs_no_limit_and_warns_of_none(method: type[Attribution], recwarn: pytest.WarningsRecorder) -> None:
    trainer = trainer_of()
    trainer.fit(method("tiny-ioi"), data_of(10))
    assert trainer.max_epochs is None  # as it was
    assert not [one for one in recwarn if "max_epochs" in str(one.message)]
    with pytest.warns(UserWarning, match="`max_epochs` was not set"):  # whoever does not end by himself
        trainer_of(callbacks=[Stop()]).fit(EdgePruning("tiny-ioi"), data_of())


class Stop(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = True


def test_a_second_fit_begins_anew() -> None:
    search = fitted(EAP("tiny-ioi"))
    once = search.edge_scores()
    assert int(fitted(search).examples) == 10
    assert torch.equal(search.edge_scores(), once)


def test_a_change_of_dtype_leaves_the_sums_alone() -> None:
    search = fitted(EAP("tiny-ioi"))
    before = search.edge_sums.clone()
    search.bfloat16()
    assert search.edge_sums.dtype == torch.float64 and torch.equal(search.edge_sums, before)


@pytest.mark.parametrize("method", [method for method in METHODS if method is not RandomScores])
def test_a_model_cast_by_the_trainer_is_as_one_loaded_narrow(method: type[Attribution]) -> None:
    cast = fitted(method("tiny-ioi"), precision="bf16-true")
    scores, wide = cast.edge_scores(), fitted(method("tiny-ioi")).edge_scores()
    assert cast.describe()["dtype"] == "bfloat16" and scores.dtype == torch.float32
    assert torch.equal(scores, fitted(method("tiny-ioi", dtype="bfloat16")).edge_scores())
    assert not torch.equal(scores, wide) and torch.corrcoef(torch.stack([scores, wide]))[0, 1] > 0.99


def test_what_is_attributed_may_be_a_difference_in_probability_between_sets_of_tokens() -> None:
    """Against the gradient of plain probabilities with respect to the gates."""
    [batch] = data_of(batch_size=10).train_dataloader()
    others = torch.where(torch.arange(10)[:, None] % 3 > 0, torch.arange(20, 40).view(10, 2), -100)
    batch |= {"answers": torch.cat([batch["answers"], others[:, :1]], 1), "distractors": others[:, 1:]}
    search = EAP("tiny-ioi", dtype="float64", objective=ProbabilityDifference())
    trainer_of().fit(search, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]

    gates = torch.ones(search.layout.n_edges, dtype=torch.float64, requires_grad=True)
    _, corrupt = search.circuit_model.run_pair(batch)
    ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    probabilities = masked_logits(search.circuit_model, gates, ids, mask, positions, corrupt).softmax(-1)
    for row, right, wrong in zip(probabilities, batch["answers"].tolist(), batch["distractors"].tolist(), strict=True):
        difference = sum(row[token] for token in right if token >= 0) - sum(row[token] for token in wrong if token >= 0)
        (difference / 10).backward(retain_graph=True)
    close(search.edge_scores(), gates.grad.float())
    assert search.circuit(5).metadata["objective"] == "ProbabilityDifference"


class Own(Attribution):
    """What a user writes."""

    def attribute(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        return torch.arange(self.layout.n_edges).float() * len(batch["clean_ids"]), None


def test_a_method_of_ones_own_gets_the_rest(tmp_path: Path) -> None:
    search = fitted(Own("tiny-ioi", absolute=False))
    assert search.edge_scores()[7] == 7
    assert search.circuit(size=1).members.nonzero().item() == search.layout.n_edges - 1
    assert search.describe()["method"] == "Own" and search.describe()["examples"] == 10


def test_there_are_no_scores_before_the_pass() -> None:
    with pytest.raises(RuntimeError, match="EAP has no scores yet"):
        EAP("tiny-ioi").edge_scores()


class Broken(Own):
    def attribute(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        scores, _ = super().attribute(batch)
        if self.rows == 4:
            scores[5] = float("nan")
        return scores, None


def test_scores_that_are_not_finite_name_edge_and_batch() -> None:
    search = Broken("tiny-ioi")
    name = search.layout.edge_names([5])[0]
    with pytest.raises(FloatingPointError, match=f"the score of {name} is nan in batch 1; the batch was not counted"):
        fitted(search)
    assert int(search.examples) == 4


def test_mixed_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision='bf16-mixed'"):
        fitted(EAP("tiny-ioi"), precision="bf16-mixed")


def test_a_loader_of_unknown_length_is_refused_with_several_processes() -> None:
    from lightning_circuits.search.splits import share_of

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    loader = torch.utils.data.DataLoader(Stream())
    assert share_of(loader, 1).total is None
    with pytest.raises(ValueError, match="does not know its length, so 2 processes"):
        share_of(loader, 2)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("pairs", [1, 2, 7, 8])
def test_each_pair_is_new_once(world: int, pairs: int) -> None:
    from lightning_circuits.search.splits import Share

    for size in (1, 2, 3):
        new = 0
        for rank in range(world):
            rows = -(-pairs // world)
            share = Share(pairs, world, rank)
            new += sum(share.new_rows(seen, min(size, rows - seen)) for seen in range(0, rows, size))
        assert new == pairs


# ---- kill and resume, processes ----------------------------------------------------------------------------------


class Kill(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, devices: int = 1, batch_size: int = 2, kill: bool = False, resume: Path | None = None) -> None:
    keep = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = trainer_of(
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        enable_checkpointing=True,
        callbacks=[keep, *([Kill()] if kill else [])],
    )
    search = EAPIG("tiny-ioi", steps=2)
    data = IOIDataModule("tiny-ioi", n_train=13, n_val=4, n_test=4, batch_size=batch_size)
    trainer.fit(search, data, ckpt_path=resume, weights_only=True)
    state = {"edges": search.edge_sums.data, "writers": search.writer_sums.data, "n": search.examples.data}
    torch.save(state | {"step": trainer.global_step}, folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
def test_a_killed_pass_resumes_to_the_same_sums(tmp_path: Path) -> None:
    status, printed = processes.call(tmp_path / "log.txt", run, tmp_path / "killed", kill=True).end()
    assert status == -signal.SIGKILL, printed[-3000:]
    run(tmp_path / "whole")
    run(tmp_path / "resumed", resume=tmp_path / "killed" / "step=3.ckpt")
    whole, resumed = (torch.load(tmp_path / name / "rank0.pt", weights_only=True) for name in ("whole", "resumed"))
    assert whole["step"] == resumed["step"] == 7 and whole["n"] == resumed["n"] == 13
    assert torch.equal(whole["edges"], resumed["edges"]) and torch.equal(whole["writers"], resumed["writers"])


def stopped(folder: Path, source: Any) -> Path:
    """A checkpoint after two batches of a pass."""
    keep = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer_of(callbacks=[keep], enable_checkpointing=True).fit(EAP("tiny-ioi"), source)
    return folder / "step=2.ckpt"


def loader_that_begins_anew() -> DataLoader[Any]:
    return DataLoader(list(data_of().train_dataloader()), batch_size=None, shuffle=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("resumed_with", [loader_that_begins_anew, data_of])
def test_a_pass_over_a_loader_that_begins_anew_is_not_resumed_in_its_middle(resumed_with: Any, tmp_path: Path) -> None:
    path, search = stopped(tmp_path, loader_that_begins_anew()), EAP("tiny-ioi")
    with pytest.raises(ValueError, match=r"middle of the pass .* begins anew and prompts would be counted twice"):
        trainer_of().fit(search, resumed_with(), ckpt_path=path, weights_only=True)
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert search.examples == saved["examples"] > 0  # nothing was counted


@pytest.mark.parametrize("other", [dict(n_train=12), dict(n_train=4), dict(seed=1)], ids=str)
def test_a_pass_is_not_resumed_over_other_prompts(other: dict[str, int], tmp_path: Path) -> None:
    path, search = stopped(tmp_path, data_of()), EAP("tiny-ioi")
    source = IOIDataModule("tiny-ioi", **dict(n_train=10, n_val=4, n_test=4, batch_size=4) | other)
    with pytest.raises(ValueError, match=r"another model or search: training prompts {'number': 10, .* there, .* here"):
        trainer_of().fit(search, source, ckpt_path=path)


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    processes.together(tmp_path, 2, run, tmp_path / "two", 2, 2)
    run(tmp_path / "one", 1, 4)
    one = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True)
        assert two["n"] == one["n"] == 13 and two["step"] == one["step"] == 4
        close(two["edges"], one["edges"])
        close(two["writers"], one["writers"])


# ---- attribute, then learn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["interchange", "mean"])
def test_edge_pruning_starts_from_an_attribution(ablation: str) -> None:
    model = load_model("tiny-ioi")
    warm = EdgePruning(model, ablation=ablation, warm_start=EAP(ablation=ablation))
    trainer_of(max_steps=1).fit(warm, data_of(batch_size=5))
    scores = fitted(EAP(model, ablation=ablation)).edge_scores().abs()
    by_hand = EdgePruning(model, ablation=ablation, warm_start=scores)
    trainer_of(max_steps=1).fit(by_hand, data_of(batch_size=5))
    assert torch.equal(warm.edge_scores(), by_hand.edge_scores())
    assert not any("sums" in name for name in warm.state_dict())


def test_a_resumed_run_does_not_attribute_again(tmp_path: Path) -> None:
    attributed: list[str] = []

    class Noted(EAP):
        def attribute(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            attributed.append(run)
            return super().attribute(batch)

    whole, resumed = (EdgePruning("tiny-ioi", warm_start=Noted()) for _ in range(2))
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    run = "whole"
    trainer_of(max_steps=7, callbacks=[keep], enable_checkpointing=True).fit(whole, data_of())
    run = "resumed"
    trainer_of(max_steps=7).fit(resumed, data_of(), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert attributed == ["whole"] * 3  # 10 prompts in batches of 4
    assert torch.equal(resumed.edge_scores(), whole.edge_scores())


def test_a_warm_start_with_a_model_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="EAP has a language model of its own"):
        EdgePruning("tiny-ioi", warm_start=EAP("tiny-ioi"))


def test_without_a_model_a_method_is_not_fitted() -> None:
    with pytest.raises(ValueError, match="EAP has no language model"):
        fitted(EAP())


def test_attribute_then_learn_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    loaded: list[str] = []
    monkeypatch.setattr(
        "lightning_circuits.search.frozen_model.load_model", lambda *args: loaded.append(args[0]) or load_model(*args)
    )
    (tmp_path / "warm.yaml").write_text(
        "model:\n  class_path: EdgePruning\n  init_args:\n    model: tiny-ioi\n    warm_start:\n"
        "      class_path: EAPIG\n      init_args:\n        steps: 2\n"
        "data:\n  class_path: IOIDataModule\n  init_args: {n_train: 8, n_val: 4, n_test: 4}\n"
        "trainer:\n  max_steps: 1\n  accelerator: cpu\n  devices: 1\n  logger: false\n  enable_checkpointing: false\n"
        "  enable_progress_bar: false\n  enable_model_summary: false\n"
    )
    main(["fit", "--config", "warm.yaml"])
    assert loaded == ["tiny-ioi"]
