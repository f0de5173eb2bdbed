"""Constants that are learned beside gates: optimal ablation while it is still open what the circuit is.

With ``M`` the gates, a step moves both down the gradient of one loss: an edge is closed where the best constant in its
writer's place costs less than the edge does, so that a gate does not stay open only because a mean does harm (Li and
Janson 2024). The optimizer has the constants as a group of their own, with the learning rate of the
`OptimalAblation`; they begin at the means of the training prompts, and stand in checkpoints beside the gates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.ablation import Ablation, OptimalAblation
from lightning_circuits.layout import Layout


class LearnedConstants(nn.Module):
    """The constants of a search, for each writer one, in each span.

    Args:
        optimal: the ablation that is searched under.
        layout: of the gates.
    """

    def __init__(self, optimal: OptimalAblation, layout: Layout) -> None:
        super().__init__()
        self.optimal, self.layout = optimal, layout
        shape = layout.n_writers, layout.n_spans, layout.d_model
        self.values = nn.Parameter(torch.zeros(shape, dtype=torch.float32))

    @classmethod
    def under(cls, ablation: Ablation, layout: Layout) -> LearnedConstants | None:
        """Those of a search under an ablation; None where nothing of it is learned."""
        return cls(ablation, layout) if isinstance(ablation, OptimalAblation) else None

    def means(self) -> Tensor:
        """``[n_writers, n_spans, d]``: where they are to begin, once the ablation has seen the prompts."""
        return self.optimal.start(self.layout)

    def start_from(self, values: Tensor) -> None:
        """Begin at some constants, ``[n_writers, n_spans, d]``."""
        self.values.data.copy_(values)

    def ablation(self) -> OptimalAblation:
        """What cut edges carry now; the gradient flows to it."""
        return self.optimal.holding(self.layout, self.values)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is to move, in its own words."""
        return [{"params": [self.values], "lr": self.optimal.lr}]
