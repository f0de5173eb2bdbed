"""By which rules a gradient is taken back through the parts of a model: as it stands, by derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor


class Derivatives:
    """The derivative of everything.

    Other rules are a subclass, and a model that goes by them is a view of it with an attribute ``rules`` of its own
    (`models.relevance`).
    """

    hold_norms: ClassVar[bool] = False
    """Whether what a norm scales a token with counts as a constant."""

    def recorded(
        self, part: str, function: Callable[..., Tensor], *leaves: Tensor, is_attention: bool = False
    ) -> Tensor:
        """What a function makes of its arguments, with a graph through which `torch.autograd.grad` goes by the rules.

        Args:
            part: which part of the model it is, for messages.
            function: of the leaves alone; whatever else it computes with asks for no gradient.
            leaves: its arguments ``[...]``, which ask for one.
            is_attention: whether it mixes values by queries and keys.
        """
        with torch.enable_grad():
            return function(*leaves)


DERIVATIVES = Derivatives()
