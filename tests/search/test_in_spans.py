"""Searches whose edges are told apart by spans of the prompts, from the first step to the saved circuit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import (
    EAP,
    EAPIG,
    ActivationPatching,
    EdgePruning,
    Ensemble,
    ExpectedGradients,
    InformationFlowRoutes,
    MaskedGradients,
    RelP,
    SavedCircuit,
)
from lightning_circuits.ablation import InterchangeAblation
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import CircuitExport, FaithfulnessCurve, FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule, PromptPairDataModule
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from tests.support.training import QUIET

LIVE = ("S2", "S2..END", "END")
"""With a third name in the place of the second S, nothing differs before it."""


def data(spans: Any = "roles") -> IOIDataModule:
    return IOIDataModule(EMBEDDED, n_train=24, n_val=12, n_test=12, batch_size=8, spans=spans)


def fitted(search: Any, *callbacks: pl.Callback, **options: Any) -> Any:
    pl.Trainer(**QUIET | options, callbacks=list(callbacks)).fit(search, data())
    return search


def test_attribution_in_spans_is_that_of_the_functions_and_is_judged_exported_and_judged_again(tmp_path: Path) -> None:
    validation = FaithfulnessValidation(sizes=[0.05, 0.2])
    curve = FaithfulnessCurve(sizes=[0.05, 0.2, 1.0], random=True, dirpath=tmp_path)
    search = fitted(
        EAP(EMBEDDED, spans=True), validation, curve, CircuitExport(tmp_path, formats=["json", "dot", "svg", "html"])
    )
    assert search.layout.spans == LIVE and search.describe()["spans"] == list(LIVE)
    batches = list(data().train_dataloader())
    sums = [gradient_scores(search.circuit_model, b, search.ablation, LogitDifference()).edges for b in batches]
    torch.testing.assert_close(search.edge_scores(), sum(sums) / 24, atol=1e-6, rtol=1e-5)
    rows = {row.circuit: row for row in validation.rows}
    assert (
        rows["20%"].edges == int(0.2 * search.layout.n_edges)
        and rows["20%"].faithfulness > rows["20% random"].faithfulness
    )
    assert {row.circuit for row in curve.curve.rows} >= {"100%", "20% random"} or curve.curve.rows
    saved = tmp_path / "circuit-last-20pct.json"
    assert Circuit.load(saved).layout.spans == LIVE
    example = Circuit.load(saved).metadata["example"]
    assert list(example.items()) == list(data().describe_spans()["example"].items()) and set(LIVE) < set(example)
    assert search.circuit(size=0.2).metadata["example"] == example
    again = SavedCircuit(EMBEDDED, path=saved)
    judged = FaithfulnessValidation(sizes=[Circuit.load(saved).n_edges])
    pl.Trainer(**QUIET, callbacks=[judged]).validate(again, data(), verbose=False)
    row = next(row for row in judged.rows if row.circuit not in ("full", "empty"))
    assert row.faithfulness == pytest.approx(rows["20%"].faithfulness, abs=1e-5)


@pytest.mark.parametrize(
    "method", [EAPIG, RelP, ActivationPatching, InformationFlowRoutes, ExpectedGradients, MaskedGradients, Ensemble]
)
def test_every_method_has_scores_in_spans(method: Any) -> None:
    search = fitted(method(EMBEDDED, spans=True), limit_train_batches=1)
    scores = search.layout.each_span(search.edge_scores())
    assert scores.isfinite().all() and all(each.abs().max() > 0 for each in scores)


@pytest.mark.parametrize("gate", ["TopK", "HardConcrete"])
@pytest.mark.parametrize("warm_start", [None, "EAP"])
def test_gates_in_spans_are_trained_and_go_on_where_they_were(tmp_path: Path, gate: str, warm_start: Any) -> None:
    def search() -> EdgePruning:
        return EdgePruning(EMBEDDED, gate=gate, warm_start=warm_start, spans=True)

    whole = fitted(search(), max_steps=6)
    assert len(whole.gate.logits) == 3 * whole.layout.plain.n_edges == whole.layout.n_edges
    assert len({float(each.detach().sum()) for each in whole.layout.each_span(whole.gate.logits)}) == 3
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    fitted(search(), keep, max_steps=6, enable_checkpointing=True)
    resumed = search()
    first = sorted(tmp_path.glob("*step=3*"))[0]
    pl.Trainer(**QUIET, max_steps=6).fit(resumed, data(), ckpt_path=first)
    assert torch.equal(resumed.gate.logits, whole.gate.logits)
    loaded = EdgePruning.load_from_checkpoint(first, model=EMBEDDED, gate=gate, warm_start=warm_start, spans=True)
    assert loaded.layout == whole.layout
    assert_counted_in_tokens(whole.circuit(0.1), loaded.circuit(0.1), resumed.circuit(0.1))
    assert loaded.describe()["trained_on"]["example"] == data().describe_spans()["example"]
    with pytest.raises(ValueError, match="spans True there, False here"):
        EdgePruning.load_from_checkpoint(first, model=EMBEDDED, gate=gate, warm_start=warm_start, spans=False)


def assert_counted_in_tokens(*circuits: Circuit) -> None:
    """The prompts say where each span lies; every one of these tokens may differ."""
    batches = list(data().train_dataloader())
    tokens = {name: sum(int((b["spans"] == b["span_names"].index(name)).sum()) for b in batches) / 24 for name in LIVE}
    for circuit in circuits:
        assert circuit.metadata["live_tokens"] == tokens
        by_hand = sum(tokens[name.split("@")[1]] for name in circuit.edge_names())
        assert circuit.metadata["token_edges"] == pytest.approx(by_hand)


def test_a_circuit_without_spans_starts_all_of_them_and_one_of_others_none(tmp_path: Path) -> None:
    plain = fitted(EAP(EMBEDDED)).circuit(0.1)
    file = plain.save(tmp_path / "plain.json")
    for start in (plain, file, plain.scores):
        search = fitted(EdgePruning(EMBEDDED, warm_start=start, spans=True), max_steps=1, limit_train_batches=1)
        of_spans = search.layout.each_span(search.gate.logits.detach())
        own = start if start is plain.scores else plain.scores.abs()  # EAP ranks by |score|, a tensor as it is
        ranks = torch.stack([each.argsort().argsort().float() for each in (*of_spans, own)])
        assert torch.corrcoef(ranks).min() > 0.9
    with pytest.raises(ValueError, match="the warm start is of another layout: spans"):
        fitted(EdgePruning(EMBEDDED, warm_start=plain.in_spans(["S2", "END"]), spans=True), max_steps=1)


@pytest.mark.parametrize("judge", [FaithfulnessValidation, FaithfulnessCurve])
def test_an_ablation_that_changes_what_is_not_searched_is_refused_before_training(judge: Any, tmp_path: Path) -> None:
    """A mean takes the place of every token, the corrupt prompt only of those from S2 on."""
    search, where = EdgePruning(EMBEDDED, spans=True), {"dirpath": tmp_path} if judge is FaithfulnessCurve else {}
    said = r"under mean ablation, which changes tokens in the span \.\.\w+ too, and edges .* S2, S2\.\.END, END alone"
    with pytest.raises(ValueError, match=said):
        fitted(search, judge(sizes=[0.1, 0.5], ablations=["interchange", "mean"], **where), max_steps=1)
    assert search.global_step == 0 and not search.layout.spans  # not even what it is to learn is there
    under_it = EAP(EMBEDDED, ablation="mean", spans=True)
    callback = judge(sizes=[0.1, 0.5], ablations=["interchange", "mean"], **where)
    source = data()
    pl.Trainer(**QUIET, callbacks=[callback]).fit(under_it, source)
    in_some = {name for pair in source.val_dataloader().pairs for name in pair.spans}
    assert 3 < len(in_some) < len(under_it.layout.spans)  # of the few prompts for validation none has some of the spans
    rows = callback.rows if judge is FaithfulnessValidation else callback.curve.rows
    assert {row.ablation for row in rows} == {"interchange", "mean"}


def test_live_spans_are_looked_for_once_a_run_and_anew_in_the_next(tmp_path: Path) -> None:
    class Counting(InterchangeAblation):
        seen = 0

        def live(self, batch: Batch) -> torch.Tensor:
            self.seen += 1
            return super().live(batch)

    class BeforeTraining(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(counting.seen)

    counting, seen = Counting(), []
    search = EAP(EMBEDDED, ablation=counting, spans=True)
    judges = FaithfulnessValidation(sizes=[0.1]), FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path)
    refused = FaithfulnessValidation(sizes=[0.1], ablations=["mean"])
    with pytest.raises(ValueError, match="under mean ablation"):
        fitted(search, *judges, refused)
    broke_off = counting.seen
    others = IOIDataModule(EMBEDDED, 24, 12, 12, batch_size=8, corruption="abc", spans="roles")
    pl.Trainer(**QUIET, callbacks=[*judges, BeforeTraining()]).fit(search, others)
    assert seen == [broke_off + len(others.train_dataloader())] and broke_off == len(data().train_dataloader())
    assert set(LIVE) < set(search.layout.spans)


def test_data_that_name_no_places_and_formats_without_a_place_for_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pt know no spans .* formats=\['json', 'safetensors'\]"):
        fitted(EAP(EMBEDDED, spans=True), CircuitExport(tmp_path))
    with pytest.raises(TypeError, match="spans"):
        EAP(EMBEDDED, spans="yes")
    lines = []
    for place in ("store", "park", "garden", "museum"):
        clean = f"When Mary and John went to the {place}, John gave a drink to"
        texts = {"clean": clean, "corrupt": clean.replace(", John", ", Tim")}
        lines.append(json.dumps({**texts, "answers": [" Mary"], "distractors": [" John"]}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    pairs = PromptPairDataModule(EMBEDDED, tmp_path / "pairs.jsonl", val_fraction=0.25, test_fraction=0.25)
    for source in (pairs, data(spans=None)):
        with pytest.raises(ValueError, match="the training prompts have none: make the data with spans='roles'"):
            pl.Trainer(**QUIET).fit(EAP(EMBEDDED, spans=True), source)
