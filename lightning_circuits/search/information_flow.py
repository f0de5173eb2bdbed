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
from lightning_circuits.layout import KV
from lightning_circuits.models.loading import DType
from lightning_circuits.scoring.information_flow import information_flow_scores
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class InformationFlowRoutes(Attribution):
    """Scores in [0, 1], averaged over a prompt's real tokens and over prompts.

    As in the library EAP-IG, save that a token at which no writer comes near a reader counts as 0 there, not NaN.

    Args:
        model: see `Attribution`. What edges are cut for, and what then takes their place, plays no part.
        kv: see `CircuitSearch`.
        dtype: see `CircuitSearch`.
        attention: see `CircuitSearch`.
        spans: see `CircuitSearch`.
    """

    plays_no_part = ("ablation", "objective")

    def __init__(
        self,
        model: LanguageModel | None = None,
        *,
        kv: KV = "head",
        dtype: DType = "float32",
        attention: str | None = None,
        spans: bool = False,
    ) -> None:
        super().__init__(model, kv=kv, dtype=dtype, attention=attention, spans=spans)

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        with torch.no_grad():
            return information_flow_scores(self.circuit_model, batch), None
