"""What a cut edge carries instead of its writer's output: the ``ref`` of the masked computation.

| name              | reference of a writer                                                                       |
|-------------------|---------------------------------------------------------------------------------------------|
| `interchange`     | its output on the corrupt prompt of the pair                                                |
| `zero`            | nothing                                                                                     |
| `mean`            | its mean output over all clean prompts of a loader, one vector                              |
| `mean-positional` | the same for each token position, counted from the first real token                         |
| `mean-span`       | the same for each named span of the prompts                                                 |

    >>> ABLATIONS.make("zero").name
    'zero'

How a circuit scores depends on which: write it beside every number. The means need one pass over a loader, `fit`,
before they are used; the others ignore it.

An ablation of one's own is a subclass of `Ablation` that says `reference`; registered, configs know it by its name:

    @ABLATIONS.register
    class NoiseAblation(Ablation):
        name = "noise"

        def reference(self, batch, corrupt):
            return corrupt + 0.1 * torch.randn_like(corrupt)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_circuits.batch import Batch, on_device
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.base import position_ids
from lightning_circuits.places import Places
from lightning_circuits.registry import Registry


class Ablation:
    """What a cut edge carries; subclasses say `reference`, and what of the following is true of them."""

    name: str
    """What it is called in configs, rows and files."""

    needs_data = False
    """Whether `fit` has to see a loader before the first `reference`."""

    pruning_keeps_output = False
    """Whether a circuit puts out the same without its edges on no way from the input to the logits.

    So it is where a writer that nothing reaches puts out its reference by itself, as on the corrupt prompt.
    """

    starts_at_corrupt = False
    """Whether the run that the references make is the stock model's on the corrupt prompt.

    Integrated gradients then have that run as the far end of their path, and need not make it.
    """

    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take what the reference needs from a loader; most need nothing."""

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
        """int64 ``[n_spans, B]``: at how many tokens of each prompt an edge of each span may be cut to some effect.

        Args:
            places: of the batch.
            batch: the prompts.
        """
        live = self.live(batch)
        return torch.stack([(places.tokens(span) & live).sum(-1) for span in range(len(places.slices))])

    def places(self, layout: Layout, batch: Batch) -> Places:
        """Where the tokens of a batch stand for gates of a layout under this ablation.

        Raises:
            ValueError: as `Places.of` does, such as for a live token in no span of the layout.
        """
        return Places.of(layout, batch, self.live(batch) if layout.spans else None)

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        """What stands in for every writer, ``[n_writers, B, T, d]``, to be consumed by the masked computation.

        Args:
            batch: the prompts.
            corrupt: the writers' outputs on the corrupt prompts, of the same shape and dtype (see
                `CircuitModel.run_pair`); it may be changed, and given back.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say reference(batch, corrupt)")


ABLATIONS = Registry("ablation", Ablation)
AblationName = Literal["interchange", "zero", "mean", "mean-positional", "mean-span"]
"""Those of this package, for signatures and their help."""


@ABLATIONS.register
class InterchangeAblation(Ablation):
    name = "interchange"
    pruning_keeps_output = starts_at_corrupt = True

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return corrupt


@ABLATIONS.register
class ZeroAblation(Ablation):
    name = "zero"

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return torch.zeros_like(corrupt)


@ABLATIONS.register
class MeanAblation(Ablation):
    """The mean over all real tokens of all prompts, exact whatever the batch size."""

    name = "mean"
    needs_data = True

    def __init__(self) -> None:
        self.means: Tensor | None = None  # [n_writers, n_slots, d]

    def slots(self, batch: Batch) -> Tensor:
        """int64 ``[B, T]``: which tokens share a mean, counted from 0. Here, all."""
        return torch.zeros_like(batch["clean_ids"])

    @torch.no_grad()
    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        # float64: sums over a whole data set, exact enough not to depend on the batch size
        sums = torch.zeros(model.layout.n_writers, 0, model.layout.d_model, dtype=torch.float64, device=model.device)
        counts = sums.new_zeros(0)
        for batch in batches:
            batch = on_device(batch, model.device)
            ids, mask = batch["clean_ids"], batch["attention_mask"]
            stack = model.new_stack(ids.shape)
            model.run(ids, mask, batch["positions"], writers=stack)
            real = mask.bool()
            slots = self.slots(batch)[real]
            more = max(0, int(slots.max()) + 1 - len(counts))  # such as a prompt longer than all before
            sums, counts = F.pad(sums, (0, 0, 0, more)), F.pad(counts, (0, more))
            sums.index_add_(1, slots, stack[:, real].double())
            counts.index_add_(0, slots, counts.new_ones(len(slots)))
        if not len(counts):
            raise ValueError(f"{self.name} ablation: the loader for the means has no batch")
        self.means = (sums / counts[:, None]).to(model.dtype)

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        if self.means is None:
            raise RuntimeError(f"{self.name} ablation needs the means of a data set: call fit(model, loader) first")
        slots = self.slots(batch)
        if int(slots.max()) >= self.means.shape[1]:
            raise ValueError(
                f"{self.name} ablation: a prompt of {int(slots.max()) + 1} tokens, but the means were taken over "
                f"prompts of at most {self.means.shape[1]}; take them over a loader with prompts as long"
            )
        return self.means[:, slots]


@ABLATIONS.register
class MeanPositionalAblation(MeanAblation):
    """The mean for every position over the prompts that are long enough to have it."""

    name = "mean-positional"

    def slots(self, batch: Batch) -> Tensor:
        return position_ids(batch["attention_mask"])


@ABLATIONS.register
class MeanSpanAblation(MeanAblation):
    """The mean for every named span of the prompts, so that prompts of different lengths line up.

    Each token of a span counts once. Prompts have to name their places (see `batch.Spans`).
    """

    name = "mean-span"

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    @torch.no_grad()
    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        self.means, self.names = None, []
        super().fit(model, batches)

    def slots(self, batch: Batch) -> Tensor:
        names, ids = batch.get("span_names", ()), batch.get("spans")
        if ids is None:
            raise ValueError(f"{self.name} ablation: the prompts have no spans: give data that name their places")
        if self.means is None:  # while it is fitted
            there = {names[i] for i in ids.unique().tolist() if i >= 0}
            self.names += [name for name in names if name in there and name not in self.names]
        used = [self.names.index(name) if name in self.names else -1 for name in names]
        slots = torch.tensor([*used, -1], device=ids.device)[ids]
        real = batch["attention_mask"].bool()
        if (without := (slots < 0) & real).any():
            span = int(ids[without][0])
            raise ValueError(
                f"{self.name} ablation: no prompt that the means were taken over has the span "
                f"{names[span] if span >= 0 else 'of some token'}; it had {', '.join(self.names)}"
            )
        return slots.clamp(min=0)
