"""Models whose attention and MLP read the same stream go every way of a circuit: found, judged, written and read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits import (
    EAP,
    EAPIG,
    ActivationPatching,
    Circuit,
    CircuitSearch,
    EAPIGActivations,
    EdgePruning,
    InformationFlowRoutes,
    NodePruning,
    SavedCircuit,
)
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.layout import Layout
from tests.support.edge_pruning import as_loader, fresh
from tests.support.oracle import pairs, stock_logits
from tests.support.tiny_models import tiny_model
from tests.support.training import quiet_trainer

LAYOUT = Layout(3, 3, 24, parallel=True)
METHODS: dict[str, Callable[..., CircuitSearch]] = {
    "EAP": EAP,
    "EAP-IG": partial(EAPIG, steps=2),
    "EAP-IG over activations": partial(EAPIGActivations, steps=2),
    "information flow": InformationFlowRoutes,
    "patching": partial(ActivationPatching, edges_per_batch=64),
    "edge pruning": EdgePruning,
    "node pruning": partial(NodePruning, threshold=0.5),
}


def batches(family: str, seed: int) -> list[dict[str, Any]]:
    """Prompts padded on the left, and on the right: what the model thinks most and least of each is right and wrong."""
    found = []
    for padding in ("left", "right"):
        prompts = pairs(padding, seed)
        logits = stock_logits(tiny_model(family), prompts.clean_ids, prompts)
        answers = {"answers": logits.argmax(-1, keepdim=True), "distractors": logits.argmin(-1, keepdim=True)}
        found.append(vars(prompts) | answers)
    return found


@pytest.mark.parametrize("family", ["gpt-neox", "gptj", "cohere"])
@pytest.mark.parametrize("method", METHODS)
def test_a_circuit_is_found_judged_written_and_read(method: str, family: str, tmp_path: Path) -> None:
    search, validation = METHODS[method](model=fresh(family)), FaithfulnessValidation(sizes=[0.3, 1.0])
    export = CircuitExport(tmp_path, formats=["json", "pt", "safetensors", "graphml", "html", "svg"])
    steps = {"max_steps": 3} if isinstance(search, EdgePruning) else {}
    trainer = quiet_trainer(validation, export, **steps)
    trainer.fit(search, as_loader(batches(family, 0)), as_loader(batches(family, 1)))
    layout = search.layout
    assert layout == (Layout(2, 4, 24, parallel=True) if family == "cohere" else LAYOUT)
    whole = {row.circuit: row for row in validation.rows}["100%"]
    assert whole.faithfulness == pytest.approx(1.0, abs=1e-4)

    circuit = search.circuit(size=0.3)
    assert circuit.n_edges == int(0.3 * layout.n_edges)
    for suffix in ("json", "pt", "safetensors"):
        path = circuit.save(tmp_path / f"circuit.{suffix}")
        assert Circuit.load(path, layout) == circuit
        assert SavedCircuit(search.circuit_model.model, path=path).layout == layout
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} >= {".html", ".svg", ".graphml"}


@pytest.mark.parametrize("suffix", ["json", "pt", "safetensors"])
def test_a_circuit_of_sequential_blocks_is_refused_before_anything_else(suffix: str, tmp_path: Path) -> None:
    path = Circuit.full(Layout(3, 3, 24)).save(tmp_path / f"c.{suffix}")
    with pytest.raises(
        ValueError, match=r"another layout: parallel .* reads no head of its own layer: .* another kind of model"
    ):
        SavedCircuit(fresh("gpt-neox"), path=path)
