"""Circuits of weights: what they keep, what they are held against, the model that they make, their files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_circuits.circuit import Circuit
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.models.model_weights import model_weights
from lightning_circuits.search.identity import WeightsHash
from lightning_circuits.weights.composition import composition, weight_overlap
from lightning_circuits.weights.space import WeightSpace, WeightTensor
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support.stock_parts import parts_of
from tests.support.tiny_models import FAMILIES, tiny_model


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


@pytest.fixture(scope="module")
def space(model: CircuitModel) -> WeightSpace:
    return WeightSpace.of(model)


def drawn(space: WeightSpace, density: float = 0.3, seed: int = 0) -> WeightCircuit:
    generator = torch.Generator().manual_seed(seed)
    masks = {tensor.name: torch.rand(tensor.shape, generator=generator) < density for tensor in space.tensors}
    return WeightCircuit.of(space, masks, {"seed": seed})


# ---- which weights there are --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_of_one_kind(family: str) -> None:
    language_model: Any = tiny_model(family)
    found = model_weights(wrap(language_model))
    assert {id(weight.parameter) for weight in found} == {id(p) for p in language_model.parameters()}
    assert len(found) == len({weight.name for weight in found})
    inside = {id(p) for p in parts_of(language_model).blocks.parameters()}
    for weight in found:
        if id(weight.parameter) not in inside:
            assert weight.layer is None
            embeddings = "embed_tokens", "embed_in", "embed_positions", "word_embeddings", "w", "wte", "wpe"
            assert (weight.kind == "embedding") == (
                weight.name.split(".")[-2] in embeddings or ".embeddings." in weight.name
            )
            assert weight.kind in ("embedding", "head"), weight.name
            continue
        in_mlp = any(f".{name}." in weight.name for name in ("mlp", "ffn", "fc1", "fc2"))
        assert (weight.kind == "norm") == ("norm" in weight.name or ".ln_" in weight.name), weight.name
        assert weight.kind == "norm" or (weight.kind == "mlp") == in_mlp, weight.name
        assert f".{weight.layer}." in weight.name


def test_kinds_and_layers_are_chosen(model: CircuitModel, space: WeightSpace) -> None:
    some = WeightSpace.of(model, kinds=["mlp", "norm"], layers=[1])
    assert {(tensor.kind, tensor.layer) for tensor in some.tensors} == {("mlp", 1), ("norm", 1)}
    assert not {tensor.kind for tensor in space.tensors} & {"embedding", "head"}  # only where they are asked for
    outside = WeightSpace.of(model, kinds=["embedding", "head", "mlp"], layers=[1])
    assert {(tensor.kind, tensor.layer) for tensor in outside.tensors} >= {("embedding", None), ("mlp", 1)}
    by_layer = composition(drawn(outside), by="layer")
    assert {row.part for row in by_layer} == {"embedding", "head", "1"}
    assert set(some.tensors) < set(space.tensors)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kinds": ["bias"]}, ValueError, "kinds is a list of some of attention, mlp, norm, embedding, head, got"),
        ({"kinds": "mlp"}, ValueError, "kinds is a list of some of"),
        ({"kinds": []}, ValueError, "kinds is a list of some of"),
        ({"layers": [99]}, ValueError, "layers has 99, and the model's are 0 to"),
        ({"layers": 1}, TypeError, "layers is a list of at least one whole number, got 1"),
    ],
)
def test_what_no_space_is(model: CircuitModel, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        WeightSpace.of(model, **options)


# ---- what is kept -------------------------------------------------------------------------------------------------


def test_bits_are_the_masks(space: WeightSpace) -> None:
    generator = torch.Generator().manual_seed(3)
    masks = {tensor.name: torch.rand(tensor.shape, generator=generator) < 0.4 for tensor in space.tensors}
    circuit = WeightCircuit.of(space, masks)
    for tensor, mask in circuit.masks():
        assert torch.equal(mask, masks[tensor.name]) and torch.equal(circuit.mask(tensor.name), mask)
        assert circuit.kept(tensor) == int(mask.sum())
    total = sum(int(mask.sum()) for mask in masks.values())
    assert circuit.n_weights == total and circuit.density == total / sum(mask.numel() for mask in masks.values())


def test_what_it_is_held_against_has_as_many_weights(model: CircuitModel, space: WeightSpace) -> None:
    circuit = drawn(space)
    complement = circuit.complement()
    assert all(torch.equal(a, ~b) for (_, a), (_, b) in zip(complement.masks(), circuit.masks(), strict=True))
    for other in (circuit.random(1), circuit.magnitude(model)):
        assert [*map(other.kept, space.tensors)] == [*map(circuit.kept, space.tensors)]
    for other in (circuit.random(1, within="whole"), circuit.magnitude(model, within="whole")):
        assert other.n_weights == circuit.n_weights
        assert [*map(other.kept, space.tensors)] != [*map(circuit.kept, space.tensors)]
    assert circuit.random(1) != circuit.random(2)
    parameters = space.parameters(model.model)
    inside, outside = (
        torch.cat([parameters[tensor.name].data.abs()[mask ^ flip] for tensor, mask in whole.masks()])
        for whole, flip in ((circuit.magnitude(model, "whole"), False), (circuit.magnitude(model, "whole"), True))
    )
    assert inside.min() >= outside.max()


# ---- as a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["zero", "mean"])
def test_a_model_is_the_circuit_and_then_what_it_was(model: CircuitModel, space: WeightSpace, rest: Any) -> None:
    circuit, before = drawn(space), WeightsHash()(model.model)
    own = {name: parameter.data.clone() for name, parameter in model.model.named_parameters()}
    with circuit.applied(model, rest):
        for tensor, mask in circuit.masks():
            here = dict(model.model.named_parameters())[tensor.name].data
            instead = own[tensor.name][~mask].mean() if rest == "mean" else torch.tensor(0.0)
            torch.testing.assert_close(here, torch.where(mask, own[tensor.name], instead))
        others = dict(model.model.named_parameters()).keys() - {tensor.name for tensor in space.tensors}
        assert all(torch.equal(dict(model.model.named_parameters())[name].data, own[name]) for name in others)
    assert WeightsHash()(model.model) == before


def test_a_model_is_what_it_was_after_an_error_too(model: CircuitModel, space: WeightSpace) -> None:
    before = WeightsHash()(model.model)
    with pytest.raises(KeyboardInterrupt), drawn(space).applied(model):
        raise KeyboardInterrupt
    assert WeightsHash()(model.model) == before


def test_another_model_is_refused(space: WeightSpace) -> None:
    other = wrap(tiny_model("llama"))
    message = "the weights are of another model: LlamaForCausalLM has none where they have"
    with pytest.raises(ValueError, match=message), drawn(space).applied(other):
        pass


# ---- composition and overlap --------------------------------------------------------------------------------------

SMALL = WeightSpace(
    (
        WeightTensor("a", (2, 4), 0, "attention"),
        WeightTensor("b", (4,), 0, "norm"),
        WeightTensor("c", (2, 4), 1, "attention"),
    )
)


def small(**kept: list[int]) -> WeightCircuit:
    masks = {}
    for tensor in SMALL.tensors:
        flat = torch.zeros(tensor.n_weights, dtype=torch.bool)
        flat[kept.get(tensor.name, [])] = True
        masks[tensor.name] = flat.view(tensor.shape)
    return WeightCircuit.of(SMALL, masks)


def test_share_retention_and_enrichment_by_hand() -> None:
    circuit = small(a=[0, 1], b=[0, 1, 2], c=[0])  # 6 of 20: density .3
    attention, norm = composition(circuit)
    assert (attention.part, attention.weights, attention.kept) == ("attention", 16, 3)
    assert (attention.share, attention.retention) == (0.5, 3 / 16)
    assert norm.share == 0.5 and norm.retention == 0.75 and norm.enrichment == pytest.approx(2.5)
    assert [(row.part, row.kept) for row in composition(circuit, by="layer")] == [("0", 5), ("1", 1)]
    assert [row.part for row in composition(circuit, by="tensor")] == ["a", "b", "c"]
    for by in ("kind", "layer", "tensor"):
        assert sum(row.share for row in composition(circuit, by=by)) == pytest.approx(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("within", ["whole", "tensor"])
def test_overlap_by_chance_is_that_of_random_circuits(within: Any) -> None:
    a, b = small(a=[0, 1, 2], b=[0, 1], c=[0]), small(a=[1, 2, 3, 4], b=[1, 2, 3], c=[5])
    found = weight_overlap(a, b, within)
    assert found.both == 3 and found.iou == pytest.approx(3 / (6 + 8 - 3))
    shared = torch.tensor(
        [
            sum(int((x & y).sum()) for (_, x), (_, y) in zip(one.masks(), other.masks(), strict=True))
            for one, other in ((a.random(seed, within), b.random(10_000 + seed, within)) for seed in range(2_000))
        ]
    ).double()
    either = 6 + 8 - float(shared.mean())
    assert found.expected == pytest.approx(float(shared.mean()) / either, abs=0.01)
    assert found.z == pytest.approx((3 - float(shared.mean())) / float(shared.std()), abs=0.12)


def test_circuits_of_other_weights_do_not_overlap(space: WeightSpace) -> None:
    with pytest.raises(ValueError, match=r"the other circuit is of 20 weights, and here are [\d,]+; they differ in"):
        weight_overlap(drawn(space), small())


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_file_holds_the_circuit_eight_weights_a_byte(space: WeightSpace, tmp_path: Path) -> None:
    circuit = replace(drawn(space), metadata={"seed": 0, "note": "as found"})
    path = circuit.save(tmp_path / "half.safetensors")
    found = WeightCircuit.load(path, space)
    assert found.space == space and found.metadata == {"seed": 0, "note": "as found"}
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found.masks(), circuit.masks(), strict=True))
    assert path.stat().st_size < space.n_weights / 8 + 20_000


def rewritten(path: Path, change: Any) -> None:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors, said = safetensors.torch.load(content), json.loads(header["weight_circuit"])
    change(tensors, said)
    path.write_bytes(safetensors.torch.save(tensors, metadata={"weight_circuit": json.dumps(said)}))


def lose(tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    tensors.pop("a")


def shorten(tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    tensors["a"] = torch.zeros(0, dtype=torch.uint8)


def widen(tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    tensors["a"] = torch.zeros(1)


def miscount(tensors: dict[str, Tensor], said: dict[str, Any]) -> None:
    said["n_weights"] = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, "it has no bits of a"),
        (shorten, r"a has \[0\] bytes, expected 1"),
        (widen, "it has no bits of a"),
        (miscount, "it keeps 2 weights, and says 7"),
    ],
)
def test_a_damaged_file_is_said_to_be_one(change: Any, message: str, tmp_path: Path) -> None:
    path = small(a=[1, 2]).save(tmp_path / "c.safetensors")
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"c\.safetensors is no circuit of weights, or damaged: {message}"):
        WeightCircuit.load(path)


def test_other_files_and_places_are_refused(model: CircuitModel, space: WeightSpace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a circuit of weights is a \.safetensors file"):
        small().save(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match="no circuit of weights at"):
        WeightCircuit.load(tmp_path / "none.safetensors")
    edges = Circuit.random(model.layout, 20, 0).save(tmp_path / "edges.safetensors")
    with pytest.raises(ValueError, match="a circuit of edges is read by Circuit"):
        WeightCircuit.load(edges)
    of_others = small().save(tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="it is of another model, or of other kinds or layers"):
        WeightCircuit.load(of_others, space)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"a": torch.ones(2, 4).bool()}, ValueError, "b is missing"),
        ({"a": torch.ones(2, 4).bool(), "d": torch.ones(1).bool()}, ValueError, "b is missing"),
        ({name: torch.ones(4).bool() for name in "abc"}, ValueError, r"a has the shape \[4\], expected \[2, 4\]"),
        (
            {"a": torch.ones(2, 4), "b": torch.ones(4).bool(), "c": torch.ones(2, 4).bool()},
            TypeError,
            "the mask of a is torch.float32, not bool",
        ),
    ],
)
def test_masks_have_to_be_those_of_the_weights(masks: dict[str, Tensor], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        WeightCircuit.of(SMALL, masks)


def test_a_model_without_blocks_has_none() -> None:
    class Strange:
        model = nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Strange does not say which modules are the blocks of Linear"):
        model_weights(Strange())  # type: ignore[arg-type]
