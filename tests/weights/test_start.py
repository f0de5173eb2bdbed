"""Where weights begin, against what the loss does gain when one of them is taken away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_circuits.weights.start import start

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 2, 1, 0.5, 0.2, 0.1])


@pytest.fixture
def model() -> nn.Linear:
    found = nn.Linear(6, 4)
    generator = torch.Generator().manual_seed(1)
    for parameter in found.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(False)
    return found


def begun(model: nn.Linear, draws: int = 3000, density: float = 0.3) -> dict[str, Tensor]:
    logits = {name: nn.Parameter(torch.full_like(each, 7.0)) for name, each in model.named_parameters()}

    def said() -> Tensor:
        return model(INPUTS).log_softmax(-1)

    start(model, logits, [(1.0, said)] * draws, density, torch.Generator().manual_seed(2))
    return {name: each.detach() for name, each in logits.items()}


def test_weights_are_in_the_order_of_what_the_kl_gains_without_each(model: nn.Linear) -> None:
    full = model(INPUTS).log_softmax(-1)
    gains = {}
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        for i, weight in enumerate(flat.tolist()):
            flat[i] = 0.95 * weight  # a twentieth of the weight: to second order, exactly so much of the whole's gain
            gains[name, i] = float((full.exp() * (full - model(INPUTS).log_softmax(-1))).sum(-1).mean())
            flat[i] = weight
    found = begun(model)
    ranks = torch.tensor([float(found[name].view(-1)[i]) for name, i in gains])
    order = torch.tensor(list(gains.values())).argsort().argsort().double()
    # Weights and biases in one order, of which the draws leave neighbours uncertain.
    assert torch.corrcoef(torch.stack([ranks.double(), order]))[0, 1] > 0.99


def test_a_share_lies_above_0(model: nn.Linear) -> None:
    ranks = torch.cat([each.flatten() for each in begun(model, draws=20, density=0.25).values()])
    assert int((ranks > 1e-6).sum()) == 7  # of 28
    assert float(ranks.min()) == pytest.approx(1 / 28 - 0.75) and float(ranks.max()) == pytest.approx(0.25)


def test_what_weighs_more_decides(model: nn.Linear) -> None:
    """Two kinds of places, each of which needs other weights."""
    logits = {"weight": nn.Parameter(torch.zeros_like(model.weight))}
    first, last = (torch.zeros(1, 6).index_fill(1, torch.tensor(i), 3.0) for i in (0, 5))

    def said(weight_of_first: float) -> list[tuple[float, object]]:
        return [
            (weight_of_first, lambda: model(first).log_softmax(-1)),
            (1.0, lambda: model(last).log_softmax(-1)),
        ] * 100

    columns = []
    for weight in (1e3, 1e-3):
        start(model, logits, said(weight), 0.5, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        columns.append(logits["weight"].mean(0))
    assert columns[0][0] > columns[0][5] and columns[1][0] < columns[1][5]


def test_the_model_is_not_touched(model: nn.Linear) -> None:
    before = {name: each.clone() for name, each in model.state_dict().items()}
    begun(model, draws=3)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
