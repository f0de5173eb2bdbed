"""Rules of relevance: against modules that are written with constants, by what is kept, and by what is refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.open_attention import attention_gradients, attention_output, mlp_gradient
from lightning_circuits.models.relevance import Relevance, by_relevance
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from tests.scoring.test_gradients import batch_of, close, reference_scores
from tests.support import stock_parts
from tests.support.oracle import pairs
from tests.support.tiny_models import tiny_model

WIDE, OBJECTIVE = torch.float64, LogitDifference()


def relevance_scores(model: CircuitModel, padding: str = "left", ablation: str = "interchange") -> Tensor:
    with by_relevance(model) as view:
        return gradient_scores(view, batch_of(pairs(padding)), ABLATIONS.make(ablation), OBJECTIVE).edges


# ---- against modules that have the rules in them, and plain autograd ----------------------------------------------


def half(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * (a * b.detach() + a.detach() * b)


def ratio(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return x * (activation(x) / x).detach()


def ruled_rms_norm(self: Any, x: Tensor) -> Tensor:
    gain = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
    epsilon = getattr(self, "variance_epsilon", None) or self.eps
    return gain * x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt().detach()


def ruled_layer_norm(self: Any, x: Tensor) -> Tensor:
    deviation = (x.var(-1, correction=0, keepdim=True) + self.eps).sqrt().detach()
    gain = 1 + self.weight if type(self).__name__.startswith("Nemotron") else self.weight
    return gain * (x - x.mean(-1, keepdim=True)) / deviation + self.bias


def ruled_gated_mlp(self: Any, x: Tensor) -> Tensor:
    return self.down_proj(half(ratio(self.act_fn, self.gate_proj(x)), self.up_proj(x)))


def ruled_activation(self: Any, x: Tensor) -> Tensor:
    return ratio(lambda y: type(self).forward(self, y), x)


def with_rules(stock: nn.Module) -> nn.Module:
    """The same model, whose plain derivative goes by the rules."""
    model = deepcopy(stock)
    for module in model.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = MethodType(ruled_rms_norm, module)
        elif name.endswith(("LayerNorm", "LayerNorm1P")):
            module.forward = MethodType(ruled_layer_norm, module)
        elif hasattr(module, "gate_proj"):
            module.forward = MethodType(ruled_gated_mlp, module)
        elif type(module).__module__ == "transformers.activations":
            module.forward = MethodType(ruled_activation, module)
    return model


CASES = [("gpt2", "head"), ("llama-gqa", "head"), ("llama-biases", "group"), ("qwen3", "head"), ("gpt-neox", "head")]
CASES += [("gptj", "head"), ("starcoder2", "group"), ("nemotron", "head"), ("gemma", "head"), ("gemma2", "head")]


@pytest.mark.parametrize(("family", "kv"), CASES)
def test_scores_are_those_of_modules_with_constants_in_them(
    family: str, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "gemma2":  # of which the oracle writes some itself: caps, and a head's share of a norm

        def capped(x: Tensor, cap: float) -> Tensor:
            return ratio(lambda y: cap * (y / cap).tanh(), x)

        def shares(self: Any, layer: int, alone: list[Tensor]) -> list[Tensor]:
            norm = self.blocks[layer].post_attention_layernorm
            size = (sum(alone, torch.zeros(())).square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
            return [each / size * (1 + norm.weight) for each in alone]

        monkeypatch.setattr(stock_parts, "softly", capped)
        monkeypatch.setattr(stock_parts.NormedAfter, "shares", shares)
    stock = tiny_model(family, WIDE)
    model, prompts = wrap(stock, kv), pairs("left")
    theirs = reference_scores(with_rules(stock), model, prompts, kv, "eap", 1)
    close(relevance_scores(model), theirs, 1e-5)
    derivatives = gradient_scores(model, batch_of(prompts), ABLATIONS.make("interchange"), OBJECTIVE).edges
    assert (derivatives - theirs).abs().max() > 0.05 * theirs.abs().max(), "the rules are no derivatives"


def test_where_nothing_is_normed_activated_or_multiplied_they_are_derivatives() -> None:
    stock = deepcopy(tiny_model("gpt2", WIDE))
    for block in stock.transformer.h:
        block.ln_1, block.ln_2, block.mlp.act = nn.Identity(), nn.Identity(), ACT2FN["linear"]
        block.attn.c_attn.weight.data *= 0.3
    stock.transformer.ln_f = nn.Identity()
    model = wrap(stock)
    derivatives = gradient_scores(model, batch_of(pairs("left")), ABLATIONS.make("interchange"), OBJECTIVE).edges
    close(relevance_scores(model), derivatives, 1e-12)


# ---- what is kept -------------------------------------------------------------------------------------------------

WITHOUT_BIASES = ["llama-gqa", "qwen3", "gemma2", "gemma3", "olmo2", "olmoe", "cohere2", "exaone4"]


def without_biases(family: str) -> CircuitModel:
    """In float64, so that what is lost by rounding is not taken for what the rules lose."""
    model = wrap(tiny_model(family, WIDE))
    assert not any("bias" in name for name, _ in model.blocks.named_parameters())
    return model


def a_stream(model: CircuitModel, seed: int) -> Tensor:
    return torch.randn(2, 5, model.layout.d_model, dtype=WIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", WITHOUT_BIASES)
def test_no_relevance_is_lost_in_an_mlp_in_the_values_and_before_the_logits(family: str) -> None:
    model = without_biases(family)
    x, above = a_stream(model, 0), a_stream(model, 1)
    context, shape = model.context(torch.ones(2, 5, dtype=torch.int64)), (model.layout.n_attention_readers, *x.shape)
    tolerance = 1e-4 if family in ("gemma3", "olmo2", "olmoe", "exaone4") else 1e-6
    with by_relevance(model) as view:
        for layer in range(model.layout.n_layers):
            below = mlp_gradient(view, layer, x, above)
            assert (x * below).sum() == pytest.approx(float((model.mlp(layer, x) * above).sum()), rel=tolerance)

            readers = torch.empty(shape, dtype=WIDE)
            attention_gradients(view, layer, x, above, context, out=readers)
            values = readers[-model.layout.n_kv_readers :].sum(0)
            written = attention_output(model, layer, x, context)
            assert (x * values).sum() == pytest.approx(float((written * above).sum()), rel=tolerance)

        read = x[:, 0].clone().requires_grad_()
        logits = view.rules.recorded("the output", view.unembed, read)
        weights = torch.randn(logits.shape, dtype=WIDE, generator=torch.Generator().manual_seed(2))
        (relevance,) = torch.autograd.grad(logits, read, weights)
        assert float((read.detach() * relevance).sum()) == pytest.approx(
            float((logits.detach() * weights).sum()), rel=tolerance
        )


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2"])
def test_all_that_the_logits_have_comes_from_the_input_where_queries_and_keys_say_nothing(family: str) -> None:
    """References of zero: a writer's score is minus its relevance, and all relevance together is the loss."""
    stock = deepcopy(tiny_model(family, WIDE))
    for block in stock.model.layers:
        block.self_attn.q_proj.weight.data.zero_()
        block.self_attn.k_proj.weight.data.zero_()
    model, batch = wrap(stock), batch_of(pairs("left"))
    logits = model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
    loss = OBJECTIVE(logits, batch, logits).sum()
    with by_relevance(model) as view:
        scores = gradient_scores(view, batch, ABLATIONS.make("zero"), OBJECTIVE)
    into_logits = model.layout.into(scores.edges, model.layout.components[-1])
    for total in (scores.writers[0], into_logits.sum()):
        assert -float(total) == pytest.approx(float(loss), rel=1e-5)
    derivatives = gradient_scores(model, batch, ABLATIONS.make("zero"), OBJECTIVE)
    assert abs(float(derivatives.writers[0] + loss)) > 0.1 * abs(float(loss))


