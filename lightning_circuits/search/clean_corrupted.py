"""EAP at both ends of the line between the prompts: half the gradient on the clean one, half that at the reference."""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import ENDS
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class CleanCorrupted(Attribution):
    """The mean of the gradients at the two ends of the line: on the clean prompt and at the reference.

    Arguments are those of `Attribution`. Under interchange ablation this is the library EAP-IG's "clean-corrupted".
    """

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return gradient_scores(self.circuit_model, batch, self.ablation, self.objective, ENDS)
