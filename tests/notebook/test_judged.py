"""Evaluations are those of `evaluation.rows` and `evaluation.per_prompt`, and say on what they were made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_circuits import Circuit, evaluate, load, score, show
from lightning_circuits.ablation import MeanAblation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation import rows as judging
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.notebook.scores import Scores


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=6, n_val=5, n_test=1, batch_size=4)


@pytest.fixture(scope="module")
def model() -> Any:
    return load("tiny-ioi")


@pytest.fixture(scope="module")
def scores(model: Any, data: IOIDataModule) -> Scores:
    return score(model, list(data.make_splits()["train"]), "eap")


@pytest.fixture(scope="module")
def held_out(data: IOIDataModule) -> list[Any]:
    return list(data.make_splits()["val"])


def test_rows_are_those_of_the_room(model: Any, data: IOIDataModule, scores: Scores, held_out: list[Any]) -> None:
    circuit = scores.circuit(size=0.1)
    found = evaluate(model, circuit, held_out, batch_size=3)
    [*expected] = judging.evaluate(
        wrap(model), data.val_dataloader(), {"circuit": circuit}, [scores.ablation], split="given"
    )
    assert [row.circuit for row in found] == ["full", "empty", "circuit", "circuit random", "circuit complement"]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.circuit == theirs.circuit and mine.scalars() == pytest.approx(
            theirs.scalars(), abs=1e-3, nan_ok=True
        )
    assert found.row("full").faithfulness == 1 and found.row() is found[2]
    with pytest.raises(ValueError, match="there is no row 'x', but full, empty, circuit"):
        found.row("x")


def test_prompt_by_prompt_the_means_are_the_rows(model: Any, scores: Scores, held_out: list[Any]) -> None:
    circuits = {"small": scores.circuit(size=10), "large": scores.circuit(size=0.3)}
    found = evaluate(model, circuits, held_out, controls=False)
    listing = found.per_prompt()
    assert list(listing.columns) == ["prompt", "full", "empty", "small", "large"]
    assert listing.columns["prompt"] == [pair.clean for pair in held_out]
    for name in ("full", "empty", "small", "large"):
        assert sum(listing.columns[name]) / len(held_out) == pytest.approx(found.row(name).value, abs=1e-4)


def test_of_batches_prompts_go_by_their_numbers(model: Any, data: IOIDataModule, scores: Scores) -> None:
    found = evaluate(model, scores.circuit(size=10), data.val_dataloader(), controls=False)
    assert found.per_prompt().columns["prompt"] == [f"prompt {number}" for number in range(5)]


def test_what_it_was_found_on_is_named(model: Any, data: IOIDataModule, scores: Scores, held_out: list[Any]) -> None:
    circuit = scores.circuit(size=10)
    on_its_own = evaluate(model, circuit, data.train_dataloader(), controls=False)
    assert {row.split for row in on_its_own} == {"train"} and "that a circuit was found on" in repr(on_its_own)
    elsewhere = evaluate(model, {"a": circuit, "b": Circuit.empty(circuit.layout)}, held_out, controls=False)
    assert {row.split for row in elsewhere} == {"given"} and "found on" not in repr(elsewhere)


def test_means_are_of_these_prompts_or_of_those_that_were_scored(
    model: Any, data: IOIDataModule, held_out: list[Any]
) -> None:
    scores = score(model, list(data.make_splits()["train"]), "eap", ablation="mean")
    circuit = scores.circuit(size=0.1)
    own, handed_on = (
        evaluate(model, circuit, held_out, ablation=cut, controls=False) for cut in (None, scores.ablation)
    )
    assert own.rows[0].ablation == handed_on.rows[0].ablation == "mean"
    assert "mean over 5 prompts" in repr(own) and "mean over 6 prompts" in repr(handed_on)
    circuit_model = wrap(model)
    for found, batches in ((own, data.val_dataloader()), (handed_on, data.train_dataloader())):
        cut = MeanAblation()
        cut.fit(circuit_model, batches)
        values = measured(circuit_model, data.val_dataloader(), [circuit], cut)
        assert found.row().value == pytest.approx(values.mean().item(), abs=1e-3)


def test_shown_and_as_a_frame(model: Any, scores: Scores, held_out: list[Any]) -> None:
    found = evaluate(model, scores.circuit(size=10), held_out)
    row = found.row()
    line = next(line.split() for line in repr(found).splitlines() if line.split()[:2] == ["circuit", "10"])
    assert line[3:6] == [
        f"{row.faithfulness:.2f}",
        f"{row.faithfulness_low:.2f}..{row.faithfulness_high:.2f}",
        f"{row.kl:.3f}",
    ]
    assert f'<td style="text-align: right">{row.kl:.3f}</td>' in found._repr_html_()
    pytest.importorskip("pandas", reason="no pandas: pip install pandas")
    frame = found.to_frame()
    assert list(frame.circuit) == [each.circuit for each in found]
    assert frame.faithfulness_low[2] == row.faithfulness_low


def test_mistakes_are_said(model: Any, scores: Scores, held_out: list[Any]) -> None:
    circuit = scores.circuit(size=10)
    with pytest.raises(TypeError, match=r"circuit has to be a Circuit, such as scores\.circuit\(size=0\.01\), got"):
        evaluate(model, scores, held_out)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a page shows a Circuit, such as scores\.circuit\(size=0\.01\), got Scores"):
        show(scores)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are no circuits"):
        evaluate(model, {}, held_out)
    other = replace(circuit, metadata={"ablation": "zero"})
    with pytest.raises(ValueError, match="found with interchange and zero ablation, with options or several: say by"):
        evaluate(model, {"a": circuit, "b": other}, held_out)
    with pytest.raises(ValueError, match="unknown ablation 'zeros' "):
        evaluate(model, circuit, held_out, ablation="zeros")
    small = Layout(2, 2, 8)
    with pytest.raises(ValueError, match="of another layout"):
        evaluate(model, Circuit.full(small), held_out)
    with pytest.raises(ValueError, match="b is of another layout"):
        evaluate(model, {"a": circuit, "b": Circuit.full(small)}, held_out)


def test_a_circuit_in_spans_is_judged_in_its_own(model: Any, data: IOIDataModule) -> None:
    train, held_out = (
        [
            {name: getattr(pair, name) for name in ("clean", "corrupt", "answers", "distractors", "spans")}
            for pair in data.make_splits()[split]
        ]
        for split in ("train", "val")
    )
    circuit = score(model, train, "eap", spans=True).circuit(size=0.2)
    found = evaluate(model, circuit, held_out, controls=False)
    plain = evaluate(model, Circuit.full(circuit.layout.plain), held_out, controls=False)
    assert found.row("full").value == pytest.approx(plain.row("full").value, abs=1e-4)
    everywhere = Circuit(circuit.layout, torch.ones_like(circuit.members))
    assert evaluate(model, everywhere, held_out, controls=False).row().faithfulness == pytest.approx(1, abs=1e-4)
