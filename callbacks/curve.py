"""The faithfulness curve of a search: its circuits of all sizes, judged by exact ablation, as numbers and as a picture.

`FaithfulnessValidation` watches a few sizes while a search trains. What a method is worth in the end is the whole curve
(see `lightning_circuits.evaluation.curve` for how it is read, and for its three areas):

    curve = FaithfulnessCurve(ablations=["interchange", "mean"])
    trainer = pl.Trainer(max_steps=300, callbacks=[curve])
    trainer.fit(search, datamodule)      # measured once, when training is done, on the validation split
    trainer.test(search, datamodule)     # the same on the test split
    curve.curve.areas("interchange", "signed").cmd

Each measurement leaves behind `curve.csv`, `curve.json`, `curve.png` and `curve.svg`, in the folder of the run's logger
or in `dirpath`. A curve of one split never takes the place of another split's: beside a `curve.json` of the validation
split, that of the test split is called `curve-test.json`, and beside one by the logit difference, that by another
measure `curve-kl.json`. `lightning-circuits compare` puts several runs in one figure.

The loggers get the areas (`val/curve/interchange/signed/cmd`, which a sweep may minimise; by another measure
`val/curve/kl/...`), and faithfulness, KL and accuracy at each size: those that take tables and pictures (Weights &
Biases, TensorBoard) as such, the others as numbers. Weights & Biases gets the file too, from which `compare` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_choice, require_flags
from lightning_circuits.callbacks.disk import once, writable_folder
from lightning_circuits.callbacks.exact_ablation import ExactAblationCallback
from lightning_circuits.callbacks.loggers import in_key, log_files, log_picture, log_scalars, log_table
from lightning_circuits.callbacks.looked_at import size_name
from lightning_circuits.callbacks.monitors import let_monitor
from lightning_circuits.callbacks.options import require_folder, require_several, require_sizes
from lightning_circuits.callbacks.requirements import require_search
from lightning_circuits.callbacks.terminal import close_progress_bar, console, print_files
from lightning_circuits.circuit import Circuit
from lightning_circuits.drawing.curves import curve_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.drawing.tables import curve_table
from lightning_circuits.evaluation.curve import RANDOM, Curve, CurvePlace
from lightning_circuits.files.mib import MIB_SIZES
from lightning_circuits.measures import DEFAULT, AnyMeasure, by_measure
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from lightning_circuits.search.splits import describe_data
from lightning_circuits.selection import size_to_count, top_n

Ranking = Literal["signed", "absolute"]
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)


class FaithfulnessCurve(ExactAblationCallback):
    """Measure a search's circuits of all sizes at the end of `fit`, and in `validate` and `test`.

    Args:
        sizes: shares of the edges, or numbers of edges; at least two. A share that rounds to no edge stays, as MIB has
            it: it is the empty circuit's row. Default: `MIB_SIZES`.
        ablations: what cut edges carry, by name (see `lightning_circuits.ablation`).
        rankings: by what edges are taken: ``signed`` (the score), ``absolute`` (its size), or both. Default: the
            search's own, and both where that is ``absolute``, since MIB wants CPR of the one and CMD of the other.
        random: whether random circuits of the same sizes are measured too, which doubles the cost.
        dirpath: the folder of the files; it is made if it is not there. Default: where the run's logger writes.
        seed: of the random circuits.
        measure: what faithfulness is of, by name or a function ``(logits, batch, full_logits) -> [B]`` (see
            `lightning_circuits.measures`).

    Attributes:
        curve: the last measurement, a `Curve`; None before the first.
        paths: the files of the last measurement.

    Raises:
        ValueError: here, fewer than two sizes, an unknown ablation, ranking or measure. At setup, so before any
            training: a size outside the model's; scores that do not rank all edges; no validation (test) prompts; mean
            ablation without training prompts; a folder that cannot be written to.
        OSError: in `validate` and `test`, the files cannot be written (a full disk); at the end of `fit`, a warning.
        TypeError: at setup, the model is no `CircuitSearch`, or the Trainer of the other of Lightning's two names.
    """

    def __init__(
        self,
        sizes: Sequence[int | float] | None = None,
        ablations: Sequence[str | Ablation] | str | Ablation = ("interchange",),
        rankings: Sequence[Ranking] | Ranking | None = None,
        random: bool = True,
        dirpath: str | Path | None = None,
        seed: int = 0,
        measure: AnyMeasure = DEFAULT,
    ) -> None:
        super().__init__(ablations, seed, measure)
        self.sizes = None if sizes is None else require_sizes(sizes)
        if self.sizes is not None and len(set(self.sizes)) < 2:
            raise ValueError(f"a curve needs at least two sizes, got {self.sizes}")
        self.rankings: list[Ranking] | None = None
        if rankings is not None:
            several = require_several("rankings", rankings, (str,), f"{' or '.join(map(repr, RANKINGS))}")
            if not several:
                raise ValueError(f"no ranking to take edges by: choose from {', '.join(RANKINGS)}")
            for ranking in several:
                require_choice("rankings", ranking, Ranking)
            self.rankings = several
        require_flags(random=random)
        self.random = random
        self.dirpath = require_folder(dirpath)
        self.curve: Curve | None = None
        self.paths: list[Path] = []
        self._folder = self.dirpath or Path()  # known at setup
        self._trouble: str | None = None  # what went wrong with the files

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        search = require_search(self, trainer, pl_module)
        self._shares(search)
        if search.ranked_edges() < search.layout.n_edges:
            raise ValueError(
                f"{type(search).__name__} has no ranking of all edges: its file has no scores, or those of its own "
                "edges alone (as a .json of CircuitExport), so circuits of other sizes are not told apart. A curve "
                "needs a .pt or .safetensors with all scores, or take FaithfulnessValidation instead"
            )
        self._begin(trainer, search, "test" if stage == "test" else "val")
        self.curve, self.paths = None, []
        self._folder = writable_folder(trainer, self.dirpath, "the curve", self)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scalars = _scalars(self._measure(trainer, require_search(self, trainer, pl_module), "val"))
        log_scalars(trainer, scalars, watched=_is_area)
        let_monitor(trainer, scalars)
        if self._trouble:  # what comes after this, circuits and checkpoints, matters more
            pl.utilities.rank_zero_warn(self._trouble)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._measure_now(trainer, require_search(self, trainer, pl_module), "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure_now(trainer, require_search(self, trainer, pl_module), "test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.curve is not None and trainer.is_global_zero:
            close_progress_bar(trainer, stage)
            console(trainer).print(curve_table(self.curve))
            print_files("Curve", sorted(self.paths, key=lambda path: path.suffix != ".png"))

    # ---- measuring ---------------------------------------------------------------------------------------------

    def _measure_now(self, trainer: pl.Trainer, search: CircuitSearch, split: str) -> None:
        """For `trainer.validate` and `trainer.test`, which return what is logged here."""
        curve = self._measure(trainer, search, split)
        search.log_dict(_scalars(curve), sync_dist=trainer.world_size > 1)
        if self._trouble:
            raise OSError(self._trouble)

    def _measure(self, trainer: pl.Trainer, search: CircuitSearch, split: str) -> Curve:
        circuits, places = self._line_up(search)
        rows = self._evaluate(trainer, search, circuits, split, controls=False)
        described = search.describe()
        # A circuit from a file is of the method that made it.
        method = str(described.get("made_by", {}).get("method", described["method"]))
        metadata = {
            **described,
            "data": describe_data(trainer),
            "ablations": self._describe_ablations(),
            "seed_of_random": self.seed,
        }
        metadata = json.loads(json.dumps(metadata))  # as it is read back: a tuple is a list
        self.curve = curve = Curve.of(rows, places, method, search.model_name, metadata)
        trouble = once(trainer, lambda: self._write(trainer, curve))
        self._trouble = trouble and (
            f"the curve could not all be written to {self._folder} ({trouble}). Its numbers are in the table "
            "and in .curve of the callback, and 'lightning-circuits evaluate' measures it again"
        )
        return curve

    def _shares(self, search: CircuitSearch) -> dict[str, tuple[int, float]]:
        """Each size by its name, smallest first: the number of edges, and the share of all that was asked for."""
        layout = search.layout
        shares = {
            size_name(size): (
                size_to_count(size, layout, none_allowed=True),
                size / layout.n_edges if isinstance(size, int) else size,
            )
            for size in (MIB_SIZES if self.sizes is None else self.sizes)
        }
        return dict(sorted(shares.items(), key=lambda item: item[1][1]))

    def _line_up(self, search: CircuitSearch) -> tuple[dict[str, Circuit], dict[str, CurvePlace]]:
        """The circuits to judge and their places on the curve, by name."""
        own = "absolute" if search.absolute else "signed"
        rankings = self.rankings or (RANKINGS if search.absolute else (own,))
        scores = search.edge_scores().detach().float().cpu()
        circuits, places = {}, {}
        for ranking in dict.fromkeys(rankings):
            for size, (n, share) in self._shares(search).items():
                name = f"{size} {ranking}" if len(set(rankings)) > 1 else size
                members = top_n(scores, n, search.layout, absolute=ranking == "absolute")
                circuits[name], places[name] = Circuit(search.layout, members), CurvePlace(ranking, share)
        if self.random:
            for size, (n, share) in self._shares(search).items():
                name = f"{size} {RANDOM}"
                circuits[name], places[name] = Circuit.random(search.layout, n, self.seed), CurvePlace(RANDOM, share)
        return circuits, places

    # ---- what is left behind -----------------------------------------------------------------------------------

    def _write(self, trainer: pl.Trainer, curve: Curve) -> None:
        stem = _stem(self._folder, curve)
        figure = curve_figure({curve.method: curve}, ("faithfulness", "kl", "accuracy"))
        key = by_measure(f"{curve.split}/curve", curve.measure, "/")
        log_table(trainer, f"{key}_table", [row.to_dict() for row in curve.rows])
        self.paths = []
        self.paths = [*curve.save(self._folder, stem), *save(figure, self._folder / stem)]
        png = self._folder / f"{stem}.png"
        log_picture(trainer, key, lambda: png, lambda: figure, trainer.global_step)
        log_files(trainer, self.paths)


def _stem(folder: Path, curve: Curve) -> str:
    """`curve`, unless that is the curve of another split, or by another measure."""
    try:
        there = Curve.load(folder / "curve.json")
    except (FileNotFoundError, ValueError):  # none there, or none that anybody could read
        there = curve
    apart = [mine for mine, its in ((curve.split, there.split), (curve.measure, there.measure)) if mine != its]
    return "-".join(["curve", *apart])


AREAS = ("cpr", "cmd", "log_area")


def _is_area(key: str) -> bool:
    return key.endswith(AREAS)


def _scalars(curve: Curve) -> dict[str, float]:
    """``val/curve/interchange/1%/kl``, ``val/curve/interchange/signed/cmd`` and so on."""
    key = by_measure(f"{curve.split}/curve", curve.measure, "/")
    at_sizes = {
        f"{key}/{row.ablation}/{in_key(row.circuit)}/{name}": getattr(row, name)
        for row in curve.rows
        for name in ("faithfulness", "kl", "accuracy")
        if row.ranking in RANKINGS and not row.pruned
    }
    areas = {
        f"{key}/{entry.ablation}/{entry.ranking}/{name}": getattr(entry, name)
        for entry in curve.summary
        for name in AREAS
    }
    return at_sizes | areas
