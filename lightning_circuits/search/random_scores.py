"""Scores drawn at random: what any method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.search.one_pass import Attribution


class RandomScores(Attribution):
    """Every edge's score is uniform in [0, 1), and depends on the seed alone. Arguments are those of `Attribution`."""

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        generator = torch.Generator().manual_seed(self.seed)
        scores = torch.rand(self.layout.n_edges, generator=generator, dtype=torch.float64)
        return scores.to(self.circuit_model.device) * len(batch["clean_ids"]), None
