"""Edge attribution patching: every edge's effect predicted from one gradient, in the time of two or three forwards.

score(w -> r) = sum over tokens of <ref_w - out_w, dL/dx_r>, at the clean prompt (Syed et al. 2023).
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class EAP(Attribution):
    """Edge attribution patching: gradients on the clean prompts. Arguments are those of `Attribution`.

    Scores are those of the library EAP-IG, which divides them once more by its batch size. Under mean ablation they
    differ: there, means are taken over nodes, and of the last token of each prompt alone.
    """

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return gradient_scores(self.circuit_model, batch, self.ablation, self.objective)
