"""Node pruning: whole heads and MLPs are removed for good, one after the other, as long as the model does without.

A sweep tries every node that is left. What is the performance without it,

    performance = F(circuit) / F(M),

the plain ratio of the mean measure? At the threshold or above, the node is out. The first sweep goes down
from the top (the MLP of a layer, then its heads), the next one up from the bottom, and so on until a sweep removes
nothing. Then no single node can go any more, in whatever order they are tried. The circuit is every edge between the
nodes that are left.

    >>> search = NodePruning("gpt2", threshold=0.8)                                     # doctest: +SKIP
    >>> pl.Trainer().fit(search, SequenceDataModule("gpt2", n_train=32))                # doctest: +SKIP
    >>> search.circuit().node_names()                                                   # doctest: +SKIP

It is greedy: which of two nodes goes that stand in for each other, the order decides. So `order` says where the first
sweep begins, and a circuit is to be believed as far as others agree with it (`evaluation.overlap`):

    >>> searches = [NodePruning("gpt2", order="random", seed=seed) for seed in range(3)]    # doctest: +SKIP

After "Towards Interpretable Sequence Continuation" (Lan et al. 2023), which puts a node's mean over corrupt prompts in
its place: ``ablation=MeanPositionalAblation("corrupt")``. A ratio has no empty circuit in it, so that what the ablation
does by itself counts as the circuit's; nodes that work against the behaviour are removed, too, and may take the ratio
above 1. `FaithfulnessValidation` measures what the circuit is worth on other prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_choice, require_numbers, require_seed
from lightning_circuits.batch import Batch, shared_out
from lightning_circuits.evaluation.metrics.ratio import FLOOR
from lightning_circuits.layout import KV, Layout
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name, values
from lightning_circuits.models.loading import DType
from lightning_circuits.nodes import reader_nodes
from lightning_circuits.progress import tracked
from lightning_circuits.scoring.node_ablation import NodeAblation
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.random_numbers import undisturbed
from lightning_circuits.search.record import count_faults
from lightning_circuits.search.splits import whole_split
from lightning_circuits.search.without_training import WithoutTraining

Order = Literal["backward", "forward", "random"]
"""In which order the first sweep tries nodes: from the top, from the bottom, or in one that is drawn."""


@METHODS.register
class NodePruning(WithoutTraining):
    """Remove heads and MLPs for good, one at a time, as long as F(circuit) / F(M) stays at a threshold or above.

    An epoch is a sweep, and a step. `Trainer.fit` ends by itself after the first that removes nothing. All training
    prompts are looked at together, and held with the outputs of all writers: a few dozens are enough.

    An edge's score is that of the lower of its two nodes. Nodes are ranked by when they were removed, later is higher;
    above all of these stand the nodes that are kept, higher the lower the performance without them. So the circuit has
    a size of its own, and there are larger and smaller ones.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        threshold: what performance may not fall below.
        order: of the first sweep: ``backward`` from the top, ``forward`` from the bottom, each the other way round in
            the next; ``random``, drawn anew for every sweep.
        seed: of a random order.
        measure: what F is the mean of (see `lightning_circuits.measures`).
        ablation: what a removed node's edges carry: an `Ablation` or its name.
        kv: K/V readers per query ``head`` (MIB), or ``group``.
        dtype: of a model loaded by name.
        attention: such as ``eager``.

    Raises, beside what `CircuitSearch` does:
        ValueError: a threshold that is not positive and finite; another order; a measure that is none. When fitted: an
            F(M) that is 0, or cannot be told from it, such as that of ``kl``.
        FloatingPointError: when fitted: a performance that is not finite.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        threshold: float = 0.8,
        order: Order = "backward",
        seed: int = 0,
        measure: AnyMeasure = DEFAULT,
        ablation: Ablation | str = "interchange",
        kv: KV = "head",
        dtype: DType = "float32",
        attention: str | None = None,
    ) -> None:
        require_numbers(threshold=threshold)
        if not 0 < threshold < float("inf"):
            raise ValueError(f"the threshold of performance must be positive and finite, got {threshold}")
        require_choice("order", order, Order)
        require_seed(seed)
        self.measure = MEASURES.make(measure, "measure")
        super().__init__(model, ablation=ablation, kv=kv, dtype=dtype, attention=attention)
        self.threshold, self.order, self.seed = threshold, order, seed
        self.automatic_optimization = False
        self.begin()

    plays_no_part = ("objective",)
    sweeps: nn.Parameter
    removed_as: Tensor
    without: Tensor
    performance: Tensor

    def begin(self) -> None:
        device, n = self.circuit_model.device, self.layout.n_writers
        # For Lightning, a step is what an optimizer does: the number of sweeps is what it moves.
        self.sweeps = nn.Parameter(torch.zeros((), dtype=torch.float64, device=device))
        # Of every writer: as the how manieth it was removed, 0 if it was not; and what the performance was when it was
        # last tried to do without it.
        self.register_buffer("removed_as", torch.zeros(n, dtype=torch.int64, device=device))
        self.register_buffer("without", torch.zeros(n, dtype=torch.float64, device=device))
        self.register_buffer("performance", torch.ones((), dtype=torch.float64, device=device))

    # ---- scores ------------------------------------------------------------------------------------------------

    def node_scores(self) -> Tensor:
        """float32 ``[n_writers]`` in (0, 1], the ranks of the class; NaN for the input, which is no candidate.

        Raises:
            RuntimeError: no sweep has been made.
        """
        if not self.sweeps:
            raise RuntimeError("NodePruning has no scores yet: fit it first, with Trainer.fit")
        removed_as, without = self.removed_as[1:].cpu(), self.without[1:].cpu()
        kept = (removed_as == 0).nonzero()[:, 0]
        ranks = removed_as.clone()
        least_missed_first = kept[without[kept].argsort(descending=True, stable=True)]
        ranks[least_missed_first] = len(ranks) - len(kept) + 1 + torch.arange(len(kept))
        return torch.cat([torch.tensor([torch.nan]), ranks / len(ranks)])

    def edge_scores(self) -> Tensor:
        return lower_of_both_nodes(self.layout, self.node_scores().nan_to_num(1.0))

    def trained_size(self) -> int | None:
        """How many edges there are between the nodes that are kept; None before the first sweep."""
        if not self.sweeps:
            return None
        return int((lower_of_both_nodes(self.layout, (self.removed_as == 0).float().cpu()) == 1).sum())

    def describe(self) -> dict[str, Any]:
        kept = int((self.removed_as[1:] == 0).sum())
        found = {"sweeps": int(self.sweeps), "nodes_kept": kept, "performance": float(self.performance)}
        return {**super().describe(), **found}

    # ---- sweeps ------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[int]:
        """The writers, but for the input, in the order of the next sweep."""
        n, sweep = self.layout.n_writers, int(self.sweeps)
        if self.order == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + sweep)
            return (1 + torch.randperm(n - 1, generator=generator)).tolist()
        up = list(range(1, n))
        return up if (self.order == "forward") == (sweep % 2 == 0) else up[::-1]

    def _sweep(self) -> bool:
        """Try every node that is left; gives whether any was removed."""
        with undisturbed():  # a loader may draw random numbers just by being iterated
            runs = [
                _Run(NodeAblation(self.circuit_model, batch, self.ablation), counts)
                for batch, counts in self._batches()
            ]
        of_model, removed = self._of_model(runs), self.removed_as.cpu() > 0
        for run, _ in runs:
            run.logits(removed)
            run.settle()
        before = int(removed.sum())
        for node in tracked(self._nodes(), f"Sweep {int(self.sweeps) + 1} over the nodes"):
            if removed[node]:
                continue
            one_more = removed.index_fill(0, torch.tensor(node), True)
            performance = self._mean(runs, [run.logits(one_more) for run, _ in runs])[0] / of_model
            if not math.isfinite(performance):
                raise FloatingPointError(
                    f"the performance without {self.layout.writer_names[node]} is {performance}. Usual causes: a dtype "
                    f"too narrow for this model ({self.circuit_model.dtype}), or a broken prompt"
                )
            self.without[node] = performance
            if performance >= self.threshold:
                removed = one_more
                for run, _ in runs:
                    run.settle()
                self.removed_as[node], self.performance[...] = int(removed.sum()), performance
        return int(removed.sum()) > before

    def _batches(self) -> Iterator[tuple[Batch, bool]]:
        """The training prompts, or as many as ``limit_train_batches`` leaves: this process' share of them, and whether
        they count (`batch.shared_out`)."""
        trainer = self.trainer
        n = trainer.num_training_batches * trainer.world_size
        used = islice(whole_split(trainer, "train"), None if math.isinf(n) else int(n))
        for batch, counts in shared_out(used, trainer.global_rank, trainer.world_size):
            yield self.circuit_model.receive(batch), counts

    def _of_model(self, runs: Sequence[_Run]) -> float:
        """F(M).

        Raises:
            ValueError: it cannot be told from 0.
        """
        mean, error = self._mean(runs, [run.full_logits for run, _ in runs])
        if not abs(mean) > FLOOR * error:
            raise ValueError(
                f"performance is a share of F(M), and the model's mean {measure_name(self.measure)} is {mean:.3g}, "
                f"with a standard error of {error:.2g} at most {FLOOR} of them from 0: give prompts of a task that "
                "the model can do, more of them, or another measure"
            )
        return mean

    def _mean(self, runs: Sequence[_Run], logits: Sequence[Tensor]) -> tuple[float, float]:
        """The mean of the measure over the prompts of all processes, and its standard error."""
        total = torch.zeros(3, dtype=torch.float64, device=self.circuit_model.device)
        for (run, counts), of_a_batch in zip(runs, logits, strict=True):
            if not counts:
                continue
            found = values(self.measure, of_a_batch, run.batch, run.full_logits).double()
            total += torch.stack([torch.ones_like(found), found, found**2]).sum(1)
        n, linear, square = self.trainer.strategy.reduce(total, reduce_op="sum").tolist()
        return linear / n, (max(square / n - (linear / n) ** 2, 0.0) / n) ** 0.5

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.sweeps], lr=1.0, maximize=True)  # sweeps += 1

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.ckpt_path is None:
            for state in (self.sweeps.data, self.removed_as, self.without):
                state.zero_()
            self.performance.fill_(1.0)
        self.trainer.fit_loop.max_epochs = -1  # a sweep each, until one removes nothing

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The sweep, at the end of an epoch: it looks at all prompts together, and asks for them itself."""
        if not self.trainer.is_last_batch:
            return
        removed = self._sweep()
        optimizer: Any = self.optimizers()
        self.sweeps.grad = torch.ones_like(self.sweeps)
        optimizer.step()
        optimizer.zero_grad()
        self.trainer.should_stop = not removed
        numbers = {"performance": self.performance, "nodes_kept": (self.removed_as[1:] == 0).sum().double()}
        self.log_dict({f"train/{name}": value for name, value in numbers.items()}, prog_bar=True, batch_size=1)

    def _faults(self, checkpoint: dict[str, Any]) -> list[str]:
        state = checkpoint.get("state_dict")
        counts = count_faults(state, "sweeps", 1 if checkpoint.get("global_step") else 0)
        return [*super()._faults(checkpoint), *counts, *count_faults(state, "removed_as")]


class _Run(NamedTuple):
    """A batch, and whether it counts in this process."""

    ablation: NodeAblation
    counts: bool


def lower_of_both_nodes(layout: Layout, nodes: Tensor) -> Tensor:
    """``[n_edges]``: of every edge the smaller number of its two nodes.

    A key or value reader that heads share counts as the one of them that has the largest; the logits have any number.

    Args:
        layout: of the edges.
        nodes: a number of every writer, ``[n_writers]``.
    """
    readers, owners = reader_nodes(layout)
    with_logits = torch.cat([nodes, nodes.new_full((1,), torch.inf)])
    of_readers = nodes.new_zeros(layout.n_readers).scatter_reduce(0, readers, with_logits[owners], "amax")
    return torch.minimum(nodes[layout.edge_writer], of_readers[layout.edge_reader])
