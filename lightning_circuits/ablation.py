"""What a cut edge carries instead of its writer's output: the ``ref`` of the masked computation.

| name              | reference of a writer                                                                       |
|-------------------|---------------------------------------------------------------------------------------------|
| `interchange`     | its output on the corrupt prompt of the pair                                                |
| `zero`            | nothing                                                                                     |
| `mean`            | its mean output over all prompts of a loader, one vector                                    |
| `mean-positional` | the same for each token position, counted from the first real token                         |
| `mean-group`      | the same for each position of each group of prompts, such as those of one template          |
| `mean-span`       | the same for each named span of the prompts                                                 |

    >>> ABLATIONS.make("zero").name
    'zero'

How a circuit scores depends on which: write it beside every number. The means need one pass over a loader, `fit`,
before they are used; the others ignore it. In a run they are taken over the clean prompts that are trained on, or over
those of data of their own, as over prompts of three unrelated names (Wang et al. 2022):

    GroupMeanAblation("corrupt", data=IOIDataModule("gpt2", corruption="abc"))

An ablation of one's own is a subclass of `Ablation` that says `reference`; registered, configs know it by its name:

    @ABLATIONS.register
    class NoiseAblation(Ablation):
        name = "noise"

        def reference(self, batch, corrupt):
            return corrupt + 0.1 * torch.randn_like(corrupt)
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_circuits.arguments import called, options_of, require_choice, shortened
from lightning_circuits.batch import Batch, PromptSource, n_prompts, on_device, over_prompts, own_tokens
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.context import position_ids
from lightning_circuits.pages import see_page
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

    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take what the reference needs from a loader; most need nothing."""

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

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        """What stands in for every writer, ``[n_writers, B, T, d]``, to be consumed by the masked computation.

        Args:
            batch: the prompts.
            corrupt: the writers' outputs on the corrupt prompts, of the same shape and dtype (see
                `CircuitModel.run_pair`); it may be changed, and given back.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say reference(batch, corrupt)")


ABLATIONS = Registry("ablation", Ablation)
AblationName = Literal["interchange", "zero", "mean", "mean-positional", "mean-group", "mean-span"]
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
        for batch in self._taken(batches):
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

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        if self.means is None:
            raise RuntimeError(f"{self.name} ablation needs the means of a data set: call fit(model, loader) first")
        return self.means[:, self.slots(batch)]


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
