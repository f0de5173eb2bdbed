"""A run goes on from a checkpoint of its own alone: what makes the numbers is compared, what does not is told."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_circuits import EAP, EAPIG, ActivationPatching, Attribution, CircuitSearch, EdgePruning
from lightning_circuits.ablation import Ablation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import Gate, HardConcrete, L0Penalty, SizeRange, TargetSparsity, TopK
from lightning_circuits.measures import kl_divergence
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import MatchLogitDifference, Objective
from tests.support.training import quiet_trainer

MODEL = load_model("tiny-ioi")


def data(**options: Any) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", **{"n_train": 12, "n_val": 4, "n_test": 4, "batch_size": 4} | options)


def other_weights() -> Any:
    model = deepcopy(MODEL)
    with torch.no_grad():
        model.lm_head.weight[7, 3] += 1e-3
    return model


def stopped(search: CircuitSearch, folder: Path, source: Any = None, steps: int = 2, **options: Any) -> Path:
    """A checkpoint after some steps of a run of nine."""
    keep = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer = quiet_trainer(keep, enable_checkpointing=True, **{"max_steps": 9} | options)
    trainer.fit(search, data() if source is None else source)
    return folder / f"step={steps}.ckpt"


@pytest.fixture(scope="module")
def pruning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(EdgePruning(MODEL), tmp_path_factory.mktemp("pruning"))


@pytest.fixture(scope="module")
def pruning_hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(EdgePruning(MODEL, gate=HardConcrete()), tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def attribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(EAPIG(MODEL), tmp_path_factory.mktemp("attribution"))


def resume(path: Path, search: CircuitSearch, source: Any = None, **options: Any) -> pl.Trainer:
    trainer = quiet_trainer(**{"max_steps": 9} | options)
    trainer.fit(search, data() if source is None else source, ckpt_path=path)
    return trainer


def evaluate(path: Path, search: CircuitSearch) -> None:
    quiet_trainer().test(search, data(seed=5), ckpt_path=path)  # other prompts: a test may well have them


def load(path: Path, search: CircuitSearch) -> None:
    """What `load_from_checkpoint` does with a search once it is made."""
    search.on_load_checkpoint(torch.load(path, weights_only=True))


def hard(gate: Callable[..., Gate] = HardConcrete, **options: Any) -> EdgePruning:
    return EdgePruning(MODEL, gate=gate(), **options)


class SameName(Ablation):
    """Another class, called as one of ours."""

    name = "interchange"

    def reference(self, batch: Any, corrupt: Tensor) -> Tensor:
        return corrupt * 0


OTHERS: list[tuple[str, Callable[[], CircuitSearch], str]] = [
    ("pruning", lambda: EdgePruning(MODEL, lr=0.7), "lr 0.2 there, 0.7 here"),
    ("pruning", lambda: EdgePruning(MODEL, seed=1), "seed 0 there, 1 here"),
    ("pruning", lambda: EdgePruning(MODEL, objective="CrossEntropy"), "objective 'KL' there, 'CrossEntropy' here"),
    ("pruning", lambda: EdgePruning(MODEL, objective=MatchLogitDifference(0)), "objective 'KL' there"),
    ("pruning", lambda: EdgePruning(MODEL, objective=kl_divergence), "objective 'KL' there, 'kl_divergence' here"),
    ("pruning", lambda: EdgePruning(MODEL, ablation="mean"), "ablation 'InterchangeAblation' there, 'MeanAblation'"),
    ("pruning", lambda: EdgePruning(MODEL, ablation=SameName()), "'InterchangeAblation' there, 'tests.*SameName'"),
    ("pruning", lambda: EdgePruning(MODEL, gate=HardConcrete()), "gate 'TopK' there, 'HardConcrete' here$"),
    ("pruning", lambda: EdgePruning(MODEL, gate=TopK(temperature=0.3)), "gate.temperature 0.5 there, 0.3 here$"),
    ("pruning", lambda: EdgePruning(MODEL, gate=TopK(SizeRange(0.01))), "gate.sizes.low 0.001 there, 0.01 here$"),
    ("pruning", lambda: EdgePruning(MODEL, warm_start="EAP"), "warm_start.method 'Ensemble' there, 'EAP' here"),
    ("pruning", lambda: EdgePruning(MODEL, warm_start=torch.rand(479)), "warm_start 'method' there, 'scores' here"),
    ("pruning", lambda: EdgePruning(other_weights()), r"weights_hash '\w{16}' there, '\w{16}' here$"),
    ("pruning", lambda: EdgePruning("tiny-ioi", dtype="bfloat16"), "dtype 'float32' there, 'bfloat16' here$"),
    ("pruning", lambda: EAP(MODEL), "method 'EdgePruning' there, 'EAP' here$"),
    ("pruning_hard", lambda: hard(partial(HardConcrete, start_at=1.0)), "gate.start_at 2.0 there, 1.0 here"),
    ("pruning_hard", lambda: hard(partial(HardConcrete, L0Penalty())), "sparsity 'TargetSparsity' there, 'L0Penalty'"),
    ("pruning_hard", lambda: hard(partial(HardConcrete, TargetSparsity(0.7))), "gate.sparsity.target 0.99 there, 0.7"),
    ("attribution", lambda: EAPIG(MODEL, ablation="zero"), "ablation 'InterchangeAblation' there, 'ZeroAblation' here"),
    ("attribution", lambda: EAPIG(MODEL, objective="KL"), "objective 'LogitDifference' there, 'KL' here"),
    ("attribution", lambda: EAPIG(MODEL, steps=7), "steps 5 there, 7 here"),
    ("attribution", lambda: EAPIG(MODEL, rule="midpoint"), "rule 'left' there, 'midpoint' here"),
    ("attribution", lambda: EAPIG(MODEL, absolute=False), "absolute True there, False here"),
    ("attribution", lambda: EAPIG(other_weights()), r"weights_hash '\w{16}' there, '\w{16}' here$"),
    ("attribution", lambda: EAP(MODEL), "method 'EAPIG' there, 'EAP' here$"),
]  # fmt: skip


@pytest.mark.parametrize("road", [resume, evaluate, load])
@pytest.mark.parametrize(("there", "here", "said"), OTHERS, ids=[said[:40] for *_, said in OTHERS])
def test_another_search_is_refused_with_both_values(
    there: str, here: Callable[[], CircuitSearch], said: str, road: Any, request: pytest.FixtureRequest
) -> None:
    search = here()
    before = {name: value.clone() for name, value in search.state_dict().items()}
    with pytest.raises(ValueError, match=rf"another model or search: .*{said}"):
        road(request.getfixturevalue(there), search)
    assert all(torch.equal(value, before[name]) for name, value in search.state_dict().items())


def test_all_that_differs_stands_in_one_message(pruning: Path) -> None:
    search = EdgePruning(other_weights(), lr=0.7, ablation="zero", gate=TopK(temperature=0.3, hard_from=1))
    with pytest.raises(ValueError) as said:
        resume(pruning, search, data(seed=1))
    for name in ("weights_hash", "lr", "ablation", "gate.temperature", "gate.hard_from", "training prompts"):
        assert f"{name} " in str(said.value)
    assert str(pruning) in str(said.value) and len(str(said.value).splitlines()) == 1


# ---- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["pruning", "attribution"])
@pytest.mark.parametrize("other", [dict(seed=1), dict(corruption="s2-io-flip"), dict(n_train=13)], ids=str)
def test_other_prompts_are_refused(there: str, other: dict[str, Any], request: pytest.FixtureRequest) -> None:
    search = EdgePruning(MODEL) if there == "pruning" else EAPIG(MODEL)
    with pytest.raises(ValueError, match=r"training prompts {'number': 12, .* there, {'number': 1\d, .* here$"):
        resume(request.getfixturevalue(there), search, data(**other))


def rows() -> list[dict[str, Tensor]]:
    [batch] = data(batch_size=12).train_dataloader()
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    return [{name: value[row] for name, value in tensors.items()} for row in range(12)]


def test_the_same_prompts_are_the_same_in_whatever_order_batches_and_padding(pruning: Path, tmp_path: Path) -> None:
    own = stopped(EdgePruning(MODEL), tmp_path, DataLoader(rows(), batch_size=4, shuffle=True), steps=3)  # type: ignore[arg-type]
    resume(own, EdgePruning(MODEL), DataLoader(rows()[::-1], batch_size=5))  # type: ignore[arg-type]
    resume(own, EdgePruning(MODEL), data())
    resume(pruning.with_name("step=3.ckpt"), EdgePruning(MODEL), data(padding_side="left", batch_size=12))


def test_a_loader_that_cannot_go_on_is_said(pruning: Path) -> None:
    with pytest.raises(ValueError, match="says how far its loader was, and the loader here has no load_state_dict"):
        resume(pruning, EdgePruning(MODEL), DataLoader(rows(), batch_size=4))  # type: ignore[arg-type]


def test_looking_at_a_loader_of_ones_own_draws_no_random_number(tmp_path: Path) -> None:
    orders: list[list[Tensor]] = []
    for checkpoints in (False, True):
        torch.manual_seed(7)
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(rows(), batch_size=4, shuffle=True, generator=generator)  # type: ignore[arg-type]
        seen: list[Tensor] = []

        def watch(trainer: Any, search: Any, batch: Any, batch_idx: int, seen: list[Tensor] = seen) -> None:
            seen.append(batch["clean_ids"])

        keep = [pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1)] if checkpoints else []
        trainer = quiet_trainer(
            pl.callbacks.LambdaCallback(on_train_batch_start=watch),
            *keep,
            max_steps=9,
            enable_checkpointing=checkpoints,
        )
        trainer.fit(EdgePruning(MODEL), loader)
        orders.append([*seen, torch.rand(2)])
    assert all(torch.equal(one, other) for one, other in zip(*orders, strict=True))


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Any:
        return iter(rows())


def test_prompts_that_cannot_be_looked_at_are_said_to_be_unknown(tmp_path: Path) -> None:
    stream, known = DataLoader(Stream(), batch_size=4), DataLoader(rows(), batch_size=4)  # type: ignore[arg-type]
    for there, here in ((stream, known), (known, stream), (stream, stream)):
        path = stopped(EdgePruning(MODEL), tmp_path, there, steps=3)
        with pytest.warns(UserWarning, match="does not tell whether this is as it was: training prompts"):
            resume(path, EdgePruning(MODEL), here)


class Forgets(Objective):
    def __init__(self, weight: float) -> None:
        self._weight = weight

    def __call__(self, logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
        return self._weight * kl_divergence(logits, full_logits)


def test_options_that_are_not_kept_are_said_to_be_unknown(tmp_path: Path) -> None:
    path = stopped(EdgePruning(MODEL, objective=Forgets(1.0)), tmp_path, steps=3)
    with pytest.warns(UserWarning, match=r"does not tell whether this is as it was: objective\.weight$"):
        resume(path, EdgePruning(MODEL, objective=Forgets(2.0)))


# ---- what is taken over ------------------------------------------------------------------------------------------


def test_a_longer_training_is_taken_over_told_and_recorded(pruning: Path, tmp_path: Path) -> None:
    search = EdgePruning(MODEL)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer = quiet_trainer(keep, max_steps=12, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="from step 2: max_steps 9 there, 12 here"):
        trainer.fit(search, data(), ckpt_path=pruning)
    longer = {"step": 2, "changed": {"max_steps": [9, 12]}}
    assert trainer.global_step == 12 and search.circuit(5).metadata["resumed"] == [longer]
    again = EdgePruning(MODEL)
    resume(tmp_path / "step=8.ckpt", again, max_steps=12)  # nothing new is told of
    assert again.describe()["resumed"] == [longer] and torch.equal(again.edge_scores(), search.edge_scores())
    loaded = EdgePruning.load_from_checkpoint(tmp_path / "step=8.ckpt", model=MODEL)
    assert loaded.describe()["resumed"] == [longer] and loaded.describe()["step"] == 8


def test_other_batches_are_taken_over_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    path, search = stopped(EdgePruning(MODEL), tmp_path, steps=3), EdgePruning(MODEL)
    with pytest.warns(UserWarning, match="batch_size 4 there, 6 here; accumulate_grad_batches 1 there, 2 here"):
        resume(path, search, data(batch_size=6), accumulate_grad_batches=2)
    assert search.describe()["resumed"][0]["changed"] == {"batch_size": [4, 6], "accumulate_grad_batches": [1, 2]}
    with pytest.raises(ValueError, match="in the middle of an epoch over other data, or in another order"):
        resume(path.with_name("step=2.ckpt"), EdgePruning(MODEL), data(batch_size=6))


def test_a_pass_has_no_length_to_be_told_of(attribution: Path, recwarn: pytest.WarningsRecorder) -> None:
    search = EAPIG(MODEL)
    resume(attribution, search, max_steps=700, max_epochs=3)
    assert "resumed" not in search.describe() and search.describe()["examples"] == 12
    assert not [one for one in recwarn if "goes on otherwise" in str(one.message)]


def test_a_run_of_its_own_has_forgotten_the_one_before(tmp_path: Path) -> None:
    before, search = (EdgePruning(MODEL, warm_start=None) for _ in range(2))
    with pytest.warns(UserWarning, match="max_steps"):
        resume(stopped(before, tmp_path), search, max_steps=3)
    quiet_trainer(max_steps=1).fit(search, data())
    begun = {"step": 0, "changed": {"gates": ["untrained", "of 3 steps before"]}}  # gates go on where they are
    assert search.describe()["resumed"] == [begun] and search.describe()["step"] == 1


def test_a_longer_training_has_the_rates_of_its_own_plan(tmp_path: Path) -> None:
    path = stopped(EdgePruning(MODEL), tmp_path, steps=8)
    rates: list[float] = []

    def watch(trainer: pl.Trainer, *_: Any) -> None:
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = quiet_trainer(pl.callbacks.LambdaCallback(on_train_batch_start=watch), max_steps=12)
    with pytest.warns(UserWarning, match="max_steps 9 there, 12 here"):
        trainer.fit(EdgePruning(MODEL), data(), ckpt_path=path)
    torch.testing.assert_close(torch.tensor(rates), 0.2 * torch.tensor([4, 3, 2, 1]) / 7.2)


# ---- what files say of it ----------------------------------------------------------------------------------------


def test_a_search_from_a_checkpoint_says_what_it_was_trained_on_and_how_far(pruning: Path) -> None:
    search = EdgePruning(MODEL)
    evaluate(pruning, search)
    said = search.circuit(5).metadata
    assert (
        said["step"] == 2 and said["trained_on"]["data"]["seed"] == 0 and said["trained_on"]["prompts"]["number"] == 12
    )


def test_a_search_is_as_far_with_another_trainer() -> None:
    search = EdgePruning(MODEL)
    quiet_trainer(max_steps=3).fit(search, data())
    quiet_trainer().validate(search, data(), verbose=False)
    assert search.describe()["step"] == 3


def test_numbers_and_texts_that_are_not_given_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    path = stopped(EAPIG(MODEL, steps=3, rule="midpoint", absolute=False), tmp_path)
    loaded = EAPIG.load_from_checkpoint(path, model=MODEL)
    assert (loaded.steps, loaded.rule, loaded.absolute) == (3, "midpoint", False)
    with pytest.raises(ValueError, match=r"steps 3 there, 4 here$"):
        EAPIG.load_from_checkpoint(path, model=MODEL, steps=4)


def test_exact_patching_is_recorded_too(tmp_path: Path) -> None:
    path = stopped(ActivationPatching(MODEL, edges_per_batch=240), tmp_path, data(n_train=4), steps=1)
    with pytest.raises(ValueError, match="edges_per_batch 240 there, 120 here"):
        resume(path, ActivationPatching(MODEL, edges_per_batch=120), data(n_train=4))


def test_ones_own_classes_are_recorded_too(tmp_path: Path) -> None:
    class Own(Attribution):
        def __init__(self, model: Any = None, *, power: int = 1, **options: Any) -> None:
            super().__init__(model, **options)
            self.power = power

        def attribute(self, batch: Any) -> tuple[Tensor, None]:
            return torch.ones(self.layout.n_edges), None

    path = stopped(Own(MODEL, power=2), tmp_path)
    assert Own.load_from_checkpoint(path, model=MODEL).describe()["power"] == 2
    with pytest.raises(ValueError, match="power 2 there, 3 here"):
        resume(path, Own(MODEL, power=3))
