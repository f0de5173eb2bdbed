"""Norms as attribution reads them, against the stock modules; and what is no norm that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lightning_circuits.models import CircuitModel, Norm, wrap
from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.norms import read_norm
from lightning_circuits.models.verify import verify
from tests.support.tiny_models import FAMILIES, tiny_model

families = pytest.mark.parametrize("family", FAMILIES)


def norms(model: CircuitModel) -> Iterator[nn.Module]:
    for layer in range(model.layout.n_layers):
        yield from (model.attention_norm(layer), model.mlp_norm(layer))


def streams(model: CircuitModel, seed: int = 0) -> Tensor:
    """``[2, 3, d]``, off the centre: a norm that forgets to take the mean off is found out."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, 3, model.layout.d_model, generator=generator).to(model.dtype) + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@families
def test_a_norm_does_what_the_stock_module_does(family: str, dtype: torch.dtype) -> None:
    model = wrap(tiny_model(family, dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for module in norms(model):
        x = streams(model)
        torch.testing.assert_close(model.read_norm(module)(x), module(x), atol=tolerance, rtol=tolerance)


@families
def test_folded_into_a_projection_it_does_the_same(family: str) -> None:
    model = wrap(tiny_model(family, torch.float64))
    for layer in range(model.layout.n_layers):
        module, x = model.attention_norm(layer), streams(model)
        norm = model.read_norm(module)
        for weight, bias in model.projections(layer):
            expected = module(x) @ weight[:, None]
            expected = expected if bias is None else expected + bias[:, None, None]
            folded, constant = norm.folded(weight, bias)
            actual = norm.standardised(x)[0] @ folded[:, None]
            actual = actual if constant is None else actual + constant[:, None, None]
            torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)
            if norm.centres:  # gradients that come back through it have no mean, as the norm's own have none
                torch.testing.assert_close(folded.mean(1), torch.zeros_like(folded[:, 0]), atol=1e-12, rtol=0)


def test_the_scale_is_in_float32_at_least_and_the_stream_in_its_own_dtype() -> None:
    norm = Norm(torch.ones(4), epsilon=1e-6)
    for dtype, wide in [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]:
        unit, scale = norm.standardised(torch.full((2, 4), 3.0, dtype=dtype))
        assert unit.dtype == dtype and scale.dtype == wide and scale.shape == (2, 1)


@pytest.mark.parametrize("module", [nn.GroupNorm(1, 4), nn.Dropout()])
def test_a_norm_of_another_kind_is_refused_with_the_place_to_describe_it(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"a {type(module).__name__} is no norm .*CircuitModel.read_norm"):
        read_norm(module)


class ShiftedNorm(nn.LayerNorm):
    """A norm of one's own: it scales by ``1 + weight``."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias, self.eps)


class ShiftedGPT2(GPT2CircuitModel):
    model_types = ()

    @staticmethod
    def read_norm(norm: nn.LayerNorm) -> Norm:
        return Norm(1 + norm.weight, norm.eps, centres=True, constant=norm.bias)


def test_a_family_brings_a_norm_of_its_own_in_one_place() -> None:
    """And one that is described as it is not is found when the model is wrapped."""
    stock = deepcopy(tiny_model("gpt2"))
    for block in stock.transformer.h:
        block.ln_1.__class__ = ShiftedNorm
    verify(ShiftedGPT2(stock))
    with pytest.raises(ValueError, match="the norm before the attention of layer 0"):
        verify(GPT2CircuitModel(stock))
