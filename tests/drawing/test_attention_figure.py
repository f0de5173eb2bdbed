"""The figure of attention patterns: each panel is the matrix that was measured, with the prompt's tokens beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.drawing.attention import patterns_figure
from lightning_circuits.evaluation.attention import Patterns, attention_patterns
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model

HEADS = ["a0.h0", "a0.h1", "a0.h2", "a0.h3"]


@pytest.fixture(scope="module")
def ioi() -> tuple[Patterns, IOIDataModule]:
    data = IOIDataModule("tiny-ioi", n_train=4, n_val=4, n_test=4, batch_size=4, padding_side="left")
    model = wrap(load_model("tiny-ioi"))
    circuit = Circuit.random(model.layout, 200, seed=0)
    return attention_patterns(model, next(iter(data.val_dataloader())), circuit, heads=HEADS), data


def test_each_head_has_the_circuit_the_model_and_their_difference(
    ioi: tuple[Patterns, IOIDataModule], tmp_path: Path
) -> None:
    patterns, data = ioi
    figure = patterns_figure(patterns, data.tokenizer, prompt=2)
    figure.savefig(tmp_path / "patterns.png")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == [
        f"{name}, {where}" for name in patterns.heads for where in ("circuit", "model", "difference")
    ]
    real = patterns.attention_mask[2].bool()
    shown = {"model": patterns.full, "circuit": patterns.circuit, "difference": patterns.circuit - patterns.full}
    for where, weights in shown.items():
        for i, name in enumerate(patterns.heads):
            [image] = panels[f"{name}, {where}"].images
            assert torch.equal(torch.as_tensor(image.get_array()), weights[i, 2][real][:, real])
            assert image.get_clim() == ((-1, 1) if where == "difference" else (0, 1))  # 0 is white, and of no sign
    axes = panels["a0.h2, circuit"]  # at the left, and at the bottom
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        text = "".join(label.get_text() for label in labels).replace(" ", "")
        assert text == data.tokenizer.decode(patterns.input_ids[2, real]).replace(" ", "")


def test_the_figure_says_which_prompts_there_are(ioi: tuple[Patterns, IOIDataModule]) -> None:
    for prompt in (4, -1):
        with pytest.raises(ValueError, match=f"no prompt {prompt}: the batch has 4"):
            patterns_figure(ioi[0], ioi[1].tokenizer, prompt)


def test_spans_of_the_prompt_are_parted_and_named_on_both_axes(ioi: tuple[Patterns, IOIDataModule]) -> None:
    data = IOIDataModule("tiny-ioi", n_train=4, n_val=4, n_test=4, batch_size=4, padding_side="left", spans="roles")
    batch = next(iter(data.val_dataloader()))
    patterns = replace(ioi[0], spans=batch["spans"], span_names=batch["span_names"])
    real = batch["attention_mask"][2].bool()
    assert not real.all()  # padding is no span
    of_tokens = [batch["span_names"][i] for i in batch["spans"][2, real].tolist()]
    places = {name: [t for t, own in enumerate(of_tokens) if own == name] for name in of_tokens}
    middles = {name: sum(tokens) / len(tokens) for name, tokens in places.items()}
    borders = {t - 0.5 for tokens in places.values() for t in (tokens[0], tokens[-1] + 1)}

    panels = {axes.get_title(): axes for axes in patterns_figure(patterns, data.tokenizer, prompt=2).axes}
    first = panels["a0.h0, difference"]  # at the top, and at the right of its head
    assert {text.get_text(): text.get_position()[0] for text in first.texts if text.get_rotation()} == middles
    assert {text.get_text(): text.get_position()[1] for text in first.texts if not text.get_rotation()} == middles
    for title in ("a0.h0, difference", "a0.h3, model"):
        x = {line.get_xdata()[0] for line in panels[title].lines if list(line.get_ydata()) == [0, 1]}
        y = {line.get_ydata()[0] for line in panels[title].lines if list(line.get_xdata()) == [0, 1]}
        assert x == y == borders, title
    assert not panels["a0.h3, model"].texts  # not in every panel
    bare = patterns_figure(ioi[0], data.tokenizer, prompt=2).axes[0]
    assert not bare.texts and not bare.lines


def test_patterns_say_the_spans_of_their_prompts() -> None:
    data = IOIDataModule("tiny-ioi", n_train=4, n_val=4, n_test=4, batch_size=4, spans="roles")
    batch = next(iter(data.val_dataloader()))
    model = wrap(load_model("tiny-ioi")).in_spans(["S2", "END"])
    live = Circuit.random(model.layout, 200, seed=0)
    with pytest.raises(ValueError, match="differs under this ablation at token"):
        attention_patterns(model, batch, live, heads=HEADS)
    model = wrap(load_model("tiny-ioi")).in_spans(["S2", "S2..END", "END"])
    patterns = attention_patterns(model, batch, Circuit.random(model.layout, 200, seed=0), heads=HEADS)
    assert torch.equal(patterns.spans, batch["spans"]) and patterns.span_names == batch["span_names"]
