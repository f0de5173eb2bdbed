"""What callbacks that judge circuits by exact ablation have in common.

Every process takes its share of the batches of a split, each batch once (see `callbacks.held_out`). Training prompts
are never measured on; mean ablations take their means over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_seed
from lightning_circuits.callbacks.held_out import held_out, require_held_out
from lightning_circuits.callbacks.options import require_ablations, require_measure
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.measures import DEFAULT, AnyMeasure
from lightning_circuits.namespace import pl
from lightning_circuits.pages import see_page
from lightning_circuits.search.bars import bars_of
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.random_numbers import drawing_nothing, undisturbed
from lightning_circuits.search.splits import fitted_on, live_tokens, whole_split


class ExactAblationCallback(pl.Callback):
    """What callbacks that judge circuits by exact ablation have in common; by itself it judges nothing.

    Every process takes its share of the batches of a split, each batch once; ablations that need data, such as the
    mean, see all of the training split, once a run; the random numbers of training stay as they are.

    Args:
        ablations: what cut edges carry: names or objects, one or several (see `lightning_circuits.ablation`).
        seed: of random circuits.
        measure: what faithfulness is of (see `lightning_circuits.measures`).

    Raises:
        ValueError: an unknown ablation, or none; an unknown measure, or one without a name.
        TypeError: something that is no ablation, or no measure.
    """

    def __init__(
        self, ablations: Sequence[str | Ablation] | str | Ablation, seed: int, measure: AnyMeasure = DEFAULT
    ) -> None:
        self.ablations = require_ablations(ablations)
        require_seed(seed)
        self.seed = seed
        self.measure = require_measure(measure)
        self._fitted = False

    def _begin(self, trainer: pl.Trainer, search: CircuitSearch, split: str) -> None:
        """For `setup`: see that there is something to measure on, before any training.

        Raises:
            ValueError: no batch in the split; an ablation that needs data, without training prompts; one that has no
                reference for some prompt, such as one of another group; one under which prompts differ in spans that
                are not searched.
        """
        require_held_out(trainer, split)
        for ablation in self.ablations:
            fitted = fitted_on(trainer, ablation)
            with undisturbed(), drawing_nothing(fitted):
                ablation.require_known(fitted, held_out(trainer, split))
        if search.spans or search.layout.spans:
            self._require_spans(trainer, search, split)
        self._fitted = False  # a run of its own: other prompts perhaps

    def _require_spans(self, trainer: pl.Trainer, search: CircuitSearch, split: str) -> None:
        searched = search.layout.spans or tuple(search.live_spans())
        for ablation in self.ablations:
            live = live_tokens(whole_split(trainer, split), ablation)
            if outside := [name for name, number in live.items() if number and name not in searched]:
                raise ValueError(
                    f"{type(self).__name__} is to judge under {ablation.name} ablation, which changes tokens in "
                    f"{f'the span {outside[0]}' if outside[0] else 'no span'} too, and edges are told apart in "
                    f"{', '.join(searched)} alone: leave it out of the ablations, or search under it "
                    f"{see_page('places', 'Where spans come from')}"
                )

    def _evaluate(
        self,
        trainer: pl.Trainer,
        search: CircuitSearch,
        circuits: Mapping[str, Circuit],
        split: str,
        controls: bool = True,
        narrow: float | None = None,
    ) -> list[Row]:
        # Loaders may draw random numbers just by being iterated: measuring must not change how training goes on.
        with torch.random.fork_rng(devices=[]), bars_of(trainer):
            if not self._fitted:
                for ablation in self.ablations:
                    ablation.fit(search.circuit_model, fitted_on(trainer, ablation))
                self._fitted = True
            return evaluate(
                search.circuit_model,
                list(held_out(trainer, split)),
                circuits,
                self.ablations,
                split=split,
                seed=self.seed,
                controls=controls,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                measure=self.measure,
                narrow=narrow,
            )

    def _describe_ablations(self) -> dict[str, dict[str, Any]]:
        """What each of them is, by name, for files that hold its numbers."""
        return {ablation.name: ablation.describe() for ablation in self.ablations}
