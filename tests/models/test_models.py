"""Hugging Face models read as writers and readers: nothing missing, nothing copied, nothing left behind."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Model

from lightning_circuits.models import CircuitModel, wrap
from tests.support.oracle import ALL_OPEN, PADDINGS, oracle, pairs, stock_logits
from tests.support.tiny_models import FAMILIES, tiny_model
from tests.support.unlike_llama import groups_of

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
families = pytest.mark.parametrize("family", FAMILIES)
paddings = pytest.mark.parametrize("padding", PADDINGS)
precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


def record(model: CircuitModel, input_ids: Tensor, mask: Tensor, positions: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Logits, and the writers of the last prompts; NaN stays wherever a writer was missed."""
    shape = model.layout.n_writers, last, input_ids.shape[1], model.layout.d_model
    writers = torch.full(shape, torch.nan, dtype=model.dtype)
    return model.run(input_ids, mask, positions, writers=writers), writers


def states(model: CircuitModel, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Hugging Face's own residual stream before every layer; the last one is already normed, as Hugging Face has it."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model.model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
        ).hidden_states


# ---- what is read ----------------------------------------------------------------------------------------------------


@precisions
@paddings
@families
def test_run_gives_the_stock_logits(family, padding, dtype):
    model, batch = wrap(tiny_model(family, dtype)), pairs(padding)
    expected = stock_logits(model.model, batch.clean_ids, batch)
    logits = model.run(batch.clean_ids, batch.attention_mask, batch.positions)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert not logits.requires_grad


@precisions
@paddings
@families
def test_writers_and_constants_sum_to_the_stream_at_every_layer(family, padding, dtype):
    model, batch = wrap(tiny_model(family, dtype)), pairs(padding)
    layout, close = model.layout, {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    _, writers = record(model, batch.clean_ids, batch.attention_mask, batch.positions, len(batch.clean_ids))
    assert not writers.isnan().any()
    constants = model.position_embedding(model.context(batch.attention_mask))
    total = torch.zeros_like(writers[0]) if constants is None else constants.clone()
    expected, real = states(model, batch.clean_ids, batch.attention_mask), batch.attention_mask.bool()
    for layer in range(layout.n_layers + 1):
        stream = total + writers[: layout.writers_before(layer)].sum(0)
        if layer == layout.n_layers:
            stream = model.final_norm(stream)
        else:
            bias = model.output_bias(layer)
            total = total if bias is None else total + bias
        torch.testing.assert_close(stream[real], expected[layer][real], **close)


@families
def test_every_writer_is_the_one_of_its_name(family):
    """Sums alone would not notice two heads that changed places."""
    model, batch = wrap(tiny_model(family, torch.float64)), pairs("ragged")
    _, writers = record(model, batch.clean_ids, batch.attention_mask, batch.positions, len(batch.clean_ids))
    expected = oracle(model.model, ALL_OPEN, batch.clean_ids, batch).writers
    real = batch.attention_mask.bool()
    assert list(expected) == model.layout.writer_names
    for name, output in zip(model.layout.writer_names, writers, strict=True):
        torch.testing.assert_close(output[real], expected[name][real], atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("kv", ["head", "group"])
@families
def test_readers_that_all_see_the_stock_stream_write_what_the_stock_model_writes(family, kv):
    model, batch = wrap(tiny_model(family, torch.float64), kv), pairs("ragged")
    layout, context, real = model.layout, model.context(batch.attention_mask), batch.attention_mask.bool()
    _, writers = record(model, batch.clean_ids, batch.attention_mask, batch.positions, len(batch.clean_ids))
    for layer, stream in enumerate(states(model, batch.clean_ids, batch.attention_mask)[:-1]):
        first, mlp = layout.writers_before(layer), layout.writers_before(layer + 1) - 1
        heads = model.attention(layer, stream.expand(layout.n_attention_readers, *stream.shape), context)
        torch.testing.assert_close(heads[:, real], writers[first:mlp, real], atol=1e-9, rtol=1e-9)
        bias = model.output_bias(layer)
        if not layout.parallel:
            stream = stream + heads.sum(0) + (0 if bias is None else bias)
        torch.testing.assert_close(model.mlp(layer, stream)[real], writers[mlp, real], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_run_collects_the_last_prompts_only(last):
    model, batch = wrap(tiny_model("llama-gqa")), pairs("ragged")
    arguments = batch.clean_ids, batch.attention_mask, batch.positions
    logits, everything = record(model, *arguments, 3)
    again, writers = record(model, *arguments, last)
    assert torch.equal(writers, everything[:, -last:])
    assert torch.equal(again, logits) and len(logits) == 3


def test_positions_are_counted_from_the_first_real_token():
    context = wrap(tiny_model("gpt2")).context(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))
    assert context.position_ids[0, 2:].tolist() == [0, 1]
    assert context.position_ids[1, :3].tolist() == [0, 1, 2]


@families
def test_layout_counts_key_and_value_readers_as_asked(family):
    hugging_face = tiny_model(family)
    assert wrap(hugging_face).layout.n_kv_readers == hugging_face.config.num_attention_heads
    assert wrap(hugging_face, kv="group").layout.n_kv_readers == groups_of(hugging_face.config)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_family_is_refused_with_those_supported_and_the_place_to_add_one():
    config = BloomConfig(vocab_size=19, hidden_size=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="'bloom' is not supported: its scores have a bias by the distance of tokens"):
        wrap(model)
    model.config.model_type = "mine"  # of which nothing is known
    with pytest.raises(ValueError, match=r"'mine'.*gpt2, .*models/families/ and its class"):
        wrap(model)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), "gpt2", None], ids=["a torch module", "a name", "nothing"])
