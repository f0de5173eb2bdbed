"""Scores drawn at random: what any method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.arguments import require_seed
from lightning_circuits.batch import Batch, n_prompts
from lightning_circuits.layout import KV
from lightning_circuits.models.loading import DType
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class RandomScores(Attribution):
    """Every edge's score is uniform in [0, 1), and depends on the seed alone.

    Args:
        seed: of the scores.
        model: see `Attribution`.
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
        seed: int = 0,
        kv: KV = "head",
        dtype: DType = "float32",
        attention: str | None = None,
        spans: bool = False,
    ) -> None:
        require_seed(seed)
        super().__init__(model, kv=kv, dtype=dtype, attention=attention, spans=spans)
        self.seed = seed

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        generator = torch.Generator().manual_seed(self.seed)
        scores = torch.rand(self.layout.n_edges, generator=generator, dtype=torch.float64)
        return scores.to(self.circuit_model.device) * n_prompts(batch), None
