"""A model has to compute what is read from it: end to end, part by part, on prompts padded on either side."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lightning_circuits.models import CircuitModel, Dimensions, Norm, wrap
from lightning_circuits.models.families.gpt_neox import GPTNeoXCircuitModel
from lightning_circuits.models.families.gptj import GPTJCircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.rotary import rotate
from lightning_circuits.models.verify import verify
from tests.support.tiny_models import FAMILIES, SIZES, VOCABULARY, tiny_model

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_stock_model_is_accepted(family: str, dtype: torch.dtype) -> None:
    wrap(deepcopy(tiny_model(family, dtype)))


def subclassed(family: str, change: Callable[[Any], Any]) -> nn.Module:
    """A model whose own forward makes something of what the stock one gives back."""
    base = {"gpt2": GPT2LMHeadModel, "llama-gqa": LlamaForCausalLM}[family]

    class Own(base):  # type: ignore[valid-type, misc]
        def forward(self, *args: Any, **named: Any) -> Any:
            return change(super().forward(*args, **named))

    model = deepcopy(tiny_model(family))
    model.__class__ = Own
    return model


def on_logits(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def changed(output: Any) -> Any:
        output.logits = change(output.logits)
        return output

    return changed


AFTER_THE_HEAD = {
    "capped at 5": lambda x: 5 * torch.tanh(x / 5),
    "capped at 30": lambda x: 30 * torch.tanh(x / 30),
    "scaled": lambda x: 1.1 * x,
    "one logit shifted": lambda x: x + nn.functional.one_hot(torch.tensor(3), VOCABULARY),
    "one logit forbidden": lambda x: x.index_fill(-1, torch.tensor([3]), -torch.inf),
    "log-probabilities": lambda x: x.log_softmax(-1),
    "dropped out": lambda x: nn.functional.dropout(x, 0.1, training=True),
    "not a number": lambda x: x * torch.nan,
}


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize("change", AFTER_THE_HEAD)
def test_a_forward_that_changes_the_logits_is_refused_with_both_numbers(change: str, family: str) -> None:
    message = r"the logits of Own are not .* token \d+ after prompt \d it is \S+ from the head and \S+ from the whole"
    with pytest.raises(ValueError, match=message):
        wrap(subclassed(family, on_logits(AFTER_THE_HEAD[change])))


def test_so_is_a_hook_on_the_model_and_one_before_it() -> None:
    after, before = deepcopy(tiny_model("gpt2")), deepcopy(tiny_model("gpt2"))
    after.register_forward_hook(lambda _, inputs, output: on_logits(lambda x: 2 * x)(output))
    before.register_forward_pre_hook(
        lambda _, args, named: (args, named | {"input_ids": (named["input_ids"] + 1) % VOCABULARY}), with_kwargs=True
    )
    for model in (after, before):
        with pytest.raises(ValueError, match="the logits of GPT2LMHeadModel are not what its head puts out"):
            wrap(model)


def test_a_family_says_in_head_what_comes_after_the_head() -> None:
    class Capped(LlamaCircuitModel):
        def head(self, x: Tensor) -> Tensor:
            return 5 * torch.tanh(super().head(x) / 5)

    model = subclassed("llama-gqa", on_logits(AFTER_THE_HEAD["capped at 5"]))
    verify(Capped(model))
    model = deepcopy(tiny_model("llama-gqa"))
    model.lm_head = nn.Sequential(model.lm_head, nn.Tanh())  # a head may be any module
    wrap(model)


@pytest.mark.parametrize("output", [lambda out: (out.logits,), lambda out: out.logits, lambda out: out])
def test_a_forward_gives_back_what_it_likes(output: Callable[[Any], Any]) -> None:
    wrap(subclassed("gpt2", output))


def test_what_a_forward_gives_back_has_to_be_logits_for_every_place() -> None:
    for change, given in (
        (lambda out: None, "NoneType"),
        (on_logits(lambda x: x[:, -1:]), r"logits \[2, 1, 19\]"),
        (on_logits(lambda x: x[..., :-1]), r"logits \[2, 5, 18\]"),
    ):
        with pytest.raises(ValueError, match=rf"Own.forward gives back {given} where its head .* logits \[2, 5, 19\]"):
            wrap(subclassed("gpt2", change))


def hooked(family: str, where: str, change: Callable[[Tensor], Tensor]) -> nn.Module:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    model = deepcopy(tiny_model(family))
    model.get_submodule(where).register_forward_hook(hook)
    return model


@pytest.mark.parametrize(
    ("family", "where", "place"),
    [
        ("gpt2", "transformer.drop", "the residual stream before the attention of layer 0"),  # a scaled embedding
        ("gpt2", "transformer.h.0.attn", "the residual stream before the MLP of layer 0"),
        ("gpt2", "transformer.h.0", "the residual stream before the attention of layer 1"),
        ("llama-gqa", "model.layers.1", "the residual stream before the last norm"),
        ("llama-gqa", "model.layers.0.self_attn.v_proj", "the attention of layer 0"),
        ("llama-gqa", "model.layers.1.input_layernorm", "the norm before the attention of layer 1"),
    ],
)
def test_what_else_is_changed_is_named_by_its_place(family: str, where: str, place: str) -> None:
    with pytest.raises(ValueError, match=f"{place} of this "):
        wrap(hooked(family, where, lambda x: 2 * x))


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_an_attention_that_ignores_the_mask_is_found_out(family: str) -> None:
    model = deepcopy(tiny_model(family))
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_pre_hook(
                lambda _, args, named: (args, named | {"attention_mask": None}), with_kwargs=True
            )
    with pytest.raises(ValueError, match=r"the attention of layer 0 .* ignores the mask\? .*padded on the left"):
        wrap(model)


@pytest.mark.parametrize("name", ["transformer.wte.weight", "transformer.h.1.mlp.c_fc.bias", "transformer.ln_f.weight"])
def test_weights_that_are_no_numbers_are_named(name: str) -> None:
    model = deepcopy(tiny_model("gpt2"))
    model.get_parameter(name).data.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=f"the weights {name} of this GPT2LMHeadModel hold NaN"):
        wrap(model)


def test_numbers_too_large_for_the_dtype_are_told_from_bad_weights() -> None:
    model = deepcopy(tiny_model("llama-gqa", torch.float16))
    model.model.layers[0].mlp.down_proj.weight.data.mul_(60000)
    with pytest.raises(ValueError, match=r"the MLP of layer 0 .* NaN or infinities in float16, .* bfloat16 or float32"):
        wrap(model)


def test_whatever_a_model_fails_with_is_one_message() -> None:
    mixed, other = deepcopy(tiny_model("llama-gqa")), deepcopy(tiny_model("gpt2"))
    mixed.model.layers[1].half()
    del other.transformer.h[1].mlp
    for model, message in (
        (mixed, r"RuntimeError in forward: .*Its weights are in float16 and float32"),
        (other, "AttributeError in .*no attribute `mlp`"),
    ):
        with pytest.raises(ValueError, match=f"cannot be read as .* reads models: {message}"):
            wrap(model)

    class Unfinished(CircuitModel):
        model_types = ("gpt2",)

    with pytest.raises(NotImplementedError):
        Unfinished(deepcopy(tiny_model("gpt2"))).attention_norm(0)


# ---- a family that is read wrongly -----------------------------------------------------------------------------------

WRONGLY = 1
"""The layer that is read wrongly, if not all are."""

ATTENTION, MLP = "the attention of layer 1 of this", "the MLP of layer 1 of this"
ABOVE = "the residual stream before the attention of layer 2"


def swapped(projections: list[Any], first: int, second: int) -> list[Any]:
    projections[first], projections[second] = projections[second], projections[first]
    return projections


PLANTED: dict[str, tuple[str, Callable[..., Any], str]] = {
    "no output bias": ("output_bias", lambda right: None, ABOVE),
    "no bias of the projections": ("projections", lambda right: [(weight, None) for weight, _ in right], ATTENTION),
    "a wrong scale": ("scaling", lambda right: 1.1 * right, ATTENTION),
    "heads swapped where they write": ("output_weight", lambda right: right.flip(0), ABOVE),
    "heads swapped where they read": (
        "projections",
        lambda right: [(w.flip(0), b.flip(0)) for w, b in right],
        ATTENTION,
    ),
    "queries for keys": ("projections", lambda right: swapped(right, 0, 1), ATTENTION),
    "keys for values": ("projections", lambda right: swapped(right, 1, 2), ATTENTION),
    "all queries, all keys, all values": (
        "projections",
        lambda right: [
            (weight, bias)
            for weight, bias in zip(
                torch.stack([w for w, _ in right], 1).flatten(0, 1).chunk(3),
                torch.stack([b for _, b in right], 1).flatten(0, 1).chunk(3),
                strict=True,
            )
        ],
        ATTENTION,
    ),
    "a query that is not turned": ("turn", lambda right, q: (q, right[1]), ATTENTION),
    "a mask that sees ahead": ("layer_mask", lambda right: right | right.mT, ATTENTION),
    "the other MLP": ("mlp_module", lambda right: nn.Sequential(right, nn.Identity(), right), MLP),
    "an MLP behind another norm": ("mlp_norm", lambda right: nn.LayerNorm(24), MLP),
    "a norm that is another": ("attention_norm", lambda right: nn.LayerNorm(24), "attention of layer 1"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_family_that_is_read_wrongly_is_found_by_layer_and_part(mistake: str) -> None:
    method, wrong, place = PLANTED[mistake]

    class Misread(GPTNeoXCircuitModel): ...

    def misread(self: Any, layer: int, *rest: Any) -> Any:
        right = getattr(GPTNeoXCircuitModel, method)(self, layer, *rest)
        return right if layer != WRONGLY else wrong(right, rest[0]) if method == "turn" else wrong(right)

    setattr(Misread, method, misread)
    with pytest.raises(ValueError, match=place):
        verify(Misread(deepcopy(tiny_model("gpt-neox"))))


def test_a_norm_that_is_described_wrongly_is_found_by_its_place() -> None:
    class Uncentred(GPTJCircuitModel):
        @staticmethod
        def read_norm(norm: Any) -> Norm:
            return Norm(norm.weight, norm.eps, centres=False, constant=norm.bias)

    with pytest.raises(ValueError, match="the norm before the attention of layer 0"):
        verify(Uncentred(deepcopy(tiny_model("gptj"))))


@pytest.mark.parametrize(
    ("family", "parallel", "place"),
    [
        ("gpt-neox", False, "the residual stream before the MLP of layer 0"),
        ("gpt-neox-sequential", True, "the MLP of layer 0"),
    ],
)
def test_parallel_blocks_and_others_are_told_apart(family: str, parallel: bool, place: str) -> None:
    class Misread(GPTNeoXCircuitModel):
        @staticmethod
        def read_dimensions(model: Any) -> Dimensions:
            return CircuitModel.read_dimensions(model)._replace(parallel=parallel)

    with pytest.raises(ValueError, match=f"{place} of this GPTNeoXForCausalLM"):
        verify(Misread(deepcopy(tiny_model(family))))


def test_positions_that_turn_in_halves_are_no_pairs() -> None:
    class Halves(GPTJCircuitModel):
        def turn(self, layer: int, q: Tensor, k: Tensor, context: Any) -> tuple[Tensor, Tensor]:
            return rotate(q, context), rotate(k, context)

    with pytest.raises(ValueError, match="the attention of layer 0 of this GPTJForCausalLM"):
        verify(Halves(deepcopy(tiny_model("gptj"))))


# ---- models that are not Hugging Face's ------------------------------------------------------------------------------


@pytest.fixture
def own_model() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "own_model.py"
    spec = importlib.util.spec_from_file_location("own_model_to_verify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_that_reads_no_mask_takes_its_padding_on_the_right(own_model: ModuleType) -> None:
    class Maskless(own_model.TinyTransformer):
        def forward(self, ids: Tensor, real: Tensor) -> Tensor:
            return super().forward(ids, torch.ones_like(real))

    ids, right = torch.arange(10).view(2, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    for model, takes_left in ((own_model.TinyTransformer(12), True), (Maskless(12), False)):
        read = own_model.TinyTransformerCircuits(model)
        verify(read)
        read.run(ids, right, torch.tensor([4, 2]))
        assert read.pads_left is takes_left
    with pytest.raises(ValueError, match="padded on the left, and this Maskless computes something else"):
        read.run(ids, right.flip(1), torch.tensor([4, 4]))


# ---- rotary scalings -------------------------------------------------------------------------------------------------

STATIC: dict[str, dict[str, Any]] = {
    "linear": dict(factor=4.0),
    "yarn": dict(factor=4.0, original_max_position_embeddings=8, attention_factor=1.7),
    "llama3": dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8),
}
BY_LENGTH: dict[str, dict[str, Any]] = {
    "dynamic": dict(factor=4.0),
    "longrope": dict(
        factor=4.0, original_max_position_embeddings=8, short_factor=[1.0, 2.0, 3.0], long_factor=[4.0, 5.0, 6.0]
    ),
}


def scaled(rope_type: str) -> CircuitModel:
    rope = (STATIC | BY_LENGTH)[rope_type] | {"rope_type": rope_type, "rope_theta": 10000.0}
    torch.manual_seed(0)
    return wrap(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, head_dim=6, rope_parameters=rope)))


def run(model: CircuitModel, *lengths: int) -> Tensor:
    """The last prompt's logits, the same prompt whatever the others."""
    ids = torch.arange(max(lengths)).repeat(len(lengths), 1) % VOCABULARY
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return model.run(ids, mask, torch.tensor(lengths) - 1)[-1]


@pytest.mark.parametrize(("rope_type", "longest"), [*((kind, 40) for kind in STATIC), ("dynamic", 32), ("longrope", 8)])
def test_no_prompt_depends_on_its_neighbours(rope_type: str, longest: int) -> None:
    model = scaled(rope_type)
    torch.testing.assert_close(run(model, longest, 5), run(model, 5), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("rope_type", "longest"), [("dynamic", 32), ("longrope", 8)])
def test_where_it_would_the_prompt_is_refused(rope_type: str, longest: int) -> None:
    model = scaled(rope_type)
    alone = run(model, 5)
    message = rf"prompt 1 of a batch has {longest + 1} tokens, more than the {longest} .*\({rope_type}\) are scaled by"
    with pytest.raises(ValueError, match=message):
        run(model, 5, longest + 1, 5)
    assert torch.equal(run(model, 5), alone)
