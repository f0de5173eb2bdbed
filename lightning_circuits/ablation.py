"""What a cut edge carries instead of its writer's output: the ``ref`` of the masked computation.

| name              | reference of a writer                                                                       |
|-------------------|---------------------------------------------------------------------------------------------|
| `interchange`     | its output on the corrupt prompt of the pair                                                |
| `zero`            | nothing                                                                                     |
| `mean`            | its mean output over all clean prompts of a loader, one vector                              |
| `mean-positional` | the same for each token position, counted from the first real token                         |

    >>> make_ablation("zero").name
    'zero'

How a circuit scores depends on which: write it beside every number. The two means need one pass
over a loader, `fit`, before they are used; the others ignore it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_circuits.models import CircuitModel
from lightning_circuits.models.base import position_ids

Batch = Mapping[str, Tensor]


def run_pair(model: CircuitModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """The stock model on both prompts of every pair, in one forward.

    Returns:
        the full model's logits on the clean prompts ``[B, V]``, and every writer's output on the corrupt ones
        ``[n_writers, B, T, d]``, freshly allocated: the masked computation may consume it.
    """
    n = len(batch["clean_ids"])
    corrupt = model.new_stack(batch["clean_ids"].shape)
    logits = model.run(
        torch.cat([batch["clean_ids"], batch["corrupt_ids"]]),
        batch["attention_mask"].repeat(2, 1),
        batch["positions"].repeat(2),
        writers=corrupt,
    )
    return logits[:n], corrupt


class Ablation:
    """What a cut edge carries. The base class is interchange ablation."""

    name = "interchange"

    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take what the reference needs from a loader; most need nothing."""

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        """``[n_writers, B, T, d]``, to be consumed; interchange gives ``corrupt`` (see `run_pair`) itself."""
        return corrupt


class ZeroAblation(Ablation):
    name = "zero"

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return torch.zeros_like(corrupt)


class MeanAblation(Ablation):
    """The mean over all real tokens of all prompts, exact whatever the batch size."""

    name = "mean"
    positional = False

    def __init__(self) -> None:
        self.means: Tensor | None = None  # [n_writers, positions, d]; a single position when not positional

    @torch.no_grad()
    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        # float64: sums over a whole data set, exact enough not to depend on the batch size
        sums = torch.zeros(model.layout.n_writers, 0, model.layout.d_model, dtype=torch.float64, device=model.device)
        counts = sums.new_zeros(0)
        for batch in batches:
            batch = {key: value.to(model.device) for key, value in batch.items()}
            ids, mask = batch["clean_ids"], batch["attention_mask"]
            stack = model.new_stack(ids.shape)
            model.run(ids, mask, batch["positions"], writers=stack)
            real = mask.bool()
            slots = (position_ids(mask) if self.positional else torch.zeros_like(ids))[real]
            more = max(0, int(slots.max()) + 1 - len(counts))  # a prompt longer than all before
            sums, counts = F.pad(sums, (0, 0, 0, more)), F.pad(counts, (0, more))
            sums.index_add_(1, slots, stack[:, real].double())
            counts.index_add_(0, slots, counts.new_ones(len(slots)))
        if not len(counts):
            raise ValueError(f"{self.name} ablation: the loader for the means has no batch")
        self.means = (sums / counts[:, None]).to(model.dtype)

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        if self.means is None:
            raise RuntimeError(f"{self.name} ablation needs the means of a data set: call fit(model, loader) first")
        if not self.positional:
            return self.means[:, None].expand_as(corrupt).clone()
        slots = position_ids(batch["attention_mask"])
        if int(slots.max()) >= self.means.shape[1]:
            raise ValueError(
                f"{self.name} ablation: a prompt of {int(slots.max()) + 1} tokens, but the means were taken over "
                f"prompts of at most {self.means.shape[1]}; take them over a loader with prompts as long"
            )
        return self.means[:, slots]


class MeanPositionalAblation(MeanAblation):
    """The mean for every position over the prompts that are long enough to have it."""

    name = "mean-positional"
    positional = True


ABLATIONS: dict[str, type[Ablation]] = {
    cls.name: cls for cls in (Ablation, ZeroAblation, MeanAblation, MeanPositionalAblation)
}


def make_ablation(name: str) -> Ablation:
    """The ablation of this name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ABLATIONS:
        raise ValueError(f"unknown ablation {name!r}; choose one of {', '.join(ABLATIONS)}")
    return ABLATIONS[name]()