def test_what_is_no_language_model_is_refused(model):
    with pytest.raises(TypeError, match=f"GPT2LMHeadModel.*got {type(model).__name__}"):
        wrap(model)


def test_a_model_without_its_head_is_refused():
    with pytest.raises(TypeError, match=r"with its head.*got GPT2Model"):
        wrap(GPT2Model(tiny_model("gpt2").config))


def test_another_kv_convention_is_refused():
    with pytest.raises(ValueError, match="'head' or 'group', got 'layer'"):
        wrap(tiny_model("llama-gqa"), kv="layer")


# ---- what is left alone ----------------------------------------------------------------------------------------------


@families
def test_weights_are_views_of_the_model_and_not_copies(family):
    model = wrap(tiny_model(family))
    for layer in range(model.layout.n_layers):
        module = model.output_module(layer)
        weight, bias = model.output_weight(layer), model.output_bias(layer)
        if family == "granite":  # what it writes is multiplied with a number, which is in no weight
            assert torch.equal(weight.flatten(0, 1), 0.7 * module.weight.T) and torch.equal(bias, 0.7 * module.bias)
        else:
            assert weight.untyped_storage().data_ptr() == module.weight.untyped_storage().data_ptr()
            assert bias is module.bias
        assert set(map(id, model.mlp_module(layer).parameters())) <= set(map(id, model.model.parameters()))
    assert model.model.get_input_embeddings() in list(model.token_embedding.modules())


def test_wrapping_freezes_puts_to_eval_and_changes_no_weight():
    hugging_face = AutoModelForCausalLM.from_config(FAMILIES["gpt2"]()).train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in hugging_face.state_dict().items()}
    model = wrap(hugging_face)
    assert model.model is hugging_face and not hugging_face.training
    assert not any(parameter.requires_grad for parameter in hugging_face.parameters())
    for name, value in hugging_face.state_dict().items():
        assert value.data_ptr() == before[name][0] and torch.equal(value, before[name][1]), name


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_no_hook_stays_behind_even_when_a_run_fails(family):
    model, batch = wrap(tiny_model(family)), pairs("none")
    record(model, batch.clean_ids, batch.attention_mask, batch.positions, 2)
    with pytest.raises(IndexError):
        record(model, batch.clean_ids, batch.attention_mask, batch.positions + 1000, 2)
    for module in model.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_model_that_computes_something_else_is_refused_with_the_layer() -> None:
    """An adapter in front of a projection changes the model, not the weights that are read."""
    model = deepcopy(tiny_model("llama-gqa"))
    model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="the attention of layer 1 of this LlamaForCausalLM"):
        wrap(model)
