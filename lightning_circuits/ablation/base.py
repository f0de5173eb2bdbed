"""What every ablation has in common, their registry, and the two that need no data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_circuits.arguments import called, options_of
from lightning_circuits.batch import Batch, over_prompts, own_tokens
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.places import Places
from lightning_circuits.registry import Registry

Side: TypeAlias = Literal["clean", "corrupt"]
"""Of a pair of prompts."""


class Ablation:
    """What a cut edge carries; subclasses say `reference`, and what of the following is true of them."""

    name: str
    """What it is called in configs, rows and files."""

    needs_data = False
    """Whether `fit` has to be given a loader before the first `reference`."""

    fitted_over = 0
    """How many prompts the last `fit` saw; files say it, beside what the ablation was made with."""

    pruning_keeps_output = False
    """Whether a circuit puts out the same without its edges on no way from the input to the logits.

    So it is where a writer that nothing reaches puts out its reference by itself, as on the corrupt prompt.
    """

    starts_at_corrupt = False
    """Whether the run that the references make is the stock model's on the corrupt prompt.

    Integrated gradients then have that run as the far end of their path, and need not make it.
    """

    of_each_circuit = False
    """Whether every circuit has references of its own: then `of_circuit` gives an ablation that knows them."""

    learned: Tensor | None = None
    """float32 ``[n_writers, n_spans, d]``: what the references are made of, if they are learned beside the gates."""

    has_constants = False
    """Whether what stands in for a writer hangs on no prompt, or on no more than how far into it a token stands; then
    `constants` says it."""

    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take what the reference needs from a loader; most need nothing."""

    def of_circuit(self, model: CircuitModel, members: Tensor) -> Ablation:
        """The ablation as one circuit is judged under it; most are the same for all circuits.

        Args:
            model: the frozen model, of which `fit` has seen prompts.
            members: bool ``[n_edges]``, the edges of the circuit.
        """
        return self

    def require_circuit(self, members: Tensor) -> None:
        """See that the references are those of a circuit of the edges ``members``, bool ``[n_edges]``."""

    def require_known(self, fitted: Iterable[Batch], judged: Iterable[Batch]) -> None:
        """See, before a model is run, that after `fit` on the one there is a reference for all prompts of the other."""

    def describe(self) -> dict[str, Any]:
        """What it is called and was made with, and over how many prompts it is fitted, in plain JSON values."""
        seen = {"fitted_over": self.fitted_over} if self.fitted_over else {}
        return {"name": called(self), **options_of(self), **seen}

    def live(self, batch: Batch) -> Tensor:
        """bool ``[B, T]``: the tokens at which a run with cut edges may differ from the clean one.

        All but padding; where the references are the corrupt prompt's, those from the first token on that differs.
        """
        real = batch["attention_mask"].bool()
        if not self.starts_at_corrupt:
            return real
        differs = (batch["clean_ids"] != batch["corrupt_ids"]) & real
        return real & differs.cumsum(-1).bool()

    def live_tokens(self, places: Places, batch: Batch) -> Tensor:
        """int64 ``[n_spans, n_prompts]``: at how many tokens of each prompt an edge of each span may be cut to some
        effect, those of answers of several tokens among them.

        Args:
            places: of the batch.
            batch: the prompts.
        """
        live = self.live(batch) & own_tokens(batch)
        of_rows = torch.stack([(places.tokens(span) & live).sum(-1) for span in range(len(places.slices))])
        return over_prompts(of_rows.T, batch).T

    def places(self, layout: Layout, batch: Batch) -> Places:
        """Where the tokens of a batch stand for gates of a layout under this ablation.

        Raises:
            ValueError: as `Places.of` does, such as for a live token in no span of the layout.
        """
        return Places.of(layout, batch, self.live(batch))

    def constants(self, layout: Layout) -> Tensor:
        """What stands in for every writer on any prompt, ``[n_writers, 1, d]``; or by how many real tokens stand before
        a token, ``[n_writers, n_positions, d]``.

        Args:
            layout: of the circuit, without spans.

        Raises:
            RuntimeError: the ablation is not fitted.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say constants(layout)")

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        """What stands in for every writer, ``[n_writers, B, T, d]``, to be consumed by the masked computation.

        Args:
            batch: the prompts.
            corrupt: the writers' outputs on the corrupt prompts, of the same shape and dtype (see
                `CircuitModel.run_pair`); it may be changed, and given back.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say reference(batch, corrupt)")


ABLATIONS = Registry("ablation", Ablation)


@ABLATIONS.register
class InterchangeAblation(Ablation):
    name = "interchange"
    pruning_keeps_output = starts_at_corrupt = True

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return corrupt


@ABLATIONS.register
class ZeroAblation(Ablation):
    name = "zero"
    has_constants = True

    def constants(self, layout: Layout) -> Tensor:
        return torch.zeros(layout.n_writers, 1, layout.d_model)

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return torch.zeros_like(corrupt)
