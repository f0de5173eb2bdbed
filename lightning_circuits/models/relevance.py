"""Rules of relevance propagation in the place of derivatives, for every model that is read.

A gradient says what an infinitely small change of a part does, and that is often far from what cutting it does: an
activation is flat where it is saturated, a norm takes back what is added to it. Layer-wise relevance propagation goes
back through the same forward with coefficients that share out what is there instead. With ``R_y`` the coefficient of
what a part puts out, what it takes in has:

- a norm, ``y = s(x) * x``: ``R_x = s R_y``, its scale a constant (the LN-rule of Ali et al. 2022). Of a norm that
  centres, the centring is linear and stays;
- an activation, ``y = f(x)`` with f(0) = 0: ``R_x = f(x) / x * R_y`` (the identity rule), also for a cap or a clip;
- a product of two things that both hang on the stream, ``y = g * u``, as in gated MLPs: ``R_g = u R_y / 2`` and
  ``R_u = g R_y / 2`` (the half rule);
- weights that come from a softmax or a sigmoid, such as a router's, are constants: so ``x * sigmoid(x)`` has the rule
  of an activation;
- what is linear: its transpose;
- attention: its derivative. The values have then what holding the attention weights constant gives (the AH-rule), and
  queries and keys, which that would leave with nothing, what moves the weights.

These are the rules that the RelP paper measures with on indirect object identification (Jafari et al. 2025,
arXiv:2508.21258; in the authors' code, LN-rule, Identity-rule and Half-rule).

**What is kept.** Where there is no bias, ``<x, R_x> = <y, R_y>``: no relevance is lost or made in an MLP, in the values
of an attention, in what is before the logits. A bias takes the share that it has of ``y``. Queries and keys come on
top: for them, as for derivatives, nothing of the kind holds.

**How.** The families say nothing of this. A part of a model is run as ever while `torch.overrides.TorchFunctionMode`
looks at every function that is called; activations of `transformers` that are several functions are taken as a whole,
by hooks that are gone afterwards. Then `linear_graph` looks at what was recorded. If that is not linear, something had
no rule, and it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import activations

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.linear_graph import what_is_not_linear
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.rules import Derivatives
from lightning_circuits.pages import see_page

PRODUCTS = frozenset(("mul", "multiply"))
QUOTIENTS = frozenset(("div", "divide", "true_divide"))
WEIGHTS = frozenset(("__rdiv__", "__rtruediv__", "reciprocal", "rsqrt", "sigmoid", "softmax"))
ACTIVATIONS = frozenset(
    (
        *("celu", "clamp", "clip", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6"),
        *("selu", "silu", "softsign", "square", "tanh", "tanhshrink"),
    )
)
"""Functions of torch by their names, which functions and methods share; of activations all are 0 at 0."""

NOT_ZERO_AT_ZERO = frozenset(("LaplaceActivation", "SqrtSoftplusActivation"))
"""Of `transformers.activations`; where what they make of a stream has a gradient, `linear_graph` finds them."""

OF_ATTENTION = frozenset(("bmm", "matmul", "scaled_dot_product_attention", "softmax"))
RECORDED_OF_ATTENTION = frozenset(
    (
        *("Bmm", "Mm", "SafeSoftmax", "ScaledDotProductAttentionMathForMps", "ScaledDotProductCudnnAttention"),
        *("ScaledDotProductEfficientAttention", "ScaledDotProductFlashAttention"),
        *("ScaledDotProductFlashAttentionForCpu", "ScaledDotProductFusedAttentionOverrideable", "Softmax"),
    )
)
"""What is differentiated there: the functions, and what autograd calls what they are made of."""


@contextmanager
def by_relevance(model: CircuitModel) -> Iterator[CircuitModel]:
    """A view of a model whose gradients are taken by the rules of relevance, to be used while this is open.

    Args:
        model: as it is read. Its own forward is the same meanwhile, and of its module nothing is left changed after.
    """
    view = copy(model)
    view.rules = Relevance()
    with ExitStack() as until_closed:
        until_closed.enter_context(_constant([each for each in model.model.parameters() if each.requires_grad]))
        for module in model.model.modules():
            if type(module).__module__ == activations.__name__ and type(module).__name__ not in NOT_ZERO_AT_ZERO:
                until_closed.enter_context(_as_one_activation(module))
        yield view


class Relevance(Derivatives):
    """The rules of this file; see there."""

    hold_norms = True

    def recorded(
        self, part: str, function: Callable[..., Tensor], *leaves: Tensor, is_attention: bool = False
    ) -> Tensor:
        """As it says in `Derivatives`.

        Raises:
            ValueError: the function does something to its leaves ``[...]`` that has no rule.
        """
        with torch.enable_grad(), _Rules(is_attention):
            out = function(*leaves)
        found = what_is_not_linear(out, {"_HalfRule"} | (RECORDED_OF_ATTENTION if is_attention else set()))
        if found is not None:
            raise ValueError(
                f"{part} does something to the residual stream for which relevance propagation has no rule here "
                f"({found}). There are rules for linear maps, norms, products, softmax and sigmoid, and for the "
                "activations of torch.nn.functional and transformers: write it with these, or take a method that "
                f"goes by derivatives, such as EAP or EAPIG {see_page('own-model', 'Relevance')}"
            )
        return out


class _Rules(TorchFunctionMode):
    """While open, functions of torch are recorded by the rules."""

    def __init__(self, is_attention: bool) -> None:
        super().__init__()
        self.left_alone = OF_ATTENTION if is_attention else frozenset[str]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        x, y = (*args, None, None)[:2]
        if name in self.left_alone:
            return func(*args, **options)
        if name in PRODUCTS and _moves(x) and _moves(y):
            return _HalfRule.apply(x, y)
        if name in QUOTIENTS and _moves(y):
            return func(x, y.detach(), *args[2:], **options)
        if not _moves(x) or any(_moves(each) for each in (*args[1:], *options.values())):
            return func(*args, **options)  # the rules that are left are for one thing that hangs on the stream
        if name in WEIGHTS or (name == "pow" and _is_negative(y)):
            return func(x.detach(), *args[1:], **options)
        if name in ACTIVATIONS or (name == "pow" and _is_positive(y)):
            options |= {"inplace": False} if "inplace" in options else {}
            return ratio_rule(lambda at: func(at, *args[1:], **options), x)
        if name in NORMS and len(y or ()) == 1:
            return NORMS[name](*args, **options)
        return func(*args, **options)


def _moves(x: Any) -> bool:
    """Whether an argument of a function hangs on the stream."""
    return isinstance(x, Tensor) and x.requires_grad


def _is_negative(exponent: Any) -> bool:
    return isinstance(exponent, (int, float)) and exponent < 0


def _is_positive(exponent: Any) -> bool:
    return isinstance(exponent, (int, float)) and exponent > 0


class _HalfRule(torch.autograd.Function):
    """A product ``x * y`` of tensors ``[...]``, each factor of which has half of its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        half = gradient / 2
        return (half * y).sum_to_size(x.shape).to(x.dtype), (half * x).sum_to_size(y.shape).to(y.dtype)


