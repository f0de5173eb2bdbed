"""Learned gates: one number per edge that training can move, and a value in [0, 1] made from it.

A gate answers four questions. *What does this step multiply the edges with?* (calling it) *How should edges be ranked?*
(`edge_scores`) *What do open gates cost?* (`penalty`) *What size was it trained for?* (`trained_size`).

    >>> from lightning_circuits.gates.top_k import TopK
    >>> gate = TopK()
    >>> gate.start(n_edges=1000, generator=torch.Generator().manual_seed(0))
    >>> values = gate(torch.Generator().manual_seed(1), number=0, progress=0.0)
    >>> values.shape, bool(((values >= 0) & (values <= 1)).all())
    (torch.Size([1000]), True)

Everything that changes from step to step comes from what is passed in, so a step can be repeated exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.registry import Registry


class Gate(nn.Module):
    """One learned number per edge; subclasses say what value a gate has."""

    logits: nn.Parameter
    """float32 ``[n_edges]``: what is learned. The larger, the more open."""
    counts: tuple[str, ...] = ()
    """Which of the tensors that it keeps count something, from 0 up."""

    def start(self, n_edges: int, generator: torch.Generator) -> None:
        """Make the parameters, all edges alike.

        Args:
            n_edges: how many gates there are.
            generator: random numbers, for gates that begin at random.
        """
        self.logits = nn.Parameter(torch.zeros(n_edges, dtype=torch.float32))

    def start_from(self, scores: Tensor) -> None:
        """Begin from the ranks of some edge scores, float32 ``[n_edges]``: the best edges open, the worst closed."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say start_from(scores): say it, or begin with all gates alike, "
            "EdgePruning(warm_start=None)"
        )

    def forward(self, generator: torch.Generator, number: int, progress: float) -> Tensor:
        """The values for one step, float32 ``[n_edges]`` in [0, 1].

        Args:
            generator: random numbers of this step's own, the same for all its batches, in all processes.
            number: of the optimizer's step, counted over the whole training.
            progress: how far training is, from 0 to 1.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say forward(generator, number, progress)")

    def after_step(self, progress: float) -> None:
        """Called when the optimizer has moved the logits, ``progress`` in (0, 1] of the way."""

    def closed_for_good(self, progress: float) -> bool | Tensor:
        """Which gates have no gradient in the step whose values were made last, so that its cost can be saved: True for
        those whose value is exactly 0; or some of these, bool ``[n_edges]``."""
        return False

    def edge_scores(self) -> Tensor:
        """float32 ``[n_edges]``: the ranking."""
        return self.logits.detach()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer is to move, in its own words; without a learning rate of its own, that of the search."""
        return [{"params": [self.logits]}]

    def penalty(self, progress: float) -> Tensor | None:
        """What open gates cost, a scalar; None for gates whose size is not left to a penalty."""
        return None

    def report(self) -> dict[str, Tensor]:
        """Numbers worth a curve, scalars by name."""
        return {}

    def ranks_up_to(self) -> float | None:
        """The largest share of the edges for which they were ranked; None for gates that are not for several sizes."""
        return None

    def trained_size(self) -> float | None:
        """The share of the edges that the gates were trained to keep, if there is one."""
        return None


GATES = Registry("gate", Gate)


def normalised_ranks(scores: Tensor) -> Tensor:
    """Ranks from 0 (worst) to 1 (best), of the shape ``[n_edges]`` and dtype of the scores; of equals, in order."""
    order = torch.empty_like(scores)
    order[scores.argsort(stable=True)] = torch.arange(len(scores), dtype=scores.dtype, device=scores.device)
    return order / max(len(scores) - 1, 1)
