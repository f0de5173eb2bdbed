"""Streams of readers through the norm and their projections, against stock norms, one reader at a time, by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.norms import Norm
from lightning_circuits.models.projections import NormedProjection
from tests.support.gated import CASES, wrapped
from tests.support.tiny_models import tiny_model

families = pytest.mark.parametrize(("family", "kv"), CASES)
TOKENS = 2, 3


def streams(model: CircuitModel, readers: int, seed: int = 0) -> Tensor:
    """``[readers, 2, 3, d]``, off the centre."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(readers, *TOKENS, model.layout.d_model, generator=generator, dtype=torch.float64)
    return (2 * drawn + 1).to(model.dtype)


def one_by_one(model: CircuitModel, layer: int, x: Tensor, units: list[int] | None = None) -> list[Tensor]:
    """The same by the stock norm, reader after reader, each with the weights of its head or group."""
    layout, norm = model.layout, model.attention_norm(layer)
    of_each = layout.n_heads // layout.n_kv_readers
    units = list(range(layout.n_kv_readers)) if units is None else units
    heads = [head for unit in units for head in range(unit * of_each, (unit + 1) * of_each)]
    left, outputs = list(x), []
    for kind, readers in zip(model.projections(layer), (heads, units, units), strict=True):
        (weight, bias), made = kind, []
        total = layout.n_heads if readers is heads else layout.n_kv_readers
        for reader in readers:
            block = reader * len(weight) // total
            y = norm(left.pop(0)) @ weight[block]
            made.append(y if bias is None else y + bias[block])
        outputs.append(torch.stack(made))
    assert not left
    return outputs


def some(model: CircuitModel) -> list[list[int] | None]:
    """All units, the last, and some in another order than theirs."""
    n = model.layout.n_kv_readers
    return [None, [n - 1], [n - 1, 0]]


@families
def test_readers_see_what_the_stock_norm_and_their_own_weights_make(family: str, kv: str) -> None:
    model = wrapped(family, kv, torch.float64)
    for layer in range(model.layout.n_layers):
        for units in some(model):
            chosen = None if units is None else torch.tensor(units)
            x = streams(model, sum(model.readers(chosen)), layer)
            found, _ = model.projection(layer, chosen).forward(x.clone())
            for mine, theirs in zip(found, one_by_one(model, layer, x, units), strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


@families
def test_the_gradient_is_that_of_autograd_through_the_stock_norm(family: str, kv: str) -> None:
    model = wrapped(family, kv, torch.float64)
    for layer in range(model.layout.n_layers):
        for units in some(model):
            chosen = None if units is None else torch.tensor(units)
            x = streams(model, sum(model.readers(chosen)), layer).requires_grad_()
            outputs = one_by_one(model, layer, x, units)
            dys = [torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype) for y in outputs]
            (expected,) = torch.autograd.grad(outputs, x, dys)
            projection, given = model.projection(layer, chosen), x.detach().clone()
            mine, scales = projection.forward(given)
            assert torch.equal(given, x), "the forward leaves the streams as they are"
            beside = torch.empty_like(given)
            projection.gradient(given, scales, mine, dys, out=beside)
            torch.testing.assert_close(beside, expected, atol=1e-10, rtol=1e-10)
            projection.gradient(given, scales, mine, dys, out=given)
            assert torch.equal(given, beside), "in the place of the streams it is the same"
            leaf = x.detach().clone().requires_grad_()
            (by_autograd,) = torch.autograd.grad(projection(leaf), leaf, dys)
            assert torch.equal(by_autograd, beside)


@families
def test_a_stream_that_all_see_makes_what_each_would_make_of_it(family: str, kv: str) -> None:
    model = wrapped(family, kv, torch.float64)
    for units in some(model):
        chosen = None if units is None else torch.tensor(units)
        [x] = streams(model, 1)
        found = model.projection(1, chosen).of_one(x)
        every = x.expand(sum(model.readers(chosen)), *x.shape)
        for mine, theirs in zip(found, one_by_one(model, 1, every, units), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


def test_heads_of_units_are_those_that_share_their_key() -> None:
    model = wrapped("llama-gqa", "group", torch.float64)
    assert model.readers() == (4, 2, 2) and model.readers(torch.tensor([1])) == (2, 1, 1)
    for units, heads in (([1], [2, 3]), ([1, 0], [2, 3, 0, 1])):
        assert model.heads(torch.tensor(units)).tolist() == heads
    by_head = wrapped("llama-gqa", "head", torch.float64)
    assert by_head.readers(torch.tensor([1])) == (1, 1, 1) and by_head.heads(torch.tensor([1])).tolist() == [1]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_any_norm_and_number_of_readers(kind: type[nn.Module], bias: bool) -> None:
    """Norms of PyTorch's own, tokens side by side as in a stack, blocks that one, two and three readers share."""
    generator = torch.Generator().manual_seed(0)
    d, tokens, blocks, readers = 5, 7, [2, 1, 3], [4, 3, 3]
    stock = kind(d, eps=1e-2, dtype=torch.float64)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for parameter in stock.parameters():
        parameter.data = drawn(d)
    centres = kind is nn.LayerNorm
    norm = Norm(stock.weight.detach(), 1e-2, centres, stock.bias.detach() if centres else None)
    weights = [(drawn(n, d, 4), drawn(n, 4) if bias else None) for n in blocks]
    x = drawn(sum(readers), tokens, d).requires_grad_()
    outputs, row = [], 0
    for (weight, constants), n in zip(weights, readers, strict=True):
        of = [reader // (n // len(weight)) for reader in range(n)]
        y = [stock(x[row + i]) @ weight[b] + (constants[b] if constants is not None else 0) for i, b in enumerate(of)]
        outputs.append(torch.stack(y))
        row += n
    dys = [drawn(*y.shape) for y in outputs]
    (expected,) = torch.autograd.grad(outputs, x, dys)
    projection = NormedProjection(norm, weights, readers)
    leaf = x.detach().clone().requires_grad_()
    mine = projection(leaf)
    torch.testing.assert_close(mine, tuple(outputs), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(mine, leaf, dys)[0], expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_of_no_token_nothing_is_made(family: str) -> None:
    model = wrapped(family, "head", torch.float64)
    readers = sum(model.readers())
    x = torch.zeros(readers, 0, model.layout.d_model, dtype=torch.float64)
    projection = model.projection(0)
    outputs, scales = projection.forward(x)
    assert [len(y) for y in outputs] == list(model.readers()) and all(y.shape[1:-1] == (0,) for y in outputs)
    projection.gradient(x, scales, outputs, outputs, out=x)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_that_of_the_stock_modules(family: str, size: float, dtype: torch.dtype) -> None:
    """Streams of any size, with a mean as large as what is around it."""
    exact, rough = wrapped(family, "head", torch.float64), wrap(tiny_model(family, dtype))
    x = ((streams(exact, sum(exact.readers())) + 1) / 2).mul(size).to(dtype)
    expected = one_by_one(exact, 0, x.double())
    stock = one_by_one(rough, 0, x)
    mine, _ = rough.projection(0).forward(x)
    for found, theirs, truth in zip(mine, stock, expected, strict=True):
        error, usual = ((each.double() - truth).norm() / truth.norm() for each in (found, theirs))
        assert error < 4 * usual, f"{error:.1e} against {usual:.1e}"
