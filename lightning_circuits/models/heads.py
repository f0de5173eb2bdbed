"""Projections cut into heads: of linear layers side by side, or of one that has queries, keys and values of all groups.

Weights come as ``[blocks, d_model, d_head]`` and biases ``[blocks, d_head]``, as `CircuitModel.projections` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def of_linears(linears: Sequence[nn.Linear], blocks: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
    """Linear layers, each ``[n * d_head, d_model]``, in as many blocks as it has heads: weights and biases as views."""
    return [
        (linear.weight.unflatten(0, (n, -1)).mT, None if linear.bias is None else linear.bias.unflatten(0, (n, -1)))
        for linear, n in zip(linears, blocks, strict=True)
    ]


def of_groups(fused: nn.Linear, heads: int, groups: int) -> list[tuple[Tensor, Tensor | None]]:
    """One linear layer ``[(heads + 2 * groups) * d_head, d_model]``, group by group: its queries, its key, its value.

    With a group for every head these are three blocks a head, with one group (multi-query) all queries and then a key
    and a value. Queries of several groups do not lie side by side, and are copied.

    Returns:
        of queries, keys and values the weights and biases.
    """
    sizes = groups, heads // groups + 2, -1
    weight = fused.weight.unflatten(0, sizes).mT  # [groups, queries and key and value, d_model, d_head]
    weights = weight[:, :-2].flatten(0, 1), weight[:, -2], weight[:, -1]
    if fused.bias is None:
        return [(each, None) for each in weights]
    bias = fused.bias.unflatten(0, sizes)
    return list(zip(weights, (bias[:, :-2].flatten(0, 1), bias[:, -2], bias[:, -1]), strict=True))


def of_rows(fused: nn.Linear, heads: int, groups: int) -> list[tuple[Tensor, Tensor | None]]:
    """One linear layer ``[(heads + 2 * groups) * d_head, d_model]`` without a bias, all queries, then all keys, then
    all values: the weights of each as views."""
    counts = heads, groups, groups
    return [(weight, None) for weight in fused.weight.unflatten(0, (sum(counts), -1)).mT.split(counts)]
