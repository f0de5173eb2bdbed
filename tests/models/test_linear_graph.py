"""What was recorded is looked at node by node: linear maps are let through, and everything else is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import transformers.integrations.moe  # noqa: F401  # which has a product of its own
from torch import Tensor

from lightning_circuits.models.linear_graph import what_is_not_linear

NOISE = torch.Generator().manual_seed(0)
MATRIX, BIAS = torch.randn(4, 4, generator=NOISE), torch.randn(4, generator=NOISE)
EXPERTS = torch.randn(2, 4, 4, generator=NOISE)
TOKENS = torch.tensor([2, 0])

LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "products with constants": lambda x: 2 * x * BIAS / 3 - x / BIAS,
    "projections": lambda x: F.linear(x, MATRIX, BIAS) + x[0] @ MATRIX + x.expand(2, 3, 4) @ MATRIX,
    "sums": lambda x: x - x.mean(-1, keepdim=True) + x.sum(0),
    "products of experts": lambda x: torch.ops.transformers.grouped_mm_fallback(x, EXPERTS, torch.tensor([1, 3])),
    "shapes": lambda x: torch.cat([x.T.reshape(3, 4), x[:, :2].repeat(1, 2)], -1).chunk(2, -1)[0].unflatten(-1, (2, 2)),
    "choices": lambda x: torch.zeros(3, 4).index_add_(0, TOKENS, x[TOKENS]).masked_fill(x > 0, 0.0),
    "constants of it": lambda x: x * (x.detach().exp() / x.detach().sum()),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Exp": lambda x: x.exp(),
    "Erf": lambda x: torch.erf(x) @ MATRIX,
    "Mul": lambda x: (x @ MATRIX) * x,
    "Bmm": lambda x: x[None] @ x.mT[None],
    "Mm": lambda x: x @ x.mT,
    "Addmm": lambda x: F.linear(x, x, torch.ones(3)),
    "Div": lambda x: x / x.sum(),
    "Softmax": lambda x: x.softmax(-1) @ MATRIX,
    "NativeLayerNorm": lambda x: F.layer_norm(x, (4,)),
    "Pow": lambda x: x**2,
    "Reciprocal": lambda x: x + (1 / x)[0],
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_let_through_and_is_linear(name: str) -> None:
    function = LINEAR[name]
    x = torch.randn(3, 4, generator=NOISE).requires_grad_()
    assert what_is_not_linear(function(x), ()) is None


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_linear_is_named_wherever_it_stands(name: str) -> None:
    x = torch.randn(3, 4, generator=NOISE).requires_grad_()
    assert what_is_not_linear(OTHERS[name](x), ()) == name
    assert what_is_not_linear(2 * OTHERS[name](x).sum() + x.sum(), ()) == name
    assert what_is_not_linear(OTHERS[name](x), (name,)) is None


def test_a_function_that_autograd_does_not_know_is_named_too() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return 2 * gradient

    assert what_is_not_linear(Doubled.apply(torch.ones(2, requires_grad=True)), ()) == "Doubled"