def ratio_rule(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``x * (f(x) / x)`` of ``x`` ``[...]``, the ratio a constant; at 0 its limit, from below."""
    with torch.no_grad():
        at = away_from_zero(x)
        ratio = activation(at) / at
    return x * ratio


def away_from_zero(x: Tensor) -> Tensor:
    """``x`` ``[...]`` without a graph, and where it is next to 0 next to that: there, a ratio is what it tends to."""
    x, least = x.detach(), max(1e-6, 16 * torch.finfo(x.dtype).tiny)
    return torch.where(x > 0, x.clamp(min=least), x.clamp(max=-least))


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """torch's layer norm of ``x`` ``[..., d]``, its scale a constant."""
    return Norm(weight, eps, centres=True, constant=bias).held(x)


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """torch's RMS norm of ``x`` ``[..., d]``, its scale a constant."""
    return Norm(weight, torch.finfo(x.dtype).eps if eps is None else eps).held(x)


NORMS: dict[str, Callable[..., Tensor]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}


@contextmanager
def _as_one_activation(module: nn.Module) -> Iterator[None]:
    """While open, what hangs on the stream goes through an activation by the ratio rule, whatever it is made of."""
    waiting: list[Tensor] = []

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x, *others = inputs
        if not x.requires_grad:
            return None
        waiting.append(x)
        return (away_from_zero(x), *others)

    def after(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return waiting.pop() * (output / inputs[0]) if waiting else None

    with module.register_forward_pre_hook(before), module.register_forward_hook(after):
        yield


@contextmanager
def _constant(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """While open, parameters of a model that is trained ask for no gradient: it would look as if they were stream."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
