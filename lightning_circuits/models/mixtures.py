"""Mixtures of experts: what stands in the place of an MLP, and sends each token to a few of many experts."""

from __future__ import annotations

from torch import nn


def is_mixture(mlp: nn.Module) -> bool:
    """Whether there are experts in the place of an MLP."""
    return any(name.rpartition(".")[2] == "experts" for name, _ in mlp.named_modules())


def numbers_of_a_token(mlp: nn.Module) -> int:
    """About how many numbers a mixture makes of a token, what its parts take in and what they put out.

    To which experts a token goes hangs on its numbers, so that a mixture cannot be run without any, as an MLP can.
    """
    # Of experts the weights are one tensor, [experts, ., .]; how many are at work, a router or what is around it says.
    at_work = [n for module in mlp.modules() if isinstance(n := getattr(module, "top_k", None), int)]
    weights = [weight for weight in mlp.parameters() if weight.ndim > 1]
    return sum((max(at_work, default=1) if weight.ndim > 2 else 1) * sum(weight.shape[-2:]) for weight in weights)
