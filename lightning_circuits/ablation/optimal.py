"""Optimal ablation: a cut edge carries the constant that costs the circuit at hand least.

Zero and means do harm of their own: a reader is given what it never sees. A constant c_w for each writer, chosen so
that the loss is as small as it can be with these edges cut, takes from the readers what the writer tells of the prompt,
and nothing else (Li and Janson 2024, "Optimal ablation for interpretability"):

    loss(C) = min over c of  mean over prompts of  objective(the circuit C, its cut edges carrying c)

So constants belong to a circuit. `OptimalAblation.fit` takes the means of writers over a loader, and keeps its prompts;
`OptimalAblation.of_circuit` trains constants for one circuit by Adam, from the means on, and gives the ablation that
knows them. Whoever judges several circuits does so for each, for random circuits, complements and the empty one too:

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty))

then has circuits in it that were treated alike, the empty one at the best that the same answer to every prompt can be.
That is another reference than under means, so an f is never to be compared with that of another ablation; the loss is,
which is what the paper compares. The full model has no cut edge, and constants change nothing in it.

    >>> ablation = OptimalAblation(steps=50)
    >>> ablation.fit(model, data.train_dataloader())                                                   # doctest: +SKIP
    >>> ablation.of_circuit(model, circuit.members).values.shape                                       # doctest: +SKIP
    torch.Size([301, 1, 576])

Constants that are fitted to prompts have to be judged on others. `search.EdgePruning` learns them beside its gates;
what it finds is fitted anew when it is judged, circuit by circuit, so that a file holds edges and no constants.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from copy import copy
from typing import cast

import torch
from torch import Tensor

from lightning_circuits.ablation.base import ABLATIONS, Ablation
from lightning_circuits.ablation.mean import MeanAblation
from lightning_circuits.arguments import require_numbers, require_whole_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.blocks import blocks_for
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import OBJECTIVES, AnyObjective, losses
from lightning_circuits.places import Places
from lightning_circuits.progress import tracked


@ABLATIONS.register
class OptimalAblation(Ablation):
    """Constants that are trained for every circuit, for each writer one, in a layout with spans one for each span.

    Nothing is drawn at random: the same prompts in the same order give the same constants.

    Args:
        steps: of Adam, a batch each. Of the prompts that `fit` is given, so many batches are trained on; more steps go
            through them again.
        lr: its learning rate in the first step; it falls linearly to zero. In units of the stream.
        objective: what is minimised.

    Raises:
        ValueError: no step, or a learning rate that is not positive; an unknown objective.
        TypeError: numbers that are none.
    """

    name = "optimal"
    needs_data = True
    of_each_circuit = True
    has_constants = True

    def __init__(self, steps: int = 50, lr: float = 0.1, objective: AnyObjective = "KL") -> None:
        require_whole_numbers(steps=steps)
        require_numbers(lr=lr)
        if steps < 1:
            raise ValueError(f"steps of optimal ablation are at least 1, got {steps}")
        if not 0 < lr < float("inf"):
            raise ValueError(f"the learning rate lr of optimal ablation must be positive and finite, got {lr}")
        self.steps, self.lr = steps, lr
        self.objective = OBJECTIVES.make(objective, "objective")
        self.layout: Layout | None = None
        self.values: Tensor | None = None  # [n_writers, n_spans, d]
        self.members: Tensor | None = None  # [n_edges], of the circuit that they are of
        self._mean = MeanAblation()
        self._batches: list[Batch] = []

    def fit(self, model: CircuitModel, batches: Iterable[Batch]) -> None:
        """Take the means over a loader, where constants begin, and keep the prompts that they are trained on.

        Raises:
            ValueError: no batch.
        """
        self.layout, self.values, self.members, self._batches = None, None, None, []
        self._mean.fit(model, self._noted(batches))
        self.layout, self.fitted_over = model.layout.plain, self._mean.fitted_over

    def _noted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if len(self._batches) < self.steps:
                self._batches.append(_kept(batch))
            yield batch

    def require_known(self, fitted: Iterable[Batch], judged: Iterable[Batch]) -> None:
        """See that not all prompts that are judged on are among those that constants are fitted to.

        Raises:
            ValueError: they are.
        """
        seen = {prompt for batch in fitted for prompt in _prompts(batch)}
        there = [prompt for batch in judged for prompt in _prompts(batch)]
        if there and all(prompt in seen for prompt in there):
            raise ValueError(
                f"{self.name} ablation: all {len(there)} prompts to judge on are among the {len(seen)} that the "
                "constants are fitted to, where they are better than they are: judge on others"
            )

    def start(self, layout: Layout) -> Tensor:
        """float32 ``[n_writers, n_spans, d]``: where constants begin, the mean of each writer over all tokens.

        Args:
            layout: of the model that they were fitted over, in spans or not.

        Raises:
            RuntimeError: `fit` has seen no prompts.
            ValueError: another layout.
        """
        if self._mean.means is None or self.layout is None:
            raise RuntimeError(f"{self.name} ablation needs prompts to fit constants to: call fit(model, loader) first")
        self.layout.plain.require(
            layout.plain, f"a circuit under {self.name} ablation, fitted over a model of another one,"
        )
        return self._mean.means.float().repeat(1, layout.n_spans, 1)

    def holding(self, layout: Layout, values: Tensor, members: Tensor | None = None) -> OptimalAblation:
        """The ablation with constants that are there.

        Args:
            layout: of the circuit, or of gates.
            values: float32 ``[n_writers, n_spans, d]``; a gradient flows to them if they ask for it.
            members: bool ``[n_edges]``, the edges of the circuit that they are of; None: there is none yet.
        """
        mine = copy(self)
        mine.layout, mine.values, mine.members = layout, values, members
        return mine

    def of_circuit(self, model: CircuitModel, members: Tensor) -> OptimalAblation:
        """The ablation with the constants of one circuit, fitted now: `steps` forwards and backwards.

        They are never worse, over the prompts that they are fitted to, than the means they begin at: where training
        makes them so, the means stay, with a warning.

        Args:
            model: the frozen model, of which `fit` has seen prompts.
            members: bool ``[n_edges]``, the edges of the circuit.

        Raises:
            RuntimeError: `fit` has seen no prompts.
            ValueError: members of another layout, or of a model of another one.
        """
        model.layout.check(members)
        if self._is_of(members):
            return self
        values = self.start(model.layout)
        if not members.all():
            values = self._fitted(model, members, values)
        return self.holding(model.layout, values, members)

    @torch.inference_mode(False)  # in which a Trainer that only judges is
    @torch.enable_grad()
    def _fitted(self, model: CircuitModel, members: Tensor, start: Tensor) -> Tensor:
        values = start.clone().requires_grad_()
        prompts = _Prompts(model, self._batches, self.holding(model.layout, values, members))
        before = prompts.mean_loss()
        adam = torch.optim.Adam([values], self.lr)
        for step in tracked(range(self.steps), "Fitting constants"):
            adam.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            adam.zero_grad()
            prompts.losses(step % len(self._batches)).mean().backward()
            adam.step()
        after = prompts.mean_loss()
        if after < before:
            return values.detach()
        if after > before or not torch.isfinite(after):
            warnings.warn(
                f"{self.name} ablation: {self.steps} steps with lr={self.lr:g} made the constants of a circuit of "
                f"{int(members.sum()):,} edges worse, {float(before):.4g} to {float(after):.4g}: it is judged with the "
                "means; take a smaller learning rate",
                stacklevel=4,
            )
        return start

    # ---- with the constants of a circuit -------------------------------------------------------------------------

    @property
    def learned(self) -> Tensor | None:  # type: ignore[override]  # here it depends
        """float32 ``[n_writers, n_spans, d]``: the constants, if a gradient is to flow to them."""
        return self.values if self.values is not None and self.values.requires_grad else None

    def _is_of(self, members: Tensor) -> bool:
        mine = self.members
        return mine is not None and len(mine) == len(members) and torch.equal(mine, members.to(mine.device))

    def require_circuit(self, members: Tensor) -> None:
        """See that the constants are those of a circuit of the edges ``members``, bool ``[n_edges]``.

        Raises:
            ValueError: they were fitted to another one.
        """
        if self.members is not None and not self._is_of(members):
            raise ValueError(
                f"the constants of {self.name} ablation were fitted to a circuit of {int(self.members.sum()):,} edges, "
                f"and another one of {int(members.sum()):,} is to be judged: fit it, of_circuit(model, members)"
            )

    def constants(self, layout: Layout) -> Tensor:
        return self._held()[1].detach()

    def reference(self, batch: Batch, corrupt: Tensor) -> Tensor:
        return self.at_tokens(self.places(self._held()[0], batch), corrupt.dtype)

    def _held(self) -> tuple[Layout, Tensor]:
        """The layout of the circuit, or of gates, and its constants ``[n_writers, n_spans, d]``."""
        if self.layout is None or self.values is None:
            raise RuntimeError(
                f"{self.name} ablation has constants for every circuit: fit it, then give of_circuit(model, members), "
                "the ablation as that circuit is judged under it"
            )
        return self.layout, self.values

    def at_tokens(self, places: Places, dtype: torch.dtype) -> Tensor:
        """What stands in for every writer, ``[n_writers, B, T, d]``, on prompts whose tokens have these places."""
        assert self.values is not None
        values = self.values.detach().to(dtype)
        reference = values[:, :1, None].repeat(1, *places.shape, 1)
        for span in range(1, values.shape[1]):
            reference[:, places.tokens(span)] = values[:, span, None]
        return reference


class _Prompts:
    """What a circuit loses on some batches, as its constants change."""

    def __init__(self, model: CircuitModel, batches: list[Batch], ablation: OptimalAblation) -> None:
        assert ablation.members is not None
        self.model, self.batches, self.ablation = model, batches, ablation
        self.closed = ~ablation.members.to(model.device)
        self.gates = (~self.closed).float()
        self.blocks = blocks_for(model.layout, self.gates, self.closed)

    def losses(self, number: int) -> Tensor:
        """``[n_prompts]``: of the prompts of a batch."""
        model, batch = self.model, self.model.receive(self.batches[number])
        prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        full_logits, places = model.run(*prompts), self.ablation.places(model.layout, batch)
        reference = self.ablation.at_tokens(places, model.dtype)
        logits = masked_logits(
            model, self.gates, *prompts, reference, self.closed, places, self.blocks, self.ablation.learned
        )
        return losses(self.ablation.objective, logits, batch, full_logits)

    @torch.no_grad()
    def mean_loss(self) -> Tensor:
        """A scalar: the mean over all prompts."""
        return torch.cat([self.losses(number) for number in range(len(self.batches))]).double().mean()


def _kept(batch: Batch) -> Batch:
    """A batch that autograd may go by, in whatever mode it was loaded."""
    with torch.inference_mode(False):
        tensors = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    return cast(Batch, {**batch, **tensors})


def _prompts(batch: Batch) -> Iterator[tuple[int, ...]]:
    """The tokens of each clean prompt, without padding."""
    for ids, mask in zip(batch["clean_ids"], batch["attention_mask"].bool(), strict=True):
        yield tuple(ids[mask].tolist())
