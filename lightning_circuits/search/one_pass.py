"""What every attribution method has in common: one pass over the training prompts, and exact sums.

Attribution learns nothing. Each prompt says once what every edge is worth to it, and an edge's score is the mean over
the prompts. A method says how, for one batch (`Attribution.attribute`); here is what makes the pass a Lightning run
like any other, with the same data, callbacks, checkpoints and processes as `EdgePruning`:

    >>> search = EAP(model="gpt2")                                                      # doctest: +SKIP
    >>> pl.Trainer().fit(search, IOIDataModule(tokenizer="gpt2"))                       # doctest: +SKIP
    >>> search.circuit(size=0.01).save("circuit.json")                                  # doctest: +SKIP

Sums are kept in float64 together with the number of prompts in them. So scores do not depend on how prompts fall into
batches, on padding, on the number of processes, or on a kill and a resume in the middle of the pass. A prompt that a
loader repeats only to give all processes equally many is counted once.

For Lightning, a step is what an optimizer does: checkpoints every so many steps, and the callbacks here, go by it. So
the sums are parameters, a batch's contribution is their gradient, and the optimizer adds it up.

A method of one's own:

    class GradientNorm(Attribution):
        def attribute(self, batch):
            scores = gradient_scores(self.circuit_model, batch, self.ablation, self.objective)
            return scores.edges.abs(), None
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_circuits.arguments import require_flags
from lightning_circuits.batch import Batch, first_prompts, n_prompts
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import AnyObjective
from lightning_circuits.progress import length_of, tracked
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.record import count_faults
from lightning_circuits.search.splits import Share, first_batch, share_of
from lightning_circuits.search.without_training import WithoutTraining


class Attribution(WithoutTraining):
    """One pass over the training prompts; subclasses say `attribute`.

    `Trainer.fit` ends by itself after the pass, whatever its ``max_steps`` and ``max_epochs``; to take fewer prompts
    there is ``limit_train_batches``.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model. Left out only where another one is
            lent (`CircuitSearch.borrow_model`).
        objective: the loss that scores are about: an `Objective`, its name, or a function ``(logits, batch,
            full_logits) -> loss [B]``.
        absolute: rank edges by |score|: what works against the behaviour is part of its mechanism too.
        options: ``ablation``, ``kv``, ``dtype``, ``attention``, see `CircuitSearch`.

    Raises, beside what `CircuitSearch` does:
        ValueError: when fitted: no model; a Trainer in mixed precision; a loader of unknown length and several
            processes; a resume in the middle of the pass with a loader that cannot go on where it was; an objective
            that does not give one loss per prompt, or has no gradient at any place where the method takes one.
        FloatingPointError: when fitted: a score of a batch is not finite. The batch has not been counted.
    """

    def __init__(
        self,
        model: LanguageModel | None = None,
        *,
        objective: AnyObjective = "LogitDifference",
        absolute: bool = True,
        **options: Any,
    ) -> None:
        require_flags(absolute=absolute)
        super().__init__(model, objective=objective, **options)
        self.absolute = absolute
        self.automatic_optimization = False
        self._share = Share()
        self._loader_goes_on = False
        if model is not None:
            self.begin()

    may_borrow = True
    scores_are: Literal["effects", "ranks"] = "effects"
    edge_sums: nn.Parameter
    writer_sums: nn.Parameter
    examples: nn.Parameter
    rows: Tensor

    # ---- what a method says ------------------------------------------------------------------------------------

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Scores of the edges ``[n_edges]`` and of the writers ``[n_writers]`` (or None), summed over a batch."""
        raise NotImplementedError(f"{type(self).__name__} does not say attribute(batch)")

    # ---- scores ------------------------------------------------------------------------------------------------

    def edge_scores(self) -> Tensor:
        """float32 ``[n_edges]``: the mean over the prompts seen so far.

        Raises:
            RuntimeError: no prompt has been seen.
        """
        if not self.examples:
            raise RuntimeError(f"{type(self).__name__} has no scores yet: fit it first, with Trainer.fit")
        return (self.edge_sums / self.examples).detach().float()

    def node_scores(self) -> Tensor | None:
        if not self.examples or not self.writer_sums.any():
            return None
        return (self.writer_sums / self.examples).detach().float()

    def scores_over(self, batches: Callable[[], Iterable[Batch]], trainer: pl.Trainer | None = None) -> Tensor:
        """Edge scores without being fitted, float32 ``[n_edges]``.

        Args:
            batches: begins a pass over the prompts, all of them, on every process.
            trainer: of processes that share the batches, each taking other ones. All get the same scores. Default:
                every process sees all batches.

        Raises:
            ValueError: there are none.
        """
        self._forget()
        self._renew()
        self.ablation.fit(self.circuit_model, batches())
        every = batches()
        rank, shares = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        mine = tracked(islice(every, rank, None, shares), type(self).__name__, length_of(every, shares))
        for index, batch in enumerate(mine):
            for sums, more in zip(self._sums(), self._contribution(batch, index), strict=True):
                sums.data += more
        if trainer is not None:
            for sums in self._sums():
                sums.data = trainer.strategy.reduce(sums.data, reduce_op="sum")
        self._renew()
        if not self.examples:
            raise ValueError(f"there are no prompts for {type(self).__name__} to score edges on: they gave no batch")
        return self.edge_scores()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "examples": int(self.examples)}

    # ---- the sums ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=torch.float64, device=self.circuit_model.device))

        self.edge_sums, self.writer_sums = zeros(self.layout.n_edges), zeros(self.layout.n_writers)
        self.examples = zeros()
        # How many rows of the loader all processes together have seen, repeated ones included: a resumed run may have
        # another number of processes.
        self.register_buffer("rows", torch.zeros((), dtype=torch.int64))
        self._renew()

    def _renew(self) -> None:
        """Let go of what is kept for one pass, before it and after it; a method that keeps something says what."""

    def _sums(self) -> list[nn.Parameter]:
        return [self.edge_sums, self.writer_sums, self.examples]

    def _forget(self) -> None:
        for sums in (*self._sums(), self.rows):
            sums.data.zero_()

    def _contribution(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """What a batch adds to each of the sums, all processes together, in float64.

        Raises:
            FloatingPointError: it is not finite. All processes raise it.
        """
        batch = self.circuit_model.receive(batch)
        more = [torch.zeros_like(sums, requires_grad=False) for sums in self._sums()]
        rows = n_prompts(batch)
        new = self._share.new_rows(int(self.rows) // self._share.replicas, rows)
        # With nothing new a prompt is run for nothing: other processes may be waiting for weights (`models.sharding`).
        edges, writers = self.attribute(first_prompts(batch, max(new, 1)))
        if edges.shape != self.edge_sums.shape:
            self.layout.check(edges)  # which says what is wrong with them
        if new:
            more[0] += edges.detach()
            if writers is not None:
                more[1] += writers.detach()
            more[2] += new
        self.rows += rows * self._share.replicas
        if self._trainer is not None:
            more = [self.trainer.strategy.reduce(each, reduce_op="sum") for each in more]
        layout = self.layout
        for values, name_of in (
            (more[0], lambda edge: layout.edge_names([edge])[0]),
            (more[1], lambda writer: layout.writer_names[writer]),
        ):
            if not values.isfinite().all():
                place = (~values.isfinite()).nonzero()[0].tolist()
                raise FloatingPointError(
                    f"the score of {name_of(place[-1])} is {values[tuple(place)].item()} in batch {batch_idx}; the "
                    "batch was not counted. Usual causes: a dtype too narrow for this model "
                    f"({self.circuit_model.dtype}), an objective that is not finite, a broken prompt, or an integral "
                    "that begins at nothing, as EAP-IG's under zero ablation, where norms make gradients overflow: "
                    "rule='midpoint' leaves that point out"
                )
        return more

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self._sums(), lr=1.0, maximize=True)  # sums += contribution

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # Lightning hands it to the loader; without one, even a loader that could go on begins anew.
        loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._loader_goes_on = bool(loop.get("combined_loader"))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._renew()
        if self.trainer.ckpt_path is None:
            self._forget()
        if (batch := first_batch(self.trainer)) is not None:
            # What cannot be attributed, such as an objective without a gradient, is refused before a run has begun.
            self.attribute(first_prompts(self.circuit_model.receive(batch), 1))

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        self._share = share_of(loader, self.trainer.world_size)
        if self.rows and not self._loader_goes_on:
            raise ValueError(
                f"the checkpoint is from the middle of the pass and does not say how far its loader was, so that the "
                f"{type(loader).__name__} begins anew and prompts would be counted twice: start again, to be able to "
                "resume with a loader that has state_dict() and load_state_dict() (those of "
                "lightning_circuits.datamodules have them)"
            )

    def on_train_end(self) -> None:
        super().on_train_end()
        self._renew()

    def _faults(self, checkpoint: dict[str, Any]) -> list[str]:
        state, least = checkpoint.get("state_dict"), 1 if checkpoint.get("global_step") else 0
        return [*super()._faults(checkpoint), *count_faults(state, "examples", least), *count_faults(state, "rows")]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        for sums, more in zip(self._sums(), self._contribution(batch, batch_idx), strict=True):
            sums.grad = more
        optimizer.step()
        optimizer.zero_grad()
        self.log("train/examples", self.examples.detach(), prog_bar=True, batch_size=1)
