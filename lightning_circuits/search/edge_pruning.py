"""Edge pruning: one learned gate on every edge, trained to keep the model's behaviour with few edges.

A step runs the stock model on both prompts of each pair (full logits, and what cut edges carry), draws gates, runs the
model with gated edges and asks the objective how the answer differs from the full model's. The gradient goes to the
gates alone.

    >>> search = EdgePruning(model="gpt2")                                              # doctest: +SKIP
    >>> trainer = pl.Trainer(max_steps=300)                                             # doctest: +SKIP
    >>> trainer.fit(search, IOIDataModule(tokenizer="gpt2"))                            # doctest: +SKIP
    >>> search.circuit(size=0.01).save("circuit.json")                                  # doctest: +SKIP

After "Finding Transformer Circuits with Edge Pruning" (Bhaskar et al. 2024), whose gate is `HardConcrete`; the default
`TopK` learns one ranking for circuits of every size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_circuits.arguments import hash_of_numbers, require_numbers, require_seed
from lightning_circuits.batch import Batch
from lightning_circuits.gates import GATES, Gate
from lightning_circuits.masked import masked_logits
from lightning_circuits.objectives import losses
from lightning_circuits.search.base import METHODS, CircuitSearch
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution
from lightning_circuits.search.record import adam_faults, count_faults
from lightning_circuits.search.splits import Share, share_of, whole_split
from lightning_circuits.search.warm_start import WarmStart, describe_start, read_warm_start, start_scores


@METHODS.register
class EdgePruning(CircuitSearch):
    """Train a gate on every edge.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        gate: the gates: a `Gate` or its name.
        lr: learning rate of Adam, linearly to zero in the last 60 % of training.
        warm_start: where the gates begin: at the ranks of edge scores ``[n_edges]``, of a `Circuit` or its file, or of
            an attribution method (its model left out) or its name. Default: all alike.
        seed: of where the gates begin, and of their noise.
        options: ``ablation``, ``objective``, ``kv``, ``dtype``, see `CircuitSearch`.

    Raises, beside what `CircuitSearch` does:
        ValueError: a learning rate that is not positive; a warm start of another layout or without finite scores.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        gate: Gate | str = "TopK",
        lr: float = 0.2,
        warm_start: WarmStart | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        require_numbers(lr=lr)
        require_seed(seed)
        if not 0 < lr < float("inf"):
            raise ValueError(f"the learning rate lr must be positive and finite, got {lr}")
        made, start = GATES.make(gate, "gate"), read_warm_start(warm_start)
        super().__init__(model, **options)
        self.lr, self.seed, self.gate = lr, seed, made
        self._share = Share()
        self._starts = [] if start is None else [start]  # in a list a method is no submodule, to be trained and saved
        self.warm_start, self._start_hash = describe_start(start), ""
        self.begin()

    def begin(self) -> None:
        self.gate.start(self.layout.n_edges, self._generator(0))
        if self.spans and not self.layout.spans:
            return  # which they are is known when the run begins
        for start in self._starts:
            if isinstance(start, Attribution):
                start.borrow_model(self.circuit_model, self.model_name)
            else:
                scores = start_scores(start, self.layout)
                self.gate.start_from(scores)
                self._start_hash = hash_of_numbers(scores)

    def edge_scores(self) -> Tensor:
        return self.gate.edge_scores()

    def trained_size(self) -> float | None:
        return self.gate.trained_size()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:  # a resumed run has its gates
            return
        methods = [start for start in self._starts if isinstance(start, Attribution)]
        if self._trained_before and not methods:
            self._resumed = [
                {"step": 0, "changed": {"gates": ["untrained", f"of {self._trained_before} steps before"]}}
            ]
        for method in methods:
            # A loader may draw random numbers just by being iterated.
            with torch.random.fork_rng(devices=[]):
                scores = method.scores_over(lambda: whole_split(self.trainer, "train"))
            scores = self.trainer.strategy.broadcast(scores.abs() if method.absolute else scores)
            self.gate.start_from(start_scores(scores, self.layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, objective and penalty: a scalar."""
        batch = self.circuit_model.receive(batch)
        full_logits, corrupt = self.circuit_model.run_pair(batch)
        progress = self._progress()
        done = self.trainer.fit_loop.total_batch_idx
        # The same gates in all processes: together they make the step that one would make with all their prompts.
        gates = self.gate(self._generator(1 + done), done, progress)
        logits = masked_logits(
            self.circuit_model,
            gates,
            batch["clean_ids"],
            batch["attention_mask"],
            batch["positions"],
            self.ablation.reference(batch, corrupt),
            skip_closed=self.gate.closed_for_good(progress),
            places=self.ablation.places(self.layout, batch),
        )
        loss = losses(self.objective, logits, batch, full_logits)
        objective = self._mean(loss, batch_idx)
        if not objective.isfinite():
            raise FloatingPointError(
                f"the objective is {objective.item()} at step {self.global_step} (batch {batch_idx} of epoch "
                f"{self.current_epoch}); nothing was changed by this batch, and earlier checkpoints are as they were. "
                f"Usual causes: a dtype too narrow for this model ({self.circuit_model.dtype}), or a broken prompt"
            )
        penalty = self.gate.penalty(progress)
        report = {"objective": objective.detach(), **self.gate.report()}
        if penalty is not None:
            report["penalty"] = penalty.detach()
        self.log_dict({f"train/{name}": value for name, value in report.items()}, prog_bar=True, batch_size=len(loss))
        return objective if penalty is None else objective + penalty

    def on_train_start(self) -> None:
        # A run that goes on has the rates of its checkpoint; one that is longer now is to have those of its own plan.
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if isinstance(schedule, LambdaLR):  # as it is, unless a subclass has another
                rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
                for group, base, rule in rates:
                    group["lr"] = base * rule(schedule.last_epoch)
        self._share = share_of(self.trainer.train_dataloader, self.trainer.world_size)

    def _mean(self, loss: Tensor, batch_idx: int) -> Tensor:
        """The mean of the losses ``[B]``, such that its mean over the processes is that over all their prompts.

        What a loader repeats, only to give all processes equally many, does not count.
        """
        size = getattr(self.trainer.train_dataloader, "batch_size", None)
        if self._share.total is None or size is None:
            return loss.mean()
        shares = [replace(self._share, rank=rank) for rank in range(self._share.replicas)]
        new = [share.new_rows(batch_idx * size, len(loss)) for share in shares]
        return loss[: new[self._share.rank]].sum() * len(new) / sum(new)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.gate.after_step(self._progress(1))  # here: callbacks at the end of a batch may write a checkpoint

    def configure_optimizers(self) -> Any:
        total = self.planned_steps()
        optimizer = torch.optim.Adam(self.gate.parameter_groups(), lr=self.lr, weight_decay=0.0)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, max(total - step, 1) / (0.6 * total)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _progress(self, ahead: int = 0) -> float:
        """How far training is, from 0 to 1, or will be some steps ahead."""
        return (self.global_step + ahead) / self.trainer.estimated_stepping_batches

    def _record(self) -> dict[str, Any]:
        record = super()._record()
        if self._start_hash:  # the same scores are the same wherever they lie
            record["search"]["warm_start"] = {"kind": "scores", "hash": self._start_hash}
        return record

    def _faults(self, checkpoint: dict[str, Any]) -> list[str]:
        faults = super()._faults(checkpoint)
        faults += (
            fault for name in self.gate.counts for fault in count_faults(checkpoint["state_dict"], f"gate.{name}")
        )
        if self._fitting() and not faults:
            groups = [list(group["params"]) for group in self.gate.parameter_groups()]
            faults = adam_faults(checkpoint["optimizer_states"], groups, begun=checkpoint["global_step"] > 0)
            if len(checkpoint["lr_schedulers"]) != 1:
                faults.append("its lr_schedulers are not those of one optimizer")
        return faults

    def _generator(self, draw: int) -> torch.Generator:
        """Random numbers that depend on the seed and the draw alone: a resumed run and every process draw the same."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + draw) * 4_099)
