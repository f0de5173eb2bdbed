"""Watch a circuit form: a probe for the training run of one's own LightningModule.

The other callbacks judge a *search* in a model that stands still. This one sits in the run that trains the model. Every
`every_n_steps` steps it scores all edges on prompts of its own, by attribution or by a short training of gates, takes
the best at several sizes, judges them by exact ablation on held-out prompts, and logs how large a circuit the behaviour
takes by now and how much of it was there at the last probe:

    data = PromptPairDataModule(tokenizer, "agreement.jsonl")
    probe = CircuitProbe(data, every_n_steps=200, sizes=[0.005, 0.01, 0.02, 0.05], faithfulness=0.85)
    trainer = pl.Trainer(max_steps=10_000, callbacks=[probe])
    trainer.fit(my_module, my_data)         # my_module holds a GPT-2, a Llama, ... somewhere inside
    probe.history[-1].edges_needed          # and the like; see `Probe`
    probe.formation()                       # all of it, to be saved and drawn; see `evaluation.formation`

When training is done, `formation.png` and `formation.svg` are left in the folder of the run's logger, or in `dirpath`:
what the circuit was worth at each probe, how much of it was there, and which heads and MLPs carried it. The numbers are
in `formation.json`. A run without a logger leaves no files unless it is told where.

The training goes on as if it were not there, to the bit: it draws no random number of the run's, touches no gradient,
and gives the model back as it was, with its train and eval modes, hooks and caches. Forward hooks of the model rest
meanwhile, and the model is probed in the dtype of its weights, without autocast.

With several processes that hold the whole model (DDP) each takes a share of the prompts, each prompt once; but gates
are trained on all prompts in every process, so that the circuit does not depend on how many there are.

Gates begin anew at every probe, where their own warm start says, and not at the last circuit: what two probes have in
common is then the model's doing, and not that the one began at the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import require_numbers, require_whole_numbers, shortened
from lightning_circuits.batch import Batch, unshared
from lightning_circuits.callbacks.at_rest import at_rest
from lightning_circuits.callbacks.disk import once, writable_folder
from lightning_circuits.callbacks.history import NUMBERS, Probe
from lightning_circuits.callbacks.launched import leave_room
from lightning_circuits.callbacks.loggers import in_key, log_files, log_picture, log_scalars
from lightning_circuits.callbacks.looked_at import size_name
from lightning_circuits.callbacks.monitors import let_monitor, monitored, refuse_unknown
from lightning_circuits.callbacks.options import require_folder, require_measure, require_sizes
from lightning_circuits.callbacks.probe_method import read_method, read_training_steps, scores_of
from lightning_circuits.drawing.formation import formation_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.evaluation.formation import Formation, Moment
from lightning_circuits.evaluation.rows import REFERENCES, evaluate
from lightning_circuits.layout import Layout
from lightning_circuits.measures import DEFAULT, AnyMeasure, by_measure, measure_name
from lightning_circuits.models import wrap
from lightning_circuits.models.inside import find_language_model, language_models
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.objectives import AnyObjective
from lightning_circuits.pages import see_page
from lightning_circuits.search import Attribution, EdgePruning
from lightning_circuits.search.bars import bars_of
from lightning_circuits.search.random_numbers import own_random_numbers
from lightning_circuits.search.splits import require_fit
from lightning_circuits.selection import size_to_count, top_n

DEFAULT_SIZES = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares of the edges that are looked at when nobody names a size."""


