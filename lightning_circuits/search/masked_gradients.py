"""Gradients at random circuits: what an edge is worth, on average, when others are missing.

EAP asks what the first edge to be cut would cost. In a small circuit nearly all are cut already, and what backs up
what is gone. Here the gradient with respect to the gates, -dL/dM, is taken at circuits of random edges of all sizes:
what training top-k gates sees in its first step, without learning anything. It is the learning-free baseline of
Matryoshka attribution (2026).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.arguments import require_instance, require_seed, require_whole_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.gates import SizeRange
from lightning_circuits.scoring.at_masks import masked_gradient_scores
from lightning_circuits.scoring.draws import generators_of
from lightning_circuits.scoring.no_gradient import require_gradient_at_the_full_model
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class MaskedGradients(Attribution):
    """The mean of -dL/dM at random binary top-k masks, of all edges, cut ones too. At k = all it is `EAP`.

    A mask has the k best of uniform random scores. Each prompt has masks of its own, which depend on the seed and on
    its tokens, clean and corrupt, alone. So scores do not depend on how prompts fall into batches, on their order, or
    on the number of processes.

    Args:
        model: see `Attribution`.
        masks: how many for each prompt; each costs a gated forward and backward, sparse ones less.
        sizes: how large they are. The sizes of a prompt's masks follow each other as those of training steps do, from a
            random one on. Default: all, from 0.3 % of the edges, as many between 1 and 2 % as between 50 and 100 %.
        seed: of the draws.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: less than one mask.
        TypeError: sizes that are no `SizeRange`.
    """

    def __init__(
        self,
        model: LanguageModel | None = None,
        *,
        masks: int = 8,
        sizes: SizeRange | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        require_whole_numbers(masks=masks)
        if masks < 1:
            raise ValueError(f"masks is {masks}: gradients are taken at one at least")
        require_seed(seed)
        sizes = SizeRange(high=1.0) if sizes is None else require_instance("sizes", sizes, SizeRange)
        super().__init__(model, **options)
        self.masks, self.sizes, self.seed = masks, sizes, seed

    @property
    def at_full_model_alone(self) -> bool:
        return self.sizes.low == 1.0  # every edge is open in every mask

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        if self.at_full_model_alone:
            require_gradient_at_the_full_model(self.objective, batch, self.circuit_model.vocabulary)
        drawn = self.drawn(batch)
        scores = masked_gradient_scores(self.circuit_model, batch, self.ablation, self.objective, drawn)
        return scores / self.masks, None

    def drawn(self, batch: Batch) -> Iterator[Tensor]:
        """The masks of all prompts, one after the other, ``[n_prompts, n_edges]`` each, of 0 and 1."""
        generators = generators_of(batch, self.seed)
        first = [int(torch.randint(2**20, (), generator=each)) for each in generators]
        for number in range(self.masks):
            mask = torch.zeros(len(generators), self.layout.n_edges, dtype=torch.float32)
            for row, start, generator in zip(mask, first, generators, strict=True):
                k = max(1, round(self.sizes.size(start + number, progress=1.0) * len(row)))
                row[torch.randperm(len(row), generator=generator)[:k]] = 1.0
            yield mask.to(self.circuit_model.device, torch.promote_types(self.circuit_model.dtype, torch.float32))
