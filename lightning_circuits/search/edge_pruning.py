"""Edge pruning: one learned gate on every edge, trained to keep the model's behaviour with few edges.

A step runs the stock model on both prompts of each pair (full logits, and what cut edges carry), draws gates, runs the
model with gated edges and asks the objective how the answer differs from the full model's. The gradient goes to the
gates alone. The learning rate falls linearly to zero in the last 60 % of training. Gates begin at the ranks of
an ensemble of EAP and EAP-IG. In the end the best edges stand as learned, the rest as at the start (`search.splice`).

    >>> search = EdgePruning(model="gpt2")                                              # doctest: +SKIP
    >>> trainer = pl.Trainer(max_steps=300)                                             # doctest: +SKIP
    >>> trainer.fit(search, IOIDataModule(tokenizer="gpt2"))                            # doctest: +SKIP
    >>> search.circuit(size=0.01).save("circuit.json")                                  # doctest: +SKIP

After "Finding Transformer Circuits with Edge Pruning" (Bhaskar et al. 2024), whose gate is `HardConcrete`; the default
`TopK` learns one ranking for circuits of every size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import hash_of_numbers, require_choice, require_numbers, require_seed
from lightning_circuits.batch import Batch, n_prompts, with_prompts
from lightning_circuits.captured import worth_capturing
from lightning_circuits.gates import GATES, Gate
from lightning_circuits.memory import MemoryPlan, out_of_memory_explained
from lightning_circuits.namespace import pl
from lightning_circuits.search.bars import bars_of
from lightning_circuits.search.base import METHODS, CircuitSearch
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.gated_loss import CapturedLosses, gated_losses
from lightning_circuits.search.learned_constants import LearnedConstants
from lightning_circuits.search.one_pass import Attribution
from lightning_circuits.search.random_numbers import drawing_nothing, undisturbed
from lightning_circuits.search.record import adam_faults, count_faults
from lightning_circuits.search.splice import spliced, where_learning_pays
from lightning_circuits.search.splits import Share, share_of, whole_split
from lightning_circuits.search.warm_start import WarmStart, describe_start, read_warm_start, start_scores
from lightning_circuits.tape import free_memory

Capture = Literal["auto", "never"]

START_PROMPTS = 160
"""On how many of the training prompts an attribution finds where gates begin, as in `benchmarks/ioi_smollm2.py`.
Whether more would make a better start is not measured."""


@METHODS.register
class EdgePruning(CircuitSearch):
    """Train a gate on every edge.

    Gates begin at the ranks of scores ``[n_edges]``, of a circuit or its file, or of an attribution or its name, which
    is then made on training prompts; or all alike, from None.

    Args:
        model: id, folder, file, or a model. Left out only for a `CircuitProbe`, which lends the one that is trained.
        gate: a `Gate` or its name.
        lr: learning rate of Adam.
        warm_start: where gates begin.
        seed: of the gates' start and noise.
        capture: ``auto``: small steps on a GPU as CUDA graphs.
        options: ``ablation``, ``objective``, ``kv``, ``dtype``, ``attention``, see `CircuitSearch`. Under ``optimal``
            ablation, constants are learned beside the gates (`search.learned_constants`), and steps are not captured.

    Raises, beside what `CircuitSearch` does:
        ValueError: a learning rate that is not positive; a warm start of another layout or without finite scores.
    """

    def __init__(
        self,
        model: LanguageModel | None = None,
        *,
        gate: Gate | str = "TopK",
        lr: float = 0.2,
        warm_start: WarmStart | None = "Ensemble",
        seed: int = 0,
        capture: Capture = "auto",
        **options: Any,
    ) -> None:
        require_numbers(lr=lr)
        require_choice("capture", capture, Capture)
        require_seed(seed)
        if not 0 < lr < float("inf"):
            raise ValueError(f"the learning rate lr must be positive and finite, got {lr}")
        made, start = GATES.make(gate, "gate"), read_warm_start(warm_start)
        super().__init__(model, **options)
        self.lr, self.seed, self.gate, self.capture = lr, seed, made, capture
        self._share = Share()
        self._prompts, self._prompts_before = 1, 0  # of a batch in all processes; of those before it in the same step
        self._shape: Sequence[int] = (1, 1)  # of the batch at work
        self._free: int | None = None  # bytes, before the first step
        self._starts = [] if start is None else [start]  # in a list a method is no submodule, to be trained and saved
        self.warm_start, self._start_hash = describe_start(start), ""
        if model is not None:
            self.begin()

    may_borrow = takes_constants_of_circuits = True
    start: Tensor
    """float32 ``[n_edges]``: where the gates began, the best the highest; 0 if all alike."""
    learned_edges: Tensor
    """int64 scalar: how many edges are ranked as learned, before those in the order of the start (`splice`)."""

    def begin(self) -> None:
        self.gate.start(self.layout.n_edges, self._generator(0))
        self.constants = LearnedConstants.under(self.ablation, self.layout)
        self.register_buffer("start", torch.zeros(self.layout.n_edges))
        self.register_buffer("learned_edges", torch.tensor(self.layout.n_edges))
        if self.spans and not self.layout.spans:
            return  # which they are is known when the run begins
        for start in self._starts:
            if isinstance(start, Attribution):
                start.borrow_model(self.circuit_model, self.model_name)
            else:
                self._start_from(scores := start_scores(start, self.layout))
                self._start_hash = hash_of_numbers(scores)

    def _start_from(self, scores: Tensor) -> None:
        self.gate.start_from(scores)
        self.start.copy_(scores)
        self.learned_edges.fill_(len(scores))

    def edge_scores(self) -> Tensor:
        return spliced(self.gate.edge_scores(), self.start, int(self.learned_edges))

    def trained_size(self) -> float | None:
        return self.gate.trained_size()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "learned_edges": int(self.learned_edges)}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:  # a resumed run has its gates
            return
        goes_on = self._trained_before and not self._methods()  # a method is asked anew, of the prompts of this run
        if goes_on:
            self._resumed = [
                {"step": 0, "changed": {"gates": ["untrained", f"of {self._trained_before} steps before"]}}
            ]
        if self.constants is not None and not goes_on:
            self.constants.start_from(self.trainer.strategy.broadcast(self.constants.means()))
        for method in self._methods():
            # A loader may draw random numbers just by being iterated.
            with torch.random.fork_rng(devices=[]), bars_of(self.trainer):
                scores = self._attributed(method, lambda: whole_split(self.trainer, "train"))
            self._start_from(start_scores(self.trainer.strategy.broadcast(scores), self.layout))

    def _methods(self) -> list[Attribution]:
        """That say where gates begin: one, or none."""
        return [start for start in self._starts if isinstance(start, Attribution)]

    def _attributed(self, method: Attribution, prompts: Callable[[], Iterable[Batch]]) -> Tensor:
        """float32 ``[n_edges]``, the best the highest: what a method finds on the first of the training prompts."""
        scores = method.scores_over(lambda: list(with_prompts(prompts(), START_PROMPTS)))
        return scores.abs() if method.absolute else scores

    def start_within(self, train: Callable[[], Iterable[Batch]]) -> None:
        """What `on_fit_start` does, where there is no Trainer; ``train`` begins a pass over the training prompts.

        What is learned goes to the device of the language model, which stays as it is.
        """
        device = self.circuit_model.device
        self.gate.to(device)
        self.start, self.learned_edges = self.start.to(device), self.learned_edges.to(device)
        self.ablation.fit(self.circuit_model, train() if self.ablation.needs_data else ())
        if self.constants is not None:
            self.constants.to(device)
            self.constants.start_from(self.constants.means())
        for method in self._methods():
            self._start_from(start_scores(self._attributed(method, train), self.layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, objective and penalty: a scalar."""
        with out_of_memory_explained(self._plan, self._free):
            return self._loss(batch, batch_idx)

    def _loss(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self.circuit_model.receive(batch)
        self._shape = batch["clean_ids"].shape
        progress = self._progress()
        gates = self.draw(self.global_step, progress)
        weights = self._weights(batch, batch_idx)
        if self.capture == "auto" and self.constants is None and worth_capturing(self.circuit_model, batch):
            objective, loss = self._captured(gates, batch, weights)
        else:
            loss = self.losses(gates, batch, progress)
            objective = loss @ weights.to(loss.dtype)
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

    def draw(self, step: int, progress: float) -> Tensor:
        """float32 ``[n_edges]``: the gates of a step, by its number and how far training is, from 0 to 1.

        The same in all processes, and in all batches that gradients are accumulated over: together they make the step
        that one process would make with all their prompts at once.
        """
        return self.gate(self._generator(1 + step), step, progress)

    def losses(self, gates: Tensor, batch: Batch, progress: float) -> Tensor:
        """``[n_prompts]``: what gates, float32 ``[n_edges]``, cost on a batch."""
        skip_closed = self.gate.closed_for_good(progress)
        return gated_losses(self.circuit_model, gates, batch, self._references(), self.objective, skip_closed)

    def _references(self) -> Ablation:
        """What cut edges carry in training."""
        return self.ablation if self.constants is None else self.constants.ablation()

    def on_train_start(self) -> None:
        self._captured = CapturedLosses(self.circuit_model, self.ablation, self.objective)
        # A run that goes on has the rates of its checkpoint; one that is longer now is to have those of its own plan.
        for schedule in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if isinstance(schedule, LambdaLR):  # as it is, unless a subclass has another
                rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
                for group, base, rule in rates:
                    group["lr"] = base * rule(schedule.last_epoch)
        self._share = share_of(self.trainer.train_dataloader, self.trainer.world_size)
        self._prompts_before = 0
        self._free = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step on a GPU, say what it will need of its memory, and what fits."""
        if self._free is None and (free := free_memory(self.circuit_model.device)) is not None:
            self._free, self._shape = free, self.circuit_model.receive(batch)["clean_ids"].shape
            pl.utilities.rank_zero_info(self._plan().describe(free))

    def _plan(self) -> MemoryPlan:
        """What a step on the batch at work needs."""
        return MemoryPlan.of(self.circuit_model, *self._shape)

    def _weights(self, batch: Batch, batch_idx: int) -> Tensor:
        """``[n_prompts]``: weights of losses whose sum, in the mean over the processes, is the mean over all prompts.

        What a loader repeats, only to give all processes equally many, does not count.
        """
        n, size = n_prompts(batch), getattr(self.trainer.train_dataloader, "batch_size", None)
        weights = torch.ones(n, device=batch["clean_ids"].device)
        if self._share.total is None or size is None:
            self._prompts = n
            if self.trainer.accumulate_grad_batches > 1:  # each process has to weigh the batch alike
                prompts = torch.tensor(n, dtype=torch.float32, device=weights.device)
                self._prompts = int(self.trainer.strategy.reduce(prompts, reduce_op="sum"))
            return weights / n
        shares = [replace(self._share, rank=rank) for rank in range(self._share.replicas)]
        new = [share.new_rows(batch_idx * size, n) for share in shares]
        self._prompts = sum(new)
        weights[new[self._share.rank] :] = 0
        return weights * len(new) / sum(new)

    def on_train_end(self) -> None:
        super().on_train_end()
        del self._captured  # and the memory that graphs hold

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As usual; over several batches to a step, the gradient is that of the mean over all their prompts.

        Lightning would divide by the number of batches that a step is planned to have, however few prompts the last of
        them has, and however few batches are left at the end of an epoch.

        Args:
            loss: a scalar, the mean over the prompts of a batch, divided by ``accumulate_grad_batches``.
            args: see Lightning's.
            kwargs: see Lightning's.
        """
        share = self._prompts / (self._prompts_before + self._prompts)
        if self._prompts_before:
            for parameter in (each for group in self._parameter_groups() for each in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.mul_(1 - share)
        with out_of_memory_explained(self._plan, self._free):
            super().backward(loss * (share * self.trainer.accumulate_grad_batches), *args, **kwargs)
        self._prompts_before += self._prompts

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._prompts_before = 0
        # Here: callbacks at the end of a batch may write a checkpoint.
        self.gate.after_step(progress := self._progress(1))
        self.learned_edges.fill_(self.layout.n_edges if progress < 1 else self._held_out_says())

    def _held_out_says(self) -> int:
        """`worth_learning` on the validation prompts of the run, if it has some; the same in all processes."""
        with undisturbed():
            try:
                prompts = whole_split(self.trainer, "val")
            except ValueError:
                prompts = None
            with drawing_nothing(prompts), bars_of(self.trainer):
                found = self.worth_learning(prompts)
        return int(self.trainer.strategy.broadcast(found))

    def worth_learning(self, prompts: Iterable[Batch] | None) -> int:
        """How many edges are to be ranked as learned, now that all is learned that will be.

        Args:
            prompts: of the validation split, if there is one.
        """
        up_to, n_edges, learned = self.gate.ranks_up_to(), self.layout.n_edges, self.gate.edge_scores()
        if up_to is None or not self.start.any():
            return n_edges
        if prompts is None:
            return round(up_to * n_edges)
        return where_learning_pays(self.circuit_model, learned, self.start, up_to, self._references(), prompts)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.optimizer_for(self.planned_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_for(self, total: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Of as many steps, with the rule of its learning rate."""
        optimizer = torch.optim.Adam(self._parameter_groups(), lr=self.lr, weight_decay=0.0)
        return optimizer, LambdaLR(optimizer, lambda step: min(1.0, max(total - step, 1) / (0.6 * total)))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        of_constants = [] if self.constants is None else self.constants.parameter_groups()
        return self.gate.parameter_groups() + of_constants

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
        counts = ["learned_edges", *(f"gate.{name}" for name in self.gate.counts)]
        faults += (fault for name in counts for fault in count_faults(checkpoint["state_dict"], name))
        if self._fitting() and not faults:
            groups = [list(group["params"]) for group in self._parameter_groups()]
            faults = adam_faults(checkpoint["optimizer_states"], groups, begun=checkpoint["global_step"] > 0)
            if len(checkpoint["lr_schedulers"]) != 1:
                faults.append("its lr_schedulers are not those of one optimizer")
        return faults

    def _generator(self, draw: int) -> torch.Generator:
        """Random numbers that depend on the seed and the draw alone: a resumed run and every process draw the same."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + draw) * 4_099)
