"""Ablation by means: a cut edge carries the mean of what its writer puts out, over tokens that are alike."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_circuits.ablation.base import ABLATIONS, Ablation, Side
from lightning_circuits.arguments import require_choice, shortened
from lightning_circuits.batch import Batch, PromptSource, n_prompts, on_device, own_tokens
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.context import position_ids
from lightning_circuits.pages import see_page
from lightning_circuits.progress import tracked


@ABLATIONS.register
class MeanAblation(Ablation):
    """The mean over all real tokens of all prompts, exact whatever the batch size.

    Args:
        prompts: of each pair, the ``clean`` or the ``corrupt`` one.
        data: what has the prompts, of which those to train on are taken. Default: what `fit` is given; in a run, that
            is what is trained on.

    Raises:
        ValueError: prompts of another kind.
        TypeError: data that are no data module.
    """

    name = "mean"
    has_constants = True

    def __init__(self, prompts: Side = "clean", data: PromptSource | None = None) -> None:
        require_choice("prompts", prompts, Side)
        if data is not None and not isinstance(data, PromptSource):
            raise TypeError(f"data takes a data module, such as IOIDataModule(...), got {shortened(data)}")
        self.prompts, self.data = prompts, data
        self.needs_data = data is None
        self.means: Tensor | None = None  # [n_writers, n_slots, d]
        self.forget()

    # ---- which tokens share a mean -----------------------------------------------------------------------------

    def forget(self) -> None:
        """Know no prompt."""
        self.n_slots = 0

    def meet(self, batch: Batch) -> None:
        """Have a slot for every token of some prompts that a mean is taken over."""
        self.n_slots = 1

    def slots(self, batch: Batch) -> Tensor:
        """int64 ``[B, T]``: which tokens share a mean, counted from 0. Here, all.

        Raises:
            ValueError: a token for which there is no mean.
        """
        return torch.zeros_like(batch["clean_ids"])

    def require_known(self, fitted: Iterable[Batch], judged: Iterable[Batch]) -> None:
        known = copy(self)
        known.forget()
        for batch in self._taken(fitted):
            known.meet(batch)
        for batch in judged:
            known.slots(batch)

    # ---- means -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take the means over a loader, unless it has data of its own; those of an earlier loader are forgotten.

        What is held is as large as the means, in float64, and as the outputs for one batch, however many there are.

        Raises:
            ValueError: no batch; prompts of its own data that the model cannot read.
        """
        if self.data is not None:
            self.data.require_fit(model)
        self.means = None
        self.forget()
        # float64: sums over a whole data set, exact enough not to depend on the batch size
        sums = torch.zeros(model.layout.n_writers, 0, model.layout.d_model, dtype=torch.float64, device=model.device)
        counts, prompts = sums.new_zeros(0), 0
        for batch in tracked(self._taken(batches), "Taking means"):
            batch = on_device(batch, model.device)
            ids = batch["clean_ids"] if self.prompts == "clean" else batch["corrupt_ids"]
            stack = model.new_stack(ids.shape)
            model.run(ids, batch["attention_mask"], batch["positions"], writers=stack)
            real = own_tokens(batch)
            self.meet(batch)
            more = self.n_slots - len(counts)  # such as those of a prompt longer than all before
            sums, counts = F.pad(sums, (0, 0, 0, more)), F.pad(counts, (0, more))
            slots = self.slots(batch)[real]
            sums.index_add_(1, slots, stack[:, real].double())
            counts.index_add_(0, slots, counts.new_ones(len(slots)))
            prompts += n_prompts(batch)
        if not prompts:
            raise ValueError(f"{self.name} ablation: the loader for the means has no batch")
        self.means = (sums / counts[:, None]).to(model.dtype)
        self.fitted_over = prompts

    def _taken(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        return batches if self.data is None else self.data.train_dataloader()

    def constants(self, layout: Layout) -> Tensor:
        return self._taken_means()

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return self._taken_means()[:, self.slots(batch)]

    def _taken_means(self) -> Tensor:
        """``[n_writers, n_slots, d]``."""
        if self.means is None:
            raise RuntimeError(f"{self.name} ablation needs the means of a data set: call fit(model, loader) first")
        return self.means


@ABLATIONS.register
class MeanPositionalAblation(MeanAblation):
    """The mean for every position over the prompts that are long enough to have it.

    Arguments are those of `MeanAblation`.
    """

    name = "mean-positional"

    def meet(self, batch: Batch) -> None:
        self.n_slots = max(self.n_slots, int(batch["attention_mask"].sum(-1).max()))

    def slots(self, batch: Batch) -> Tensor:
        if (tokens := int(batch["attention_mask"].sum(-1).max())) > self.n_slots:
            raise ValueError(
                f"{self.name} ablation: a prompt of {tokens} tokens, but the means were taken over "
                f"prompts of at most {self.n_slots}; take them over a loader with prompts as long"
            )
        return position_ids(batch["attention_mask"])


@ABLATIONS.register
class GroupMeanAblation(MeanAblation):
    """The mean for every position of every group of prompts (see `batch.Groups`), such as those of one template.

    A position is counted from the first real token. Within a group, a mean is over the prompts that are long enough to
    have it, as for `MeanPositionalAblation`: where a word is one token in some prompts of a template and two in others,
    the tokens behind it are not the same in all of them. Arguments are those of `MeanAblation`; data of its own need
    the same groups, as ``IOIDataModule`` has under every corruption.

    Source: Wang et al. 2022, "Interpretability in the Wild", with prompts of three unrelated names (``abc``).
    """

    name = "mean-group"
    has_constants = False

    def forget(self) -> None:
        super().forget()
        self.names: dict[str, int] = {}
        self.table = torch.full((0, 0), -1)  # [n_groups, longest]: the slot of each position

    def meet(self, batch: Batch) -> None:
        groups, lengths = self._groups(batch), batch["attention_mask"].sum(-1)
        for number, name in enumerate(batch["group_names"]):
            of_it = lengths[groups == number]
            if not len(of_it):
                continue
            row, tokens = self.names.setdefault(name, len(self.names)), int(of_it.max())
            rows, columns = self.table.shape
            grown = (0, max(0, tokens - columns), 0, len(self.names) - rows)
            self.table = F.pad(self.table.to(groups.device), grown, value=-1)
            known = int((self.table[row] >= 0).sum())
            if tokens > known:
                self.table[row, known:tokens] = torch.arange(tokens - known, device=groups.device) + self.n_slots
                self.n_slots += tokens - known

    def slots(self, batch: Batch) -> Tensor:
        groups, positions = self._groups(batch), position_ids(batch["attention_mask"])
        rows = torch.tensor([self.names.get(name, -1) for name in batch["group_names"]], device=groups.device)[groups]
        if (unknown := rows < 0).any():
            name = shortened(batch["group_names"][int(groups[unknown][0])], 80)
            raise ValueError(
                f"{self.name} ablation: no prompt that the means were taken over is of the group {name}; "
                f"there were {len(self.names)} other groups: take them over more prompts"
            )
        table = self.table.to(groups.device)
        lengths, known = batch["attention_mask"].sum(-1), (table >= 0).sum(-1)[rows]
        if (longer := lengths > known).any():
            row = int(longer.nonzero()[0])
            name = shortened(batch["group_names"][int(groups[row])], 80)
            raise ValueError(
                f"{self.name} ablation: a prompt of {int(lengths[row])} tokens in the group {name}, of which "
                f"the means were taken over prompts of at most {int(known[row])}; take them over prompts as long"
            )
        return table[rows[:, None], positions]

    def _groups(self, batch: Batch) -> Tensor:
        """int64 ``[B]``, of which group each prompt is."""
        groups = batch.get("groups") if "group_names" in batch else None
        if groups is None or (groups < 0).any():
            raise ValueError(
                f"{self.name} ablation: {'the' if groups is None else 'some'} prompts are of no group: give data whose "
                f"pairs say which are made alike {see_page('own-task', 'As a file')}"
            )
        return groups


@ABLATIONS.register
class MeanSpanAblation(MeanAblation):
    """The mean for every named span of the prompts, so that prompts of different lengths line up.

    Each token of a span counts once. Prompts have to name their places (see `batch.Spans`). Arguments are those of
    `MeanAblation`.
    """

    name = "mean-span"
    has_constants = False

    def forget(self) -> None:
        super().forget()
        self.names: list[str] = []

    def meet(self, batch: Batch) -> None:
        names, ids = batch.get("span_names", ()), self._spans(batch)
        there = {names[i] for i in ids.unique().tolist() if i >= 0}
        self.names += [name for name in names if name in there and name not in self.names]
        self.n_slots = len(self.names)

    def slots(self, batch: Batch) -> Tensor:
        names, ids = batch.get("span_names", ()), self._spans(batch)
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

    def _spans(self, batch: Batch) -> Tensor:
        """int64 ``[B, T]``, in which span each token stands."""
        if (ids := batch.get("spans")) is None:
            raise ValueError(f"{self.name} ablation: the prompts have no spans: give data that name their places")
        return ids