class CircuitProbe(pl.Callback):
    """Probe the circuits of a model while it is trained.

    Logged before the first optimizer step (as step 0, what training starts from), after every `every_n_steps` of them,
    and after the last one: ``probe/edges_needed`` (left out where no size is faithful enough, so whoever monitors it is
    given ``strict=False``), and for each size, ``full`` and ``empty`` ``probe/1%/faithfulness``, ``/kl``,
    ``/accuracy``, ``/logit_difference`` and ``/iou_last``. When training is done, ``probe/1%/iou_final`` for the step
    of each probe.

    Args:
        data: pairs of prompts. Edges are scored on its training split and judged on its validation split, which is all
            run through at every probe: a few dozen prompts are enough.
        every_n_steps: optimizer steps between two probes.
        sizes: of the circuits: shares of the edges, or numbers of edges, one or several. Default: `DEFAULT_SIZES`,
            without those that are no edge in a very small model.
        faithfulness: that a circuit has to reach to count as enough.
        method: that scores the edges: the name of an attribution method or of `EdgePruning`, with its own defaults
            (edges are taken by |score|, those of gates by rank), but for `objective` and `ablation`; or an object, its
            model left out, that says all of this itself, such as ``EAPIG(steps=10, absolute=False)``, whose edges are
            taken by signed score, or ``EdgePruning(lr=0.1)``. `EAP` is three times as fast as `EAPIG`, and often
            misleading.
        model: where in the LightningModule the language model is, as attributes joined by points. Default: the only
            one.
        objective: that edges are scored for, an object or a name. Default: the method's own, `LogitDifference`, and of
            `EdgePruning` `KL`.
        ablation: what a cut edge carries when circuits are judged, an object or a name.
        measure: what faithfulness is of, by name or a function ``(logits, batch, full_logits) -> [B]`` (see
            `lightning_circuits.measures`). Keys name it, unless it is the logit difference: ``probe/kl/1%/accuracy``.
        training_steps: of `EdgePruning` at each probe. Default: 50.
        dirpath: the folder of the figure of the formation and its numbers; it is made if it is not there. Default:
            where the run's logger writes, if there is one.

    Attributes:
        history: a `Probe` for each time, oldest first.
        paths: the files of the run.

    Raises:
        ValueError: here, an unknown name, no size, a step count below 1, a faithfulness that is not positive, a method
            with a language model of its own, in spans, or with an objective beside its own, steps of training for one
            that is not trained. Before any training: no supported language model in the module, or an adapter in it; a
            strategy that splits the model among processes; a size of no edge; token ids that the model lacks; a warm
            start of another model; a key ``probe/...`` monitored that there will not be; a folder that cannot be
            written to.
        FileNotFoundError: before any training, a warm start that is not there.
        TypeError: here, an argument of a wrong type. At setup, a Trainer of the other of Lightning's two names.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        every_n_steps: int = 100,
        sizes: Sequence[int | float] | int | float | None = None,
        faithfulness: float = 0.85,
        method: str | Attribution | EdgePruning = "EAPIG",
        model: str | None = None,
        objective: AnyObjective | None = None,
        ablation: str | Ablation = "interchange",
        measure: AnyMeasure = DEFAULT,
        training_steps: int | None = None,
        dirpath: str | Path | None = None,
    ) -> None:
        if not hasattr(data, "train_dataloader"):
            raise TypeError(f"data takes a data module, got {shortened(data)}")
        require_whole_numbers(every_n_steps=every_n_steps)
        require_numbers(faithfulness=faithfulness)
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: it has to be at least 1")
        self.sizes = None if sizes is None else require_sizes(sizes)
        if not faithfulness > 0:
            raise ValueError(f"a faithfulness of {faithfulness} is reached by the empty circuit: ask for more")
        if not isinstance(model, str | None):
            raise TypeError(f"model takes the path of a language model in the module, got {shortened(model)}")
        self.data = data
        self.every_n_steps = every_n_steps
        self.faithfulness = faithfulness
        self.model = model
        self.ablation = ABLATIONS.make(ablation, "ablation")
        self.measure = require_measure(measure)
        self.method = read_method(method, objective, self.ablation)
        self.training_steps = read_training_steps(training_steps, self.method)
        self.dirpath = require_folder(dirpath)
        self.history: list[Probe] = []
        self.paths: list[Path] = []
        self._ready = False
        self._sizes: list[str] = []  # their names, once the model is known
        self._layout: Layout | None = None
        self._model_name = ""
        self._folder: Path | None = None  # known at setup

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
        self.history, self.paths, self._ready = [], [], False
        writes = self.dirpath is not None or (trainer.loggers and not trainer.fast_dev_run)  # type: ignore[attr-defined]
        self._folder = writable_folder(trainer, self.dirpath, "the circuit's formation", self) if writes else None
        # A module may make its model in hooks of its own that come after this one.
        later = (getattr(type(pl_module), hook) is not getattr(pl.LightningModule, hook) for hook in LATER)
        if language_models(pl_module) or not any(later):
            self._look(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._ready:
            self._look(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        refuse_unknown(trainer, pl_module)
        if self.history:  # of the run that is resumed
            let_monitor(trainer, self.history[-1].scalars())
        elif trainer.global_step == 0:
            self._probe(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning would end the run if a number that is monitored were not there by now.
        there_will_be = set(self.logged_keys(pl_module)) - {"probe/edges_needed"}
        if (
            monitored(trainer) & there_will_be - set(trainer.callback_metrics)
            and trainer.global_step > self._last_step()
        ):
            self._probe(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        # With gradients accumulated there are several batches to a step.
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step > self._last_step():
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > self._last_step():
            self._probe(trainer, pl_module)
        for probe in self.history:
            probe.iou_final.update(probe.overlap(self.history[-1]))
            scalars = {f"probe/{in_key(name)}/iou_final": value for name, value in probe.iou_final.items()}
            log_scalars(trainer, scalars, probe.step)
        if self._folder is not None and (trouble := once(trainer, lambda: self._write(trainer))):
            pl.utilities.rank_zero_warn(
                f"the circuit's formation could not all be written to {self._folder} ({trouble}). It is in "
                f"{type(self).__name__}.formation(), to be saved elsewhere"
            )

    def logged_keys(self, module: pl.LightningModule) -> list[str]:
        """What can be monitored."""
        sizes = [in_key(size) for size in self._sizes]
        probe = by_measure("probe", measure_name(self.measure), "/")
        judged = [f"{probe}/{name}/{number}" for name in (*REFERENCES, *sizes) for number in NUMBERS]
        return ["probe/edges_needed", *judged, *(f"probe/{size}/iou_last" for size in sizes)]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.history:
            leave_room(trainer, self.history[-1].scalars())

    def state_dict(self) -> dict[str, Any]:
        return {"history": [probe.state_dict() for probe in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [Probe.from_state_dict(state) for state in state_dict["history"]]

    # ---- what it comes to --------------------------------------------------------------------------------------

    def formation(self) -> Formation:
        """The whole history, to be saved and drawn; but for what a run that this one goes on from looked at otherwise.

        Raises:
            RuntimeError: there is none yet.
        """
        if not self.history or self._layout is None:
            raise RuntimeError("there is no formation of a circuit yet: train with this probe among the callbacks")
        describe = getattr(self.data, "describe", None)
        return Formation(
            method=type(self.method).__name__,
            model=self._model_name,
            layout=self._layout,
            faithfulness=self.faithfulness,
            moments=[
                Moment(probe.step, probe.rows, probe.members)
                for probe in self.history
                if probe.looks_at() == self.history[-1].looks_at()
            ],
            metadata={
                **self.method.describe_method(),
                **({} if self.training_steps is None else {"training_steps": self.training_steps}),
                "judged_under": self.ablation.describe(),
                "data": None if describe is None else describe(),
            },
        )

    def _write(self, trainer: pl.Trainer) -> None:
        assert self._folder is not None
        formation, stem = self.formation(), self._folder / "formation"
        self.paths = [formation.save(stem.with_suffix(".json"))]
        figure = formation_figure(formation)
        self.paths += save(figure, stem)
        log_picture(trainer, "probe/formation", lambda: self.paths[1], lambda: figure, trainer.global_step)
        log_files(trainer, self.paths)

    # ---- probing -----------------------------------------------------------------------------------------------

    def _look(self, pl_module: pl.LightningModule) -> None:
        """See that all is there to probe, as `setup` promises."""
        path, language_model = find_language_model(pl_module, self.model)
        self._model_name = f"{type(pl_module).__name__}, {path}" if path else type(pl_module).__name__
        with own_random_numbers():
            with at_rest(language_model):
                model = wrap(language_model, freeze=False)
                deepcopy(self.method).borrow_model(model, self._model_name)  # refuses a warm start of another one
            self._layout = model.layout
            self._sizes = list(self._counts(model.layout))
            self.data.prepare_data()
            self.data.setup("fit")
            vocabulary = model.vocabulary
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
            require_fit(self.data, model)
            self.ablation.require_known(self._batches("train"), self._batches("val"))
        self._ready = True

    def _counts(self, layout: Layout) -> dict[str, int]:
        """The numbers of edges of the circuits, by the names of their sizes."""
        sizes = [size for size in DEFAULT_SIZES if size * layout.n_edges >= 1] if self.sizes is None else self.sizes
        return {size_name(size): size_to_count(size, layout) for size in sizes}

    def _last_step(self) -> int:
        return self.history[-1].step if self.history else 0

    def _probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _, language_model = find_language_model(pl_module, self.model)
        device = next(language_model.parameters()).device
        with (
            own_random_numbers(),
            at_rest(language_model),
            torch.autocast(device.type, enabled=False),
            bars_of(trainer),
        ):
            model = wrap(language_model, freeze=False)
            method = deepcopy(self.method)  # which keeps no sums, and no model of another run
            method.borrow_model(model, self._model_name)
            scores = scores_of(method, self.training_steps, self._loader, trainer)
            members = {
                name: top_n(scores, count, model.layout, absolute=method.absolute)
                for name, count in self._counts(model.layout).items()
            }
            self.ablation.fit(model, self._batches("train"))
            rows = evaluate(
                model,
                self._batches("val"),
                members,
                [self.ablation],
                controls=False,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                measure=self.measure,
            )
        enough = [row.edges for row in rows if row.circuit in members and row.faithfulness >= self.faithfulness]
        probe = Probe(trainer.global_step, rows, members, min(enough, default=None))
        if self.history:
            probe.iou_last.update(probe.overlap(self.history[-1]))
        self.history.append(probe)
        log_scalars(trainer, probe.scalars(), probe.step)
        let_monitor(trainer, probe.scalars())

    def _batches(self, split: str) -> Iterator[Batch]:
        """All of a split, on every process."""
        return iter(self._loader(split))

    def _loader(self, split: str) -> Any:
        loader = self.data.train_dataloader() if split == "train" else self.data.val_dataloader()
        return unshared(loader)  # the Trainer's own data are shared out among processes already


LATER = ("setup", "configure_model")
"""Hooks in which a LightningModule may make its model."""
