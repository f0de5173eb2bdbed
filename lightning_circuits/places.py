"""Where the tokens of a batch stand while the stack of writers is multiplied with gates: in order, or span by span.

A gate for all tokens multiplies the whole of a batch at once. A gate in a span multiplies the tokens of the span, so
they are kept side by side, those of the first span first: a span is a slice, and a product with all gates one product
a slice. Tokens in no span of the layout (padding, and what is the same in both prompts) have nothing to multiply and
are left out.

    >>> layout = Layout(n_layers=1, n_heads=1, d_model=1).in_spans(["S2", "END"])
    >>> spans = torch.tensor([[-1, 0, 0, 1], [0, -1, 1, 1]])
    >>> places = Places.of_spans(spans, torch.tensor([3, 3]), n_spans=2)
    >>> places.slices
    [slice(0, 3, None), slice(3, 6, None)]
    >>> places.take(torch.arange(8).view(1, 2, 4, 1))[0, :, 0].tolist()
    [1, 2, 4, 3, 6, 7]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.layout import Layout


@dataclass(frozen=True)
class Places:
    """Where the tokens of a batch of B prompts of T tokens stand among the N that are multiplied.

    ``positions``: int64 ``[R]``, where the logits are read: once of every prompt, or of the prompts ``rows``, int64
    ``[R]``. ``slices``: those of each span. ``read``: for each span which of the R are read in it, an int64 vector, and
    where among the N tokens, another or a slice. ``order``: int64 ``[N]``, which of the ``B * T`` tokens stands where;
    None: all of them, in order. ``shape``: ``(B, T)``. ``only_padding``: whether those that are left out are padding,
    to which no other token attends.
    """

    shape: tuple[int, int]
    positions: Tensor
    slices: Sequence[slice]
    read: Sequence[tuple[Tensor, Tensor | slice]]
    order: Tensor | None = None
    rows: Tensor | None = None
    only_padding: bool = False

    @classmethod
    def of(cls, layout: Layout, batch: Batch, live: Tensor | None = None) -> Places:
        """The places of a batch for gates of a layout.

        Args:
            layout: of the gates.
            batch: the prompts, with the spans of their tokens if the layout is in spans.
            live: bool ``[B, T]``, the tokens at which cutting an edge may change something. Of a layout without spans
                the others are left out, and none by default.

        Raises:
            ValueError: the layout is in spans, and the prompts have none, or know none of one of these names; a live
                token in no span of the layout.
        """
        if not layout.spans:
            if live is None or live.all():
                return cls.in_order(batch["positions"], batch["clean_ids"].shape[1])
            return cls.of_spans(live.long() - 1, batch["positions"], n_spans=1)
        names = batch.get("span_names", ())
        if missing := [name for name in layout.spans if name not in names]:
            there = f"have the spans {', '.join(names)}" if names else "have no spans"
            raise ValueError(
                f"edges are told apart in the span {missing[0]}, and the prompts {there}: give data that name the "
                "places of their prompts"
            )
        ids = batch["spans"]
        slots = torch.tensor([*(layout.spans.index(name) if name in layout.spans else -1 for name in names), -1])
        spans = slots.to(ids.device)[ids]
        if live is not None and (outside := live & (spans < 0)).any():
            row, token = outside.nonzero()[0].tolist()
            span = int(ids[row, token])
            raise ValueError(
                f"prompt {row} of the batch differs under this ablation at token {token}, in "
                f"{f'the span {names[span]}' if span >= 0 else 'no span'}, and edges are told apart in the spans "
                f"{', '.join(layout.spans)} alone: search in all spans that differ under the ablation, or judge under "
                "the one that was searched under"
            )
        return cls.of_spans(spans, batch["positions"], layout.n_spans)

    @classmethod
    def in_order(cls, positions: Tensor, n_tokens: int) -> Places:
        """Of gates that hold for all tokens; ``positions`` int64 ``[B]``, prompts of ``n_tokens`` tokens."""
        rows = torch.arange(len(positions), device=positions.device)
        every = slice(0, len(positions) * n_tokens)
        return cls((len(positions), n_tokens), positions, [every], [(rows, rows * n_tokens + positions)])

    @classmethod
    def of_spans(cls, spans: Tensor, positions: Tensor, n_spans: int) -> Places:
        """Of gates in spans.

        Args:
            spans: int64 ``[B, T]``, the span of each token, below 0 for none.
            positions: int64 ``[B]``.
            n_spans: how many there are.
        """
        flat = spans.flatten()
        order = flat.argsort(stable=True)[(flat < 0).sum() :]
        ends = torch.searchsorted(flat[order], torch.arange(n_spans, device=flat.device), right=True).tolist()
        slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        place = torch.empty_like(flat).index_copy_(0, order, torch.arange(len(order), device=flat.device))
        rows = torch.arange(len(positions), device=positions.device)
        span_read, place_read = spans[rows, positions], place.view_as(spans)[rows, positions]
        in_span = [(span_read == span).nonzero()[:, 0] for span in range(n_spans)]
        return cls(
            (len(spans), spans.shape[1]), positions, slices, [(rows, place_read[rows]) for rows in in_span], order
        )

    @classmethod
    def everywhere(cls, attention_mask: Tensor) -> Places:
        """Of gates that hold for all tokens, logits being read at every one of them: not at padding.

        Args:
            attention_mask: ``[B, T]``.
        """
        real = attention_mask.bool()
        rows, positions = real.nonzero(as_tuple=True)
        every = slice(0, len(rows))
        read = torch.arange(len(rows), device=rows.device), every
        order = None if real.all() else real.flatten().nonzero()[:, 0]
        return cls((len(real), real.shape[1]), positions, [every], [read], order, rows, only_padding=True)

    def at_read(self, values: Tensor) -> Tensor:
        """``[B, T, d]`` to ``[R, d]``: where the logits are read."""
        rows = torch.arange(len(self.positions), device=self.positions.device) if self.rows is None else self.rows
        return values[rows, self.positions]

    def tokens(self, span: int) -> Tensor:
        """bool ``[B, T]``: the tokens of a span."""
        inside = torch.zeros(self.shape, dtype=torch.bool, device=self.positions.device)
        part = self.slices[span]
        inside.view(-1)[part if self.order is None else self.order[part]] = True
        return inside

    def take(self, values: Tensor) -> Tensor:
        """``[n, B, T, d]`` to ``[n, N, d]``; a view where all tokens stand in order."""
        flat = values.flatten(1, 2)
        return flat if self.order is None else flat[:, self.order]

    def keep(self, values: Tensor) -> Tensor:
        """As `take`, in the memory of ``values`` ``[n, B, T, d]``, which is overwritten."""
        flat = values.flatten(1, 2)
        if self.order is None:
            return flat
        for each in flat:
            each[: len(self.order)] = each[self.order]
        return flat[:, : len(self.order)]

    def sums(self, values: Tensor) -> Tensor:
        """``[n, N, d]`` to ``[n_spans, n, d]``: the sum over the tokens of each span, in float32 at least."""
        wide = torch.promote_types(values.dtype, torch.float32)
        return torch.stack([values[:, part].sum(1, dtype=wide) for part in self.slices])

    def spread(self, values: Tensor, around: Tensor | None = None) -> Tensor:
        """``[n, N, d]`` back to ``[n, B, T, d]``; at the tokens left out what stands ``around`` ``[n, B, T, d]``, or 0.

        Where all tokens stand in order, a view.
        """
        shape = len(values), *self.shape, values.shape[-1]
        if self.order is None:
            return values.view(shape)
        around = values.new_zeros(shape) if around is None else around
        return around.flatten(1, 2).index_copy(1, self.order, values).view(shape)
