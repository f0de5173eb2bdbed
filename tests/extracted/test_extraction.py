"""An extracted circuit puts out what exact ablation does, with what is alive of the model and nothing else."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import ExtractedModel, evaluate, extract, load, score
from lightning_circuits.ablation import ABLATIONS, MeanAblation, OptimalAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, register, wrap
from lightning_circuits.models.registry import FAMILIES
from tests.support.extracted import (
    fitted,
    judged,
    judged_everywhere,
    leads_to_the_logits,
    prompts,
    random_circuit,
)
from tests.support.gated import CASES, TOLERANCE, assert_close, wrapped
from tests.support.made_circuits import of_edges
from tests.support.tiny_models import tiny_model

FLOAT64 = torch.float64
ABLATED = ("zero", "mean", "mean-positional")


def at_answers(extracted: ExtractedModel, batch: dict[str, Any]) -> Tensor:
    logits = extracted(batch["clean_ids"], batch["attention_mask"])
    return logits[torch.arange(len(logits)), batch["positions"]]


# ---- what it puts out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "kv"), CASES)
def test_it_puts_out_what_exact_ablation_does(family: str, kv: str) -> None:
    model = wrapped(family, kv, FLOAT64)
    for seed, name in enumerate(ABLATED):
        ablation, circuit = fitted(name, model), random_circuit(model.layout, (0.08, 0.2, 0.5)[seed], seed)
        extracted = extract(model.model, circuit, ablation)
        for padding in ("none", "left", "right", "ragged"):
            batch = prompts(padding)
            expected = judged(model, batch, circuit, ablation)
            assert_close(at_answers(extracted, batch), expected, TOLERANCE[FLOAT64])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mistral-window"])
@pytest.mark.parametrize("name", ABLATED)
def test_it_does_so_at_every_token(family: str, name: str) -> None:
    model, batch = wrapped(family, "head", FLOAT64), prompts("ragged")
    ablation, circuit = fitted(name, model), random_circuit(model.layout, 0.3)
    logits = extract(model.model, circuit, ablation)(batch["clean_ids"], batch["attention_mask"])
    expected = judged_everywhere(model, batch, circuit, ablation)
    assert_close(logits[batch["attention_mask"].bool()], expected, TOLERANCE[FLOAT64])


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "olmoe"])
def test_without_a_mask_every_token_is_real(family: str) -> None:
    model, batch = wrapped(family, "head", FLOAT64), prompts("left")
    extracted = extract(model.model, random_circuit(model.layout, 0.2), "zero")
    together = extracted(batch["clean_ids"], batch["attention_mask"])
    for row, real in zip(range(2), batch["attention_mask"].bool(), strict=True):
        assert_close(extracted(batch["clean_ids"][row : row + 1, real])[0], together[row, real], TOLERANCE[FLOAT64])


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "gptj"])
def test_every_edge_is_the_stock_model(family: str) -> None:
    model, batch = wrapped(family, "head", FLOAT64), prompts("right")
    extracted = extract(model.model, Circuit.full(model.layout), fitted("mean", model))
    ids, mask = batch["clean_ids"], batch["attention_mask"]
    assert_close(extracted(ids, mask)[mask == 1], model.token_logits(ids, mask)[mask == 1], TOLERANCE[FLOAT64])


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "olmo2"])
@pytest.mark.parametrize("edges", [(), ("input->a0.h0<v>", "a0.h0->m1"), ("input->logits",)], ids=len)
def test_nothing_alive_is_what_the_constants_make(family: str, edges: tuple[str, ...]) -> None:
    model, batch = wrapped(family, "head", FLOAT64), prompts("ragged")
    ablation, circuit = fitted("mean-positional", model), of_edges(model.layout, *edges)
    extracted = extract(model.model, circuit, ablation)
    assert len(extracted.heads) == 0 and "0 of" in repr(extracted)
    assert_close(at_answers(extracted, batch), judged(model, batch, circuit, ablation), TOLERANCE[FLOAT64])


def test_heads_that_share_keys_and_values_unevenly() -> None:
    """Of the first group two heads are alive, of the second one."""
    model, batch = wrapped("llama-gqa", "head", FLOAT64), prompts("ragged")
    alive = [f"a0.h{head}" for head in range(3)]
    circuit = of_edges(model.layout, *(f"input->{h}<v>" for h in alive), *(f"{h}->logits" for h in alive))
    extracted = extract(model.model, circuit, "zero")
    assert [len(getattr(extracted.heads["0"], kind)) for kind in ("q", "k", "v", "output")] == [3, 2, 2, 3]
    expected = judged(model, batch, circuit, ABLATIONS.make("zero"))
    assert_close(at_answers(extracted, batch), expected, TOLERANCE[FLOAT64])


def test_optimal_constants_are_those_that_the_circuit_is_judged_with() -> None:
    model, batch = wrapped("gpt2", "head", torch.float32), prompts("ragged")
    circuit, ablation = random_circuit(model.layout, 0.3), OptimalAblation(steps=3)
    ablation.fit(model, [prompts("ragged", seed=5)])
    of_circuit = ablation.of_circuit(model, circuit.members)
    expected = judged(model, batch, circuit, of_circuit)
    for given in (ablation, of_circuit):
        assert_close(at_answers(extract(model.model, circuit, given), batch), expected, 1e-5)


def test_by_names_and_files_as_in_a_notebook(tmp_path: Path) -> None:
    data = IOIDataModule("tiny-ioi", n_train=16, n_val=8, n_test=2)
    model = load("tiny-ioi")
    scores = score(model, data.train_dataloader(), ablation="mean")
    circuit = scores.circuit(size=0.2)
    circuit.save(tmp_path / "circuit.json")
    [batch] = data.val_dataloader()
    extracted = extract("tiny-ioi", tmp_path / "circuit.json", scores.ablation)
    assert_close(at_answers(extracted, batch), judged(wrap(model), batch, circuit, scores.ablation), 1e-4)
    assert extracted.circuit == circuit and extracted.ablation["fitted_over"] == 16
    of_others = evaluate(model, circuit, data.val_dataloader(), ablation="mean", controls=False).ablation
    assert not torch.equal(extract(model, circuit, of_others).constants, extracted.constants)


def test_means_over_data_of_its_own_are_taken_now() -> None:
    data = IOIDataModule("tiny-ioi", n_train=8, n_val=2, n_test=2)
    model = wrap(load("tiny-ioi"))
    by_hand = MeanAblation()
    by_hand.fit(model, data.train_dataloader())
    circuit = random_circuit(model.layout, 0.2)
    extracted = extract(model.model, circuit, MeanAblation(data=data))
    assert torch.equal(extracted.constants, extract(model.model, circuit, by_hand).constants)


def test_in_bfloat16() -> None:
    model = wrap(deepcopy(tiny_model("llama-gqa")).bfloat16())
    circuit, batch = random_circuit(model.layout, 0.5), prompts("ragged")
    extracted = extract(model.model, circuit, fitted("mean", model))
    logits = at_answers(extracted, batch)
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    # The only other rounding is that of the constants' sums, which are kept in float32 until they are read.
    expected = judged(model, batch, circuit, fitted("mean", model))
    assert (logits - expected).norm() < 0.05 * expected.norm()


# ---- what is in it ---------------------------------------------------------------------------------------------------


def with_other_dead_weights(model: CircuitModel, circuit: Circuit, seed: int = 0) -> Any:
    """A copy of a Llama or GPT-2 whose dead heads and MLPs have any numbers for weights."""
    other, alive = deepcopy(model.model), leads_to_the_logits(circuit)
    generator, layout = torch.Generator().manual_seed(seed), model.layout
    of_each = layout.n_heads // model.n_groups

    def noise(weight: Tensor) -> None:
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=FLOAT64))

    for layer, block in enumerate(getattr(other.base_model, "layers", None) or other.base_model.h):
        dead = [head for head in range(layout.n_heads) if f"a{layer}.h{head}" not in alive]
        if f"m{layer}" not in alive:
            for weight in [
                *block.mlp.parameters(),
                *getattr(block, "post_attention_layernorm", block.mlp).parameters(),
            ]:
                noise(weight)
        for head in dead:
            if hasattr(block, "attn"):  # GPT-2
                width = layout.d_model // layout.n_heads
                for third in range(3):
                    columns = slice(third * layout.d_model + head * width, third * layout.d_model + (head + 1) * width)
                    noise(block.attn.c_attn.weight[:, columns])
                    noise(block.attn.c_attn.bias[columns])
                noise(block.attn.c_proj.weight[head * width : (head + 1) * width])
            else:
                q, k, v, o = (getattr(block.self_attn, f"{kind}_proj").weight for kind in "qkvo")
                width = len(q) // layout.n_heads
                noise(q.view(layout.n_heads, width, -1)[head])
                noise(o.view(-1, layout.n_heads, width)[:, head])
                group = range(head // of_each * of_each, (head // of_each + 1) * of_each)
                if set(group) <= set(dead):
                    noise(k.view(model.n_groups, width, -1)[head // of_each])
                    noise(v.view(model.n_groups, width, -1)[head // of_each])
    return other


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize("density", [0.02, 0.05, 0.1])
def test_no_dead_weight_is_in_it(family: str, density: float) -> None:
    """Whatever numbers stand in the model for what is dead, the extracted one is the same to the bit."""
    model = wrapped(family, "head", FLOAT64)
    circuit, ablation = random_circuit(model.layout, density, seed=2), fitted("mean", model)
    other = with_other_dead_weights(model, circuit)
    changed = sum((a != b).sum() for a, b in zip(model.model.parameters(), other.parameters(), strict=True))
    assert changed > 0.1 * model.model.num_parameters()
    one, two = extract(model.model, circuit, ablation), extract(other, circuit, ablation)
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


def test_as_many_numbers_as_what_is_alive_has() -> None:
    model = wrapped("llama-gqa", "head", FLOAT64)
    d, width, inner, vocabulary = 24, 6, 20, 19
    circuit = of_edges(
        model.layout, *("input->a0.h0<v>", "a0.h0->a1.h2<q>", "input->a1.h3<k>", "a1.h2->m1", "a1.h3->m1", "m1->logits")
    )
    extracted = extract(model.model, circuit, "zero")
    with torch.inference_mode():
        assert extract(model.model, circuit, "zero").n_weights == extracted.n_weights
    whole = 2 * vocabulary * d + d
    heads = (4 * width * d + d) + (2 * 2 + 2) * width * d + d  # a0.h0; a1.h2 and a1.h3, of one group; norms
    mlp = 3 * d * inner + d
    constants = (1 + 3 + 1) * d + 5 * d  # of live writers, and of the streams
    assert extracted.n_weights == whole + heads + mlp + constants
    assert "3 of 8 heads, 1 of 2 MLPs" in repr(extracted) and "zero ablation" in repr(extracted)


def test_its_weights_are_its_own() -> None:
    stock = deepcopy(tiny_model("gpt2"))
    batch, layout = prompts("left"), wrap(stock).layout
    extracted = extract(stock, random_circuit(layout, 0.3), "zero")
    before = at_answers(extracted, batch)
    for parameter in stock.parameters():
        parameter.data.fill_(0.3)
    assert torch.equal(at_answers(extracted, batch), before)
    assert not any(parameter.requires_grad for parameter in extracted.parameters())


def test_the_model_stays_as_it_was() -> None:
    stock = deepcopy(tiny_model("llama-gqa"))
    layout, before = wrap(stock).layout, deepcopy(stock.state_dict())
    extract(stock, random_circuit(layout, 0.1), "zero")
    assert stock.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in stock.state_dict().items())


def test_it_stays_in_eval_mode_within_what_is_trained() -> None:
    model, batch = wrapped("gpt2", "head", torch.float32), prompts("none")
    assert model.model.config.resid_pdrop > 0
    extracted = extract(model.model, random_circuit(model.layout, 0.5), "zero")
    before = at_answers(extracted, batch)
    torch.nn.Sequential(extracted).train()
    assert torch.equal(at_answers(extracted, batch), before)


def test_a_model_of_ones_own_is_extracted_too() -> None:
    from examples.own_model import LETTERS, TinyTransformer, induction

    torch.manual_seed(0)
    model = wrap(TinyTransformer(LETTERS))
    [batch], circuit = induction(1, seed=0), random_circuit(model.layout, 0.3)
    ablation = MeanAblation()
    ablation.fit(model, induction(2, seed=1))
    extracted = extract(model.model, circuit, ablation)
    assert_close(at_answers(extracted, batch), judged(model, batch, circuit, ablation), 1e-4)
    with pytest.raises(ValueError, match="TinyTransformer cannot be made again from a file: it is no class of transf"):
        extracted.save("nowhere")
    assert not Path("nowhere").exists()


def test_an_adapter_that_reads_weights_of_heads_elsewhere_is_refused() -> None:
    from examples.own_model import LETTERS, TinyTransformer, TinyTransformerCircuits

    class Other(TinyTransformer):
        pass

    class OtherCircuits(TinyTransformerCircuits):
        module_types = (Other,)

        def scaling(self, layer: int) -> float:
            return (self.attention_module(layer).qkv.weight.shape[0] // (3 * self.layout.n_heads)) ** -0.5

    register(OtherCircuits)
    try:
        model = wrap(Other(LETTERS))
        with pytest.raises(
            ValueError, match="Other cannot be extracted: OtherCircuits reads weights of heads elsewhere"
        ):
            extract(model.model, Circuit.full(model.layout), "zero")
    finally:
        FAMILIES._classes.pop("othercircuits")


# ---- refused ---------------------------------------------------------------------------------------------------------

LAYOUT = Layout(3, 3, 24)  # of gpt2


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        (
            "interchange",
            "under interchange ablation cut edges carry what is of each prompt.*zero, mean, mean-positional",
        ),
        ("mean-group", "under mean-group ablation cut edges carry"),
        ("mean-span", "under mean-span ablation cut edges carry"),
        ("mean", r"mean ablation is not fitted: give the one .* evaluate\(...\).ablation, or fit one"),
        ("mean-positional", "mean-positional ablation is not fitted"),
        ("optimal", "optimal ablation is not fitted"),
        ("zeros", "did you mean zero"),
    ],
)
def test_an_ablation_without_constants_is_refused_before_a_model_is_loaded(ablation: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        extract("no/such-model", Circuit.full(LAYOUT), ablation)


def test_circuits_and_ablations_of_something_else_are_refused() -> None:
    model = wrapped("gpt2", "head", torch.float32)
    with pytest.raises(ValueError, match=r"knows no spans of tokens: take the circuit.without_spans"):
        extract(model.model, Circuit.full(LAYOUT.in_spans(["S2"])), "zero")
    with pytest.raises(ValueError, match="the circuit is of another layout: n_layers 2 against 3"):
        extract(model.model, Circuit.full(Layout(2, 3, 24)), "zero")
    with pytest.raises(ValueError, match="the mean ablation was fitted to another model than the circuit's"):
        extract(model.model, Circuit.full(LAYOUT), fitted("mean", wrapped("llama", "head", torch.float32)))
    with pytest.raises(FileNotFoundError, match=r"no circuit file at missing\.json"):
        extract(model.model, "missing.json", "zero")


@pytest.mark.parametrize(
    ("ids", "mask", "error", "said"),
    [
        (torch.tensor([1, 2]), None, ValueError, r"\[prompts, tokens\] both, .* got \[2\] and \[2\]"),
        (torch.zeros(0, 3, dtype=torch.int64), None, ValueError, r"at least one of each, got \[0, 3\] and \[0, 3\]"),
        (torch.tensor([[1.0, 2.0]]), None, TypeError, "whole numbers, got torch.float32"),
        (torch.tensor([[1, 2]]), torch.ones(1, 3), ValueError, r"got \[1, 2\] and \[1, 3\]"),
        (torch.tensor([[1, 2]]), torch.tensor([[2, 1]]), ValueError, "other numbers than 0 and 1"),
        (torch.tensor([[1, 19]]), None, ValueError, "has the id 19, and this GPT2LMHeadModel knows ids from 0 to 18"),
        (torch.ones(1, 33, dtype=torch.int64), None, ValueError, "33 tokens, more than the 32"),
        (torch.ones(1, 6, dtype=torch.int64), None, ValueError, "6 tokens, and the mean-positional ablation has const"),
    ],
)
def test_prompts_that_cannot_be_run_are_refused(ids: Tensor, mask: Tensor | None, error: type, said: str) -> None:
    model = wrapped("gpt2", "head", torch.float32)
    extracted = extract(model.model, random_circuit(model.layout, 0.3), fitted("mean-positional", model))
    with pytest.raises(error, match=said):
        extracted(ids, mask)
