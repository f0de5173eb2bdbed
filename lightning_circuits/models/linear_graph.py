"""Whether a function was recorded as nothing but linear maps: seen from the graph that autograd has made of it.

What rules of propagation have dealt with stands in the graph as a linear map, such as a product with a constant. What
they do not know was recorded as it is, and would be differentiated in silence; so the graph is walked, node by node.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any

from torch import Tensor

LINEAR = frozenset(
    (
        *("AccumulateGrad", "Add", "Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd", "Copy", "CopySlices"),
        *("Expand", "Flip", "Gather", "Index", "IndexAdd", "IndexPut", "IndexSelect", "MaskedFill", "Mean", "Neg"),
        *("Permute", "Repeat", "ReshapeAlias", "Roll", "Scatter", "ScatterAdd", "Select", "Slice", "Split"),
        *("SplitWithSizes", "Squeeze", "Stack", "Sub", "Sum", "T", "ToCopy", "Transpose", "Unbind", "UnsafeSplit"),
        *("UnsafeView", "Unsqueeze", "View", "Where"),
    )
)
"""What is linear in all that it takes; of `Where`, the condition has no gradient."""

FACTORS = {
    **{name: (0, 1) for name in ("Bmm", "GroupedMm", "Linear", "Mm", "Mul")},
    "GeneratedBackwardFor_transformers_grouped_mm_fallback_default": (0, 1),  # of experts, where torch has no other
    **{name: (1, 2) for name in ("Addmm", "Baddbmm")},
}
"""What is linear as long as one factor alone hangs on the leaves, and which of its arguments the factors are."""

QUOTIENT, DIVISOR = "Div", 1


def what_is_not_linear(out: Tensor, ruled: Container[str]) -> str | None:
    """The name of an operation in the graph of ``out`` ``[...]`` that is not linear; None if all are.

    Args:
        out: what a function has made of leaves that ask for a gradient, and everything else of which asks for none.
        ruled: the names of operations that have a rule of their own.
    """
    for node in nodes_below([out.grad_fn]):
        name, below = operation(node), node.next_functions
        moving = {place for place, (each, _) in enumerate(below) if each is not None}
        is_linear = (
            name in LINEAR
            or (name in FACTORS and len(moving.intersection(FACTORS[name])) < 2)
            or (name == QUOTIENT and DIVISOR not in moving)
        )
        if not is_linear and name not in ruled:
            return name
    return None


def operation(node: Any) -> str:
    """What a node of a graph is of: ``Mul`` of ``MulBackward0``."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def nodes_below(roots: Iterable[Any]) -> Iterator[Any]:
    """These nodes of autograd's graph and every node below them, once."""
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [below for below, _ in node.next_functions]
            yield node
