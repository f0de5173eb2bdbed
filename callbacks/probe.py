"""Watch a circuit form: a probe for the training run of one's own LightningModule.

The other callbacks judge a *search* in a model that stands still. This one sits in the run that trains the model. Every
`every_n_steps` steps it scores all edges by attribution on prompts of its own, takes the best at several sizes, judges
them by exact ablation on held-out prompts, and logs how large a circuit the behaviour takes by now and how much of it
was there at the last probe:

    data = PromptPairDataModule(tokenizer, "agreement.jsonl")
    probe = CircuitProbe(data, every_n_steps=200, sizes=[0.005, 0.01, 0.02, 0.05], faithfulness=0.85)
    trainer = pl.Trainer(max_steps=10_000, callbacks=[probe])
    trainer.fit(my_module, my_data)         # my_module holds a GPT-2, a Llama, ... somewhere inside
    probe.history[-1].edges_needed          # and the like; see `Probe`

The training goes on as if it were not there, to the bit: it draws no random number of the run's, touches no gradient,
and gives the model back as it was, with its train and eval modes, hooks and caches. Forward hooks of the model rest
meanwhile, and the model is probed in the dtype of its weights, without autocast.

With several processes that hold the whole model (DDP) each takes a share of the prompts, each prompt once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch, on_device, unshared
from lightning_circuits.callbacks.loggers import in_key, log_scalars
from lightning_circuits.callbacks.sizes import size_name
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.inside import find_language_model, language_models
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.objectives import LogitDifference, Objective
from lightning_circuits.pages import see_page
from lightning_circuits.scoring.gradients import CLEAN, Point, attribute, integral
from lightning_circuits.selection import size_to_count, top_n

METHODS: dict[str, Sequence[Point]] = {"EAP": CLEAN, "EAP-IG": integral("left", 5)}
"""Where along the line from the corrupt to the clean prompt each method takes its gradients."""


@dataclass(frozen=True)
class Probe:
    """What was found after some training step.

    ``rows``: the circuits by exact ablation, full and empty model included. ``members``: by the names of the sizes, the
    flat indices of a circuit's edges. ``edges_needed``: of the smallest circuit that is faithful enough, None if none
    is. ``iou_last``, ``iou_final``: by size, edges in common with the probe before and with the last of the run, over
    edges in either; empty where there is none (yet).
    """

    step: int
    rows: list[Row]
    members: dict[str, Tensor]
    edges_needed: int | None
    iou_last: dict[str, float] = field(default_factory=dict)
    iou_final: dict[str, float] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The numbers as loggers get them; what does not exist is left out."""
        found: dict[str, float] = {}
        for row in self.rows:
            for number in ("faithfulness", "kl", "accuracy", "logit_difference"):
                found[f"probe/{in_key(row.circuit)}/{number}"] = getattr(row, number)
        for name, value in self.iou_last.items():
            found[f"probe/{in_key(name)}/iou_last"] = value
        if self.edges_needed is not None:
            found["probe/edges_needed"] = float(self.edges_needed)
        return {name: value for name, value in found.items() if not math.isnan(value)}


