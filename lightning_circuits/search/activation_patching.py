"""Exact patching as a search: every edge is cut, one at a time, and the score is what that does to the loss.

The slowest way to score edges, and the one that the others are measured against. What is computed stands in
`lightning_circuits.scoring.exact_patching`.

    >>> search = ActivationPatching("tiny-ioi")                                             # doctest: +SKIP
    >>> pl.Trainer().fit(search, IOIDataModule("tiny-ioi", n_train=32))                     # doctest: +SKIP
    >>> search.circuit(size=0.05).save("circuit.json")                                      # doctest: +SKIP

An epoch goes over the training prompts with one part of the edges, the next epoch with the next part. GPT-2 small has
32,491 edges, so with 64 at a time some 530 epochs: few prompts are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.namespace import pl
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution
from lightning_circuits.search.record import count_faults


@METHODS.register
class ActivationPatching(Attribution):
    """Cut every edge, one at a time: its score is the loss without it minus the loss of the full model, on average.

    Positive scores are of edges that help. `Trainer.fit` ends by itself after the last part of the edges, and only
    then are circuits validated; a killed run goes on in the middle of an epoch. Until an edge is cut it scores 0.

    Args:
        model: see `Attribution`.
        edges_per_batch: how many edges a step cuts, each in a copy of the batch of prompts. Memory grows with it; the
            two stock forwards of a step are shared by all of them.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: ``edges_per_batch`` below 1.
    """

    def __init__(self, model: LanguageModel | None = None, *, edges_per_batch: int = 64, **options: Any) -> None:
        require_whole_numbers(edges_per_batch=edges_per_batch)
        if edges_per_batch < 1:
            raise ValueError(f"edges_per_batch is {edges_per_batch}: at least one edge has to be cut at a time")
        super().__init__(model, **options)
        self.edges_per_batch = edges_per_batch
        self._part = 0

    @cached_property
    def parts(self) -> list[Tensor]:
        """The edges of each epoch, int64 ``[n]`` each, as `exact_patching.chunks` has them."""
        return chunks(self.layout, self.edges_per_batch)

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        patching = ExactPatching(self.circuit_model, batch, self.ablation, self.objective)
        scores = torch.zeros_like(self.edge_sums, requires_grad=False)
        edges = self.parts[self._part]
        scores[edges.to(scores.device)] = patching.scores(edges).sum(-1, dtype=scores.dtype)
        return scores, None

    def edge_scores(self) -> Tensor:
        super().edge_scores()  # which says so if there are none yet
        return (self.edge_sums / self.prompts.clamp(min=1)).detach().float()

    def scores_over(self, batches: Callable[[], Iterable[Batch]], trainer: pl.Trainer | None = None) -> Tensor:
        totals = [torch.zeros_like(sums) for sums in self._sums()]
        for part in range(len(self.parts)):
            self._part = part
            super().scores_over(batches, trainer)
            totals = [total + sums.data for total, sums in zip(totals, self._sums(), strict=True)]
        for sums, total in zip(self._sums(), totals, strict=True):
            sums.data = total
        return self.edge_scores()

    def describe(self) -> dict[str, Any]:
        cut = self.prompts > 0
        return {**super().describe(), "examples": int(self.prompts.max()), "edges_cut": int(cut.sum())}

    # ---- sums, each edge with the number of prompts in which it has been cut -----------------------------------

    def begin(self) -> None:
        super().begin()
        self.prompts = nn.Parameter(torch.zeros_like(self.edge_sums))

    def _sums(self) -> list[nn.Parameter]:
        return [*super()._sums(), self.prompts]

    def _contribution(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        edges, writers, examples, prompts = super()._contribution(batch, batch_idx)
        prompts[self.parts[self._part].to(prompts.device)] = examples
        return [edges, writers, examples, prompts]

    def _faults(self, checkpoint: dict[str, Any]) -> list[str]:
        return [*super()._faults(checkpoint), *count_faults(checkpoint.get("state_dict"), "prompts")]

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        # A pass for each part of the edges. Circuits are validated after the last of them, not after every one.
        trainer = self.trainer
        self._validation = trainer.check_val_every_n_epoch, trainer.val_check_interval
        trainer.fit_loop.max_epochs = len(self.parts)
        trainer.check_val_every_n_epoch, trainer.val_check_interval = len(self.parts), 1.0

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self.trainer.check_val_every_n_epoch, self.trainer.val_check_interval = self._validation

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self._part = self.current_epoch
        if batch_idx == 0:
            self.rows.zero_()  # every pass begins with the first row
        super().training_step(batch, batch_idx)
        self.log("train/edges_cut", (self.prompts > 0).sum().double(), prog_bar=True, batch_size=1)
