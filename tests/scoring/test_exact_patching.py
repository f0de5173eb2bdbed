"""Exact patching: the same as cutting each edge in the masked computation, whatever is batched; through a Trainer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits import ActivationPatching
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import KL, LogitDifference, Objective
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks
from tests.support.oracle import ALL_OPEN, Pairs, oracle, pairs
from tests.support.tiny_models import FAMILIES, tiny_model
from tests.support.training import QUIET

CASES = [
    ("gpt2", "head"),
    ("llama-gqa", "head"),
    ("llama-gqa", "group"),
    ("mistral-window", "head"),
    ("qwen3", "group"),
    ("gpt-neox", "head"),
    ("gptj", "head"),
    ("gpt-bigcode", "group"),
    ("falcon-groups", "head"),
    ("olmo-clipped", "head"),
    ("opt", "head"),
    ("ctrl", "head"),
    ("modernbert", "head"),
    ("granite", "group"),
    ("cohere2", "head"),
    ("gemma2", "group"),
    ("olmo3", "head"),
    ("olmo2", "head"),
    ("olmo2", "group"),
]


@cache
def wrapped(family: str, kv: str, dtype: torch.dtype = torch.float64) -> CircuitModel:
    return wrap(tiny_model(family, dtype), kv)


def batch_of(prompts: Pairs) -> dict[str, Tensor]:
    n = len(prompts.positions)
    answers = {"answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}
    return vars(prompts) | answers


def all_scores(patching: ExactPatching, layout: Layout, edges_per_batch: int) -> Tensor:
    """``[n_edges, B]``."""
    found = torch.full((layout.n_edges, len(patching.full_loss)), torch.nan, dtype=torch.float64)
    for part in chunks(layout, edges_per_batch):
        found[part] = patching.scores(part).double()
    return found


def one_by_one(model: CircuitModel, batch: dict[str, Tensor], ablation: Any, objective: Objective) -> Tensor:
    """The same by the masked computation, with gates of 1 and a single 0."""
    full, corrupt = model.run_pair(batch)
    reference, loss = ablation.reference(batch, corrupt), objective(full, batch, full)
    found = []
    for edge in range(model.layout.n_edges):
        gates = torch.ones(model.layout.n_edges)
        gates[edge] = 0.0
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        with torch.no_grad():
            logits = masked_logits(model, gates, ids, mask, positions, reference.clone())
        found.append(objective(logits, batch, full) - loss)
    return torch.stack(found).double()


# ---- what is computed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kv", "padding", "dtype", "tolerance"),
    [(*case, padding, torch.float64, 1e-9) for case in CASES for padding in ("none", "ragged")]
    + [(*case, padding, torch.float32, 1e-5) for case in CASES[:3] for padding in ("left", "ragged")],
)
def test_a_score_is_what_cutting_the_edge_does(
    family: str, kv: str, padding: str, dtype: Any, tolerance: float
) -> None:
    model, batch = wrapped(family, kv, dtype), batch_of(pairs(padding))
    expected = one_by_one(model, batch, ABLATIONS.make("interchange"), LogitDifference())
    patching = ExactPatching(model, batch, ABLATIONS.make("interchange"), LogitDifference())
    found = all_scores(patching, model.layout, edges_per_batch=7)
    torch.testing.assert_close(found, expected, atol=tolerance * max(1, float(expected.abs().max())), rtol=0)
    assert (expected.abs() > 100 * tolerance).float().mean() > 0.7, "hardly an edge matters: a test of nothing"


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean-positional"])
@pytest.mark.parametrize(("family", "kv"), [("gpt2", "head"), ("llama-gqa", "group")])
def test_every_ablation(family: str, kv: str, ablation: str) -> None:
    model, batch, made = wrapped(family, kv), batch_of(pairs("ragged")), ABLATIONS.make(ablation)
    made.fit(model, [batch, batch_of(pairs("ragged", seed=1))])
    expected = one_by_one(model, batch, made, KL())
    found = all_scores(ExactPatching(model, batch, made, KL()), model.layout, edges_per_batch=50)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    assert found.min() > -1e-9, "no circuit is nearer to the full model than itself"


@pytest.mark.parametrize(("family", "kv"), CASES)
def test_the_oracle_agrees(family: str, kv: str) -> None:
    model, prompts = wrapped(family, kv), pairs("left")
    batch, layout = batch_of(prompts), model.layout
    corrupt = oracle(model.model, ALL_OPEN, prompts.corrupt_ids, prompts, kv=kv).writers
    patching = ExactPatching(model, batch, ABLATIONS.make("interchange"), KL())
    draw = torch.Generator().manual_seed(0)
    for part in chunks(layout, 8):
        logits, index = patching.logits(part), int(torch.randint(len(part), (), generator=draw))
        gates = dict.fromkeys(layout.edge_names(range(layout.n_edges)), 1.0)
        gates[layout.edge_names(part[[index]])[0]] = 0.0
        expected = oracle(model.model, gates, prompts.clean_ids, prompts, corrupt, kv).logits
        torch.testing.assert_close(logits[index], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_alone_scores_as_among_others(family: str) -> None:
    """What a layer is given for a single prompt looks like what all prompts share."""
    model, prompts = wrapped(family, "head", torch.float32), pairs("left")
    both, alone = (
        ExactPatching(model, batch_of(rows), ABLATIONS.make("interchange"), LogitDifference())
        for rows in (prompts, prompts.row(0))
    )
    part = chunks(model.layout, 8)[0]
    torch.testing.assert_close(alone.scores(part)[:, 0], both.scores(part)[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("edges_per_batch", [1, 5, 1000])
def test_how_many_are_cut_at_a_time_changes_nothing(edges_per_batch: int) -> None:
    model, batch = wrapped("llama-gqa", "head"), batch_of(pairs("right"))
    patching = ExactPatching(model, batch, ABLATIONS.make("interchange"), KL())
    expected = all_scores(patching, model.layout, 64)
    torch.testing.assert_close(all_scores(patching, model.layout, edges_per_batch), expected, atol=1e-12, rtol=1e-12)


def test_one_prompt_alone() -> None:
    """A batch of one is where a row for each prompt and a row for all of them look alike."""
    model, both = wrapped("llama-gqa", "head"), batch_of(pairs("none"))
    expected = all_scores(ExactPatching(model, both, ABLATIONS.make("interchange"), KL()), model.layout, 64)
    for i in range(2):
        alone = {key: value[i : i + 1] for key, value in both.items()}
        found = all_scores(ExactPatching(model, alone, ABLATIONS.make("interchange"), KL()), model.layout, 64)
        torch.testing.assert_close(found, expected[:, i : i + 1], atol=1e-12, rtol=1e-12)


@given(st.integers(1, 4), st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4)]), st.integers(1, 60), st.booleans())
def test_parts_hold_every_edge_once_and_readers_of_one_kind(
    n_layers: int, heads: tuple[int, int], at_most: int, parallel: bool
) -> None:
    layout = Layout(n_layers, heads[0], 8, heads[1], parallel=parallel)
    parts = chunks(layout, at_most)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(layout.n_edges))
    for part in parts:
        assert 1 <= len(part) <= at_most
        readers = [name.partition("->")[2] for name in layout.edge_names(part)]
        assert len({(name.partition(".")[0], name[-3:] if name.endswith(">") else "") for name in readers}) == 1
        assert torch.equal(layout.edge_writer[part], layout.edge_writer[part].sort().values)
    assert len(parts) <= layout.n_edges / at_most + 4 * n_layers + 1


@given(st.integers(1, 3), st.sets(st.integers(0, 200)), st.integers(1, 30))
def test_parts_of_some_edges_hold_those_and_as_the_parts_of_all(n_layers: int, wanted: set[int], at_most: int) -> None:
    layout = Layout(n_layers, 2, 8, 1)
    among = torch.zeros(layout.n_edges, dtype=torch.bool)
    among[[edge for edge in wanted if edge < layout.n_edges]] = True
    parts = chunks(layout, at_most, among)
    whole = chunks(layout, layout.n_edges)
    assert all(1 <= len(part) <= at_most for part in parts)
    assert torch.cat([*parts, torch.tensor([], dtype=torch.int64)]).tolist() == [
        edge for part in whole for edge in part.tolist() if among[edge]
    ]
    for part in parts:
        assert sum(bool(torch.isin(part, of_all).any()) for of_all in whole) == 1


def test_edges_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="edges"):
        chunks(Layout(2, 2, 8), 7, among=torch.ones(5, dtype=torch.bool))


# ---- through a Trainer ---------------------------------------------------------------------------------------------


def data(batch_size: int = 4, **options: Any) -> IOIDataModule:
    return IOIDataModule(EMBEDDED, n_train=10, n_val=4, n_test=4, batch_size=batch_size, **options)


def fit(search: ActivationPatching, source: IOIDataModule, **options: Any) -> pl.Trainer:
    resume = options.pop("ckpt_path", None)
    trainer = pl.Trainer(**QUIET | options)
    trainer.fit(search, source, ckpt_path=resume, weights_only=resume is not None)
    return trainer


@pytest.fixture(scope="module")
def scores() -> Tensor:
    search = ActivationPatching(EMBEDDED, objective=LogitDifference(), edges_per_batch=120)
    fit(search, data())
    return search.edge_scores()


def test_a_fit_is_the_mean_over_all_prompts_ragged_batches_and_padding_or_not(scores: Tensor) -> None:
    model = ActivationPatching(EMBEDDED).circuit_model
    (batch,) = data(batch_size=10).train_dataloader()
    patching = ExactPatching(model, batch, ABLATIONS.make("interchange"), LogitDifference())
    expected = all_scores(patching, model.layout, 479).mean(-1).float()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    again = ActivationPatching(EMBEDDED, objective=LogitDifference(), edges_per_batch=200)
    fit(again, data(batch_size=3, padding_side="left"))
    torch.testing.assert_close(again.edge_scores(), scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [{"max_steps": 3}, {"max_epochs": 2}, {"max_epochs": 1000, "val_check_interval": 1}])
def test_a_fit_ends_with_the_last_edge_and_is_validated_once(limits: dict[str, int]) -> None:
    seen = []

    class Recorder(pl.Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append((pl_module.describe()["edges_cut"], trainer.global_step))

    search = ActivationPatching(EMBEDDED, edges_per_batch=150)
    trainer = fit(search, data(), callbacks=[Recorder()], num_sanity_val_steps=0, **limits)
    steps = 3 * len(search.parts)  # 10 prompts in batches of 4
    assert trainer.global_step == steps and seen == [(search.layout.n_edges, steps)]
    assert search.describe()["examples"] == 10
    assert float(trainer.callback_metrics["train/edges_cut"]) == search.layout.n_edges


def test_scores_without_a_trainer(scores: Tensor) -> None:
    search = ActivationPatching(EMBEDDED, edges_per_batch=479)
    torch.testing.assert_close(search.scores_over(data().train_dataloader), scores, atol=1e-5, rtol=0)


def test_a_second_fit_begins_anew() -> None:
    search = ActivationPatching(EMBEDDED, edges_per_batch=479)
    fit(search, data())
    once = search.edge_scores()
    fit(search, data())
    assert search.describe()["examples"] == 10
    assert torch.equal(search.edge_scores(), once)


@pytest.mark.parametrize("step", [14, 15])  # in the middle of an epoch of 3 steps, and at the end of one
def test_a_run_that_died_goes_on_where_it_was(step: int, tmp_path: Path) -> None:
    class Die(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == step + 1:
                raise InterruptedError

    def search() -> ActivationPatching:
        return ActivationPatching(EMBEDDED, edges_per_batch=100)

    whole, resumed = search(), search()
    fit(whole, data())
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=step, save_top_k=-1, filename="{step}")
    with pytest.raises(InterruptedError):
        fit(search(), data(), callbacks=[keep, Die()], enable_checkpointing=True)
    path = tmp_path / f"step={step}.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved["edge_sums"].dtype == torch.float64
    assert 0 < int((saved["prompts"] > 0).sum()) < whole.layout.n_edges
    assert path.stat().st_size < 3 * 16 * whole.layout.n_edges + 12_000, "nothing of the model"
    fit(resumed, data(), ckpt_path=path)
    assert torch.equal(resumed.edge_sums, whole.edge_sums) and torch.equal(resumed.prompts, whole.prompts)


def test_edges_that_help_score_above_zero(scores: Tensor) -> None:
    """The embedded model finds names by heads that read the embedding: some edge there carries most of the answer."""
    search = ActivationPatching(EMBEDDED)
    best, worst = (search.layout.edge_names([int(i)])[0] for i in (scores.argmax(), scores.argmin()))
    assert scores.max() > 1.0 and scores.max() > 5 * -scores.min(), (best, worst)


# ---- what cannot work ----------------------------------------------------------------------------------------------


def test_no_edges_at_a_time() -> None:
    with pytest.raises(ValueError, match="edges_per_batch is 0"):
        ActivationPatching(EMBEDDED, edges_per_batch=0)


def test_an_objective_that_is_a_mean() -> None:
    class Mean(Objective):
        def __call__(self, logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
            return KL()(logits, batch, full_logits).mean()

    # It is tried on one prompt before the run.
    with pytest.raises(ValueError, match=r"the objective Mean has to give one number for each of the 1 prompts"):
        fit(ActivationPatching(EMBEDDED, objective=Mean()), data())


def test_a_loss_that_is_not_a_number_is_named() -> None:
    class Broken(Objective):
        def __call__(self, logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
            loss = KL()(logits, batch, full_logits)
            return torch.where(torch.arange(len(loss)) == 6, torch.nan, loss)  # the second edge's copy of prompt 2

    search = ActivationPatching(EMBEDDED, objective=Broken())
    edge = search.layout.edge_names(search.parts[0][[1]])[0]
    with pytest.raises(FloatingPointError, match=f"the score of {edge} is nan in batch 0"):
        fit(search, data())
    assert not search.prompts.any()
