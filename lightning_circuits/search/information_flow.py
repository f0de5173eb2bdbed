"""Information flow routes: how much of what a reader reads comes from which writer, from one forward alone.

The importance of writer w to reader r at a token is its proximity to the stream that r reads,

    max(0, |x|_1 - |x - out_w|_1),

divided by the sum of those of all writers before r (Ferrando and Voita 2024, "Information Flow Routes"). It knows
nothing of the task: neither the corrupt prompt nor an answer is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.scoring.gradients import information_flow
from lightning_circuits.search.one_pass import Attribution


class InformationFlowRoutes(Attribution):
    """Scores in [0, 1], averaged over a prompt's real tokens and over prompts. Arguments are those of `Attribution`.

    As in the library EAP-IG, save that a token at which no writer comes near a reader counts as 0 there, not NaN.
    Ablation and objective play no part in the scores.
    """

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        with torch.no_grad():
            return information_flow(self.circuit_model, batch), None