class CircuitProbe(pl.Callback):
    """Probe the circuits of a model while it is trained.

    Logged after every `every_n_steps` optimizer steps, and after the last one: ``probe/edges_needed`` (left out where
    no size is faithful enough), and for each size, ``full`` and ``empty`` ``probe/1%/faithfulness``, ``/kl``,
    ``/accuracy``, ``/logit_difference`` and ``/iou_last``. When training is done, ``probe/1%/iou_final`` for the step
    of each probe.

    Args:
        data: pairs of prompts. Edges are scored on its training split and judged on its validation split, which is all
            run through at every probe: a few dozen prompts are enough.
        every_n_steps: optimizer steps between two probes.
        sizes: of the circuits: shares of the edges, or numbers of edges.
        faithfulness: that a circuit has to reach to count as enough.
        method: ``EAP-IG`` (five gradients on the way from the corrupt to the clean prompt) or ``EAP`` (one, on the
            clean prompt; three times as fast, and often misleading).
        model: where in the LightningModule the language model is, as attributes joined by points. Default: the only
            one.
        objective: that edges are scored for. Default: `LogitDifference`.
        ablation: what a cut edge carries, in scoring and judging.

    Attributes:
        history: a `Probe` for each time, oldest first.

    Raises:
        ValueError: here, an unknown method or ablation, no size, a step count below 1, a faithfulness that is not
            positive. At setup, so before any training: no supported language model in the module, or an adapter in
            it; a strategy that splits the model among processes; a size of no edge; token ids that the model lacks.
        TypeError: at setup, a Trainer of the other of Lightning's two names.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        every_n_steps: int = 100,
        sizes: Sequence[int | float] = (0.005, 0.01, 0.02, 0.05, 0.1),
        faithfulness: float = 0.85,
        method: str = "EAP-IG",
        model: str | None = None,
        objective: Objective | None = None,
        ablation: str = "interchange",
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: it has to be at least 1")
        if not sizes:
            raise ValueError("no size of a circuit to look at: name at least one, such as 0.01")
        if not faithfulness > 0:
            raise ValueError(f"a faithfulness of {faithfulness} is reached by the empty circuit: ask for more")
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
        ABLATIONS.make(ablation)
        self.data = data
        self.every_n_steps = every_n_steps
        self.sizes = sizes
        self.faithfulness = faithfulness
        self.method = method
        self.model = model
        self.objective = LogitDifference() if objective is None else objective
        self.ablation = ablation
        self.history: list[Probe] = []
        self._ready = False

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_mixture(self, trainer)
        kinds = pl.strategies
        if isinstance(trainer.strategy, (kinds.FSDPStrategy, kinds.ModelParallelStrategy, kinds.DeepSpeedStrategy)):
            raise ValueError(
                f"{type(trainer.strategy).__name__} splits the model among processes, and CircuitProbe reads whole "
                f"weights: use a strategy that keeps it whole, such as ddp {see_page('multi-gpu', 'Large models')}"
            )
        self.history, self._ready = [], False
        # A module may make its model in hooks of its own that come after this one.
        later = (getattr(type(pl_module), hook) is not getattr(pl.LightningModule, hook) for hook in LATER)
        if language_models(pl_module) or not any(later):
            self._look(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._ready:
            self._look(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        # With gradients accumulated there are several batches to a step.
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step > self._last_step():
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self._last_step():
            self._probe(trainer, pl_module)
        for probe in self.history:
            probe.iou_final.update(_overlap(probe.members, self.history[-1].members))
            scalars = {f"probe/{in_key(name)}/iou_final": value for name, value in probe.iou_final.items()}
            log_scalars(trainer, scalars, probe.step)

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types and tensors."""
        return {
            "history": [
                {
                    "step": probe.step,
                    "rows": [vars(row).copy() for row in probe.rows],
                    "members": probe.members,
                    "edges_needed": probe.edges_needed,
                    "iou_last": probe.iou_last,
                }
                for probe in self.history
            ]
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [
            Probe(**{**probe, "rows": [Row(**row) for row in probe["rows"]]}) for probe in state_dict["history"]
        ]

    # ---- probing -----------------------------------------------------------------------------------------------

    def _look(self, pl_module: pl.LightningModule) -> None:
        """See that all is there to probe, as `setup` promises."""
        _, language_model = find_language_model(pl_module, self.model)
        with pl.utilities.seed.isolate_rng():
            with at_rest(language_model):
                model = wrap(language_model, freeze=False)
            for size in self.sizes:
                size_to_count(size, model.layout)
            self.data.prepare_data()
            self.data.setup("fit")
            vocabulary = len(model.token_embedding.weight)
            for split in ("train", "val"):
                batch = next(self._batches(split), None)
                if batch is None:
                    raise ValueError(f"the {split} split of {type(self.data).__name__} has no batch to probe with")
                highest = int(max(batch["clean_ids"].max(), batch["corrupt_ids"].max(), batch["answers"].max()))
                if highest >= vocabulary:
                    raise ValueError(
                        f"{type(self.data).__name__} has token {highest} in its {split} split, and the model knows "
                        f"{vocabulary}: give the data the tokenizer that the model is trained with"
                    )
        self._ready = True

    def _last_step(self) -> int:
        return self.history[-1].step if self.history else 0

    def _probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _, language_model = find_language_model(pl_module, self.model)
        device = next(language_model.parameters()).device
        with (
            pl.utilities.seed.isolate_rng(),
            at_rest(language_model),
            torch.autocast(device.type, enabled=False),
        ):
            model = wrap(language_model, freeze=False)
            ablation = ABLATIONS.make(self.ablation)
            ablation.fit(model, self._batches("train"))
            scores = self._scores(trainer, model, ablation)
            members = {
                size_name(size): top_n(scores, size_to_count(size, model.layout), model.layout) for size in self.sizes
            }
            rows = evaluate(
                model,
                members,
                self._batches("val"),
                [ablation],
                company=False,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            )
        enough = [row.edges for row in rows if row.circuit in members and row.faithfulness >= self.faithfulness]
        edges = {name: chosen.nonzero().flatten() for name, chosen in members.items()}
        last = _overlap(self.history[-1].members, edges) if self.history else {}
        probe = Probe(trainer.global_step, rows, edges, min(enough, default=None), last)
        self.history.append(probe)
        log_scalars(trainer, probe.scalars(), probe.step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in probe.scalars().items()})

    def _scores(self, trainer: pl.Trainer, model: CircuitModel, ablation: Any) -> Tensor:
        """float32 ``[n_edges]``, on the CPU: means over all training prompts, the same on every process."""
        total = torch.zeros(model.layout.n_edges + 1, dtype=torch.float64, device=model.device)  # last, the prompts
        for batch in islice(self._batches("train"), trainer.global_rank, None, trainer.world_size):
            batch = on_device(batch, model.device)
            total[:-1] += attribute(model, batch, self.objective, ablation, METHODS[self.method]).edges
            total[-1] += len(batch["clean_ids"])
        total = trainer.strategy.reduce(total, reduce_op="sum")
        return (total[:-1] / total[-1]).float().cpu()

    def _batches(self, split: str) -> Iterator[Batch]:
        """All of a split, on every process."""
        loader = self.data.train_dataloader() if split == "train" else self.data.val_dataloader()
        return iter(unshared(loader))  # the Trainer's own data are shared out among processes already


LATER = ("setup", "configure_model")
"""Hooks in which a LightningModule may make its model."""


def _overlap(some: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, float]:
    """Intersection over union of two probes' circuits, by size."""
    shared = {name: int(torch.isin(edges, others[name]).sum()) for name, edges in some.items() if name in others}
    return {name: both / max(len(some[name]) + len(others[name]) - both, 1) for name, both in shared.items()}


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """While open, a module is in eval mode, without hooks and uncompiled; afterwards it is as it was, to the attribute.

    Compiled code stays out of it, or it would be compiled again for what is run here, which the training would feel.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    for module, state in before:
        own = {name: copy(value) for name, value in state.items() if isinstance(value, (dict, set))}
        bare = {name: type(value)() for name, value in own.items() if name.endswith(("_hooks", "_hooks_with_kwargs"))}
        vars(module).update(own | bare, training=False, _compiled_call_impl=None)
    try:
        yield
    finally:
        for module, state in before:
            vars(module).clear()
            vars(module).update(state)
