"""Models of every kind go every way of a circuit: found, judged, written and read, and probed while they are trained.

Every method on each kind of block (parallel, fused projections, norms behind, heads that are coupled), and on the other
families one that attributes, one that trains and one that cuts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lightning_circuits import (
    EAP,
    EAPIG,
    ActivationPatching,
    Circuit,
    CircuitSearch,
    EAPIGActivations,
    EdgePruning,
    Ensemble,
    ExpectedGradients,
    InformationFlowRoutes,
    MaskedGradients,
    NodePruning,
    RelP,
    SavedCircuit,
)
from lightning_circuits.callbacks import CircuitExport, CircuitProbe, FaithfulnessValidation
from lightning_circuits.layout import Layout
from lightning_circuits.models.loading import load_tokenizer
from lightning_circuits.namespace import pl
from lightning_circuits.selection import top_n
from tests.support.edge_pruning import as_loader, fresh
from tests.support.oracle import pairs, stock_logits
from tests.support.tiny_models import FAMILIES, tiny_model
from tests.support.training import QUIET, Mine, fit, quiet_trainer, small
from tests.support.unlike_llama import groups_of

METHODS: dict[str, Callable[..., CircuitSearch]] = {
    "EAP": EAP,
    "EAP-IG": partial(EAPIG, steps=2),
    "EAP-IG over activations": partial(EAPIGActivations, steps=2),
    "expected gradients": ExpectedGradients,
    "masked gradients": partial(MaskedGradients, masks=2),
    "RelP": RelP,
    "ensemble": Ensemble,
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


KINDS = ["gpt-neox", "gptj", "cohere", "gemma2", "olmo2"]
FEW = ["EAP-IG", "patching", "edge pruning"]
OTHERS = ["phi3", "smollm3", "stablelm", "starcoder2", "gemma", "gemma3", "granite", "cohere2", "olmo3"]
OTHERS += ["gpt-neo", "gpt-bigcode", "falcon-groups", "phi", "persimmon", "nemotron", "olmo", "olmo-clipped", "codegen"]
OTHERS += ["ctrl", "xglm", "biogpt", "opt", "nanochat", "modernbert"]
PARALLEL = "gpt-neox", "gptj", "cohere", "cohere2", "falcon-groups", "phi", "codegen"
COUPLED = "gemma2", "gemma3", "olmo2", "olmo3"
CASES = [(family, method, "head") for family in KINDS for method in METHODS]
CASES += [(family, method, kv) for family in OTHERS for method, kv in zip(FEW, ("head", "group", "group"), strict=True)]


@pytest.mark.parametrize(("family", "method", "kv"), CASES)
def test_a_circuit_is_found_judged_written_and_read(family: str, method: str, kv: str, tmp_path: Path) -> None:
    search, validation = METHODS[method](model=fresh(family), kv=kv), FaithfulnessValidation(sizes=[0.3, 1.0])
    drawn = ["html", "svg", "graphml"] if method in FEW[:1] else []  # which is as slow as the rest of it
    export = CircuitExport(tmp_path, formats=["json", "pt", "safetensors", *drawn])
    steps = {"max_steps": 3} if isinstance(search, EdgePruning) else {}
    trainer = quiet_trainer(validation, export, **steps)
    trainer.fit(search, as_loader(batches(family, 0)), as_loader(batches(family, 1)))
    layout, config = search.layout, FAMILIES[family]()
    assert (layout.parallel, layout.coupled) == (family in PARALLEL, family in COUPLED)
    assert (layout.n_layers, layout.n_heads) == (config.num_hidden_layers, config.num_attention_heads)
    assert layout.n_kv_readers == (groups_of(config) if kv == "group" else layout.n_heads)
    whole = {row.circuit: row for row in validation.rows}["100%"]
    assert whole.faithfulness == pytest.approx(1.0, abs=1e-4)

    circuit = search.circuit(size=0.3)
    assert circuit.n_edges == int(0.3 * layout.n_edges)
    for suffix in ("json", "pt", "safetensors"):
        path = circuit.save(tmp_path / f"circuit.{suffix}")
        assert Circuit.load(path, layout) == circuit
        saved = SavedCircuit(search.circuit_model.model, path=path, kv=kv)
        assert saved.layout == layout and saved.circuit().prune() == circuit.prune()
    assert Circuit.load(tmp_path / "circuit.safetensors").layout.coupled == layout.coupled
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {".json", ".pt", ".safetensors", *(f".{kind}" for kind in drawn)}


@pytest.mark.parametrize("family", [*KINDS, *OTHERS])
def test_a_circuit_is_found_in_training(family: str) -> None:
    config = FAMILIES[family]()
    config.vocab_size = len(load_tokenizer("tiny-ioi"))
    torch.manual_seed(0)
    probe = CircuitProbe(small(), every_n_steps=2, sizes=[20], method="EAP")
    module = Mine(AutoModelForCausalLM.from_config(config).train(), lr=1e-2)
    fit(probe, module, max_steps=4)
    assert [found.step for found in probe.history] == [0, 2, 4]
    search = EAP(module.net["lm"])
    pl.Trainer(**QUIET).fit(search, small())
    assert torch.equal(probe.history[-1].members["20 edges"], top_n(search.edge_scores().abs(), 20))
    assert not torch.equal(probe.history[0].members["20 edges"], probe.history[-1].members["20 edges"])


@pytest.mark.parametrize("suffix", ["json", "pt", "safetensors"])
def test_a_circuit_of_sequential_blocks_is_refused_before_anything_else(suffix: str, tmp_path: Path) -> None:
    path = Circuit.full(Layout(3, 3, 24)).save(tmp_path / f"c.{suffix}")
    with pytest.raises(
        ValueError, match=r"another layout: parallel .* reads no head of its own layer: .* another kind of model"
    ):
        SavedCircuit(fresh("gpt-neox"), path=path)