# ---- single rules -------------------------------------------------------------------------------------------------


def through(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What a function makes of ``x``, and the coefficient at ``x`` of its relevance, 1 of each number."""
    x = x.clone().requires_grad_()
    out = Relevance().recorded("a part", function, x)
    return out.detach(), torch.autograd.grad(out.sum(), x)[0]


AROUND_ZERO = torch.tensor([-3.0, -0.2, -1e-9, 0.0, 1e-9, 0.2, 3.0])


@pytest.mark.parametrize("function", [F.silu, F.gelu, F.relu, torch.tanh, F.mish, lambda x: F.relu(x, inplace=True)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_coefficient_of_an_activation_is_its_ratio_and_at_zero_its_slope(
    function: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    x = AROUND_ZERO.to(dtype)
    out, coefficient = through(lambda x: function(x * 1), x)
    expected = function(x.double()) / x.double()
    slope = torch.autograd.functional.jacobian(lambda x: function(x * 1), torch.zeros((), dtype=WIDE))
    few = x.abs() < 1e-3
    if function is not F.relu and "lambda" not in function.__name__:
        expected[few] = slope
    else:
        expected[few] = (x[few] > 0).double()
    precise = 3e-6 if torch.finfo(dtype).bits >= 32 else 1e-2
    torch.testing.assert_close(coefficient.double(), expected, rtol=precise, atol=precise)
    torch.testing.assert_close(out.double(), function(x.double()), rtol=precise, atol=precise)


PRODUCTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[:2] * x[2:],
    lambda x: torch.mul(x[:2], x[2:]),
    lambda x: x[:2].mul(x[2:]),
    lambda x: x[:2] * x[2:].mean(-1, keepdim=True),
]


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_factor_of_a_product_has_half(product: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 3, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    out, coefficient = through(product, x)
    expected = torch.autograd.functional.jacobian(lambda x: product(x).sum(), x) / 2
    torch.testing.assert_close(coefficient, expected)
    assert (x * coefficient).sum() == pytest.approx(float(out.sum()))


GAIN = torch.tensor([2.0, -1.0, 0.5], dtype=WIDE)
CONSTANTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1),
    lambda x: x * (x.square().mean(-1, keepdim=True) + 0.1) ** -0.5,
    lambda x: x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt(),
    lambda x: x * (1 / x.abs().mean(-1, keepdim=True)),
    lambda x: x / x.norm(dim=-1, keepdim=True),
    lambda x: x * x.softmax(-1),
    lambda x: x * torch.sigmoid(1.7 * x),
    lambda x: F.rms_norm(x, (3,)),
    lambda x: F.layer_norm(x, (3,), GAIN),
    lambda x: x.clamp(-0.4, 0.4),
    lambda x: x**3,
]


@pytest.mark.parametrize("function", CONSTANTS)
def test_what_a_thing_is_multiplied_with_is_a_constant(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(4, 3, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    out, coefficient = through(function, x)
    torch.testing.assert_close(out, function(x))
    torch.testing.assert_close((x * coefficient).sum(), out.sum())
    assert not torch.allclose(coefficient, torch.autograd.functional.jacobian(lambda x: function(x).sum(), x))


# ---- what is left, and what is refused ----------------------------------------------------------------------------


class Own(nn.Module):
    """An activation that is made of what no rule is for."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x))


def everything_of(stock: nn.Module) -> list[Any]:
    hooks = [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in stock.modules()]
    weights = [(name, each.requires_grad, each.clone()) for name, each in stock.named_parameters()]
    return [stock.training, hooks, weights, [sorted(vars(each)) for each in stock.modules()]]


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert (one[0], one[1], one[3]) == (other[0], other[1], other[3])
    for (name, asks, weight), (name_after, asks_after, weight_after) in zip(one[2], other[2], strict=True):
        assert (name, asks) == (name_after, asks_after) and torch.equal(weight, weight_after)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2", "olmoe"])
def test_the_module_is_left_as_it_was_with_gradients_or_without(family: str, freeze: bool) -> None:
    expected = relevance_scores(wrap(tiny_model(family)))
    stock = deepcopy(tiny_model(family)).requires_grad_(True)
    model = wrap(stock, freeze=freeze)
    before, derivatives = everything_of(stock), gradient_scores
    plain = derivatives(model, batch_of(pairs("left")), ABLATIONS.make("zero"), OBJECTIVE).edges
    torch.testing.assert_close(relevance_scores(model), expected)
    assert_same(before, everything_of(stock))
    assert all(each.grad is None and each.requires_grad != freeze for each in stock.parameters())
    again = derivatives(model, batch_of(pairs("left")), ABLATIONS.make("zero"), OBJECTIVE).edges
    assert torch.equal(plain, again), "derivatives are derivatives again"


WITHOUT_A_RULE: dict[str, Callable[[Tensor], Tensor]] = {
    "Erf": lambda x: torch.erf(x),
    "Exp": lambda x: x * x.exp(),
    "Mm": lambda x: x @ x.T,
    "Mul": lambda x: (x + 1).mul_(x),
    "Sigmoid": lambda x: torch.sigmoid(input=x),
    "Clamp": lambda x: x.clamp(x.mean()),
    "NativeLayerNorm": lambda x: F.layer_norm(x, x.shape),
    "Softplus": F.softplus,
}


@pytest.mark.parametrize("name", WITHOUT_A_RULE)
def test_nothing_is_differentiated_in_silence(name: str) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with pytest.raises(ValueError, match=rf"a part does something .* \({name}\w*\)"):
        Relevance().recorded("a part", WITHOUT_A_RULE[name], x)


@pytest.mark.parametrize("freeze", [True, False])
def test_what_has_no_rule_is_refused_by_name_and_nothing_is_left_behind(freeze: bool) -> None:
    stock = deepcopy(tiny_model("llama")).requires_grad_(True)
    stock.model.layers[0].mlp.act_fn = Own()
    model = wrap(stock, freeze=freeze)
    before = everything_of(stock)
    with pytest.raises(
        ValueError,
        match=r"the MLP of layer 0 of this LlamaForCausalLM does something .* \(Erf\)\. There .* such as EAP or EAPIG",
    ) as refusal:
        relevance_scores(model)
    assert "\n" not in str(refusal.value)
    assert_same(before, everything_of(stock))


def test_nothing_is_left_behind_by_an_error_in_the_middle() -> None:
    stock = deepcopy(tiny_model("gpt2"))
    model, before = wrap(stock), everything_of(stock)

    def broken(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
        raise KeyError("no such answer")

    with pytest.raises(KeyError, match="no such answer"), by_relevance(model) as view:
        gradient_scores(view, batch_of(pairs("left")), ABLATIONS.make("zero"), broken)
    assert_same(before, everything_of(stock))


def test_the_view_computes_what_the_model_does() -> None:
    for family in ("gpt2", "llama-gqa", "olmoe"):
        model, batch = wrap(tiny_model(family)), batch_of(pairs("left"))
        expected = model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
        with by_relevance(model) as view:
            found = view.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
        assert torch.equal(found, expected)


def test_bfloat16_models_have_float32_scores() -> None:
    wide, narrow = (relevance_scores(wrap(tiny_model("llama-gqa", dtype))) for dtype in (torch.float32, torch.bfloat16))
    assert narrow.dtype == torch.float32 and torch.corrcoef(torch.stack([wide, narrow]))[0, 1] > 0.98
