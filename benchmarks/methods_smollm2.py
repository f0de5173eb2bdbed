"""Which method finds the best circuit? All of them on three tasks with SmolLM2-135M, judged by the same exact ablation.

    python benchmarks/methods_smollm2.py --output runs/methods --write

Each method is a search like any other: fitted on the training pairs, judged on the same test prompts by
`FaithfulnessCurve`, which writes a folder for each; `lightning-circuits compare` can read them, too. Tables and figures
take edges by |score| where scores have signs. A method whose folder is complete is not run again, so that a run that
was killed goes on; tasks and methods can be run one by one, by `--tasks` and `--methods`.

Agreement has two nouns of the other number before the verb: there the model errs, and a circuit may err as it does.

What a method costs is given in seconds and in *stock steps*: forward and backward of the stock model, gradient to the
input embeddings, on a training batch. Attribution sees `BATCHES` batches, each once; EAP-IG over activations, which
needs hundreds of passes for a batch, sees one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import results_page
from measuring import Clock, quiet_trainer, stock_step
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits import (
    EAP,
    EAPIG,
    Attribution,
    CircuitSearch,
    CleanCorrupted,
    EAPIGActivations,
    EdgePruning,
    Ensemble,
    ExpectedGradients,
    InformationFlowRoutes,
    MaskedGradients,
    RandomScores,
    RelP,
)
from lightning_circuits.callbacks import CircuitExport, FaithfulnessCurve
from lightning_circuits.datamodules import (
    CountryCapitalDataModule,
    IOIDataModule,
    SubjectVerbAgreementDataModule,
    TaskDataModule,
)
from lightning_circuits.drawing.curves import curve_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.evaluation.curve import Curve, CurveRow
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import MatchDecision, MatchLogitDifference

BATCHES = 10
SHOWN = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
QUICK = {"model": "tiny-ioi", "steps": 4, "train": 16, "prompts": 8, "tasks": ["IOI"]}

TASKS: dict[str, Callable[..., TaskDataModule]] = {
    "IOI": partial(IOIDataModule, corruption="third-name"),
    "capital": CountryCapitalDataModule,
    "agreement": partial(SubjectVerbAgreementDataModule, attractors=2),
}
METHODS: dict[str, Callable[[Any, int], CircuitSearch]] = {
    "random": lambda model, seed: RandomScores(model, seed=seed),
    "information flow routes": lambda model, seed: InformationFlowRoutes(model),
    "EAP": lambda model, seed: EAP(model),
    "clean-corrupted": lambda model, seed: CleanCorrupted(model),
    "EAP-IG inputs": lambda model, seed: EAPIG(model, steps=5),
    "EAP-IG activations": lambda model, seed: EAPIGActivations(model, steps=5),
    "expected gradients": lambda model, seed: ExpectedGradients(model, seed=seed),
    "masked gradients": lambda model, seed: MaskedGradients(model, seed=seed),
    "RelP": lambda model, seed: RelP(model),
    "ensemble": lambda model, seed: Ensemble(model),
    "edge pruning": lambda model, seed: EdgePruning(model, objective=MatchLogitDifference(), seed=seed),
    "edge pruning by decision": lambda model, seed: EdgePruning(model, objective=MatchDecision(), seed=seed),
}


def main() -> None:
    options = parser(__doc__, model=NAME, seed=0, steps=150, train=160, prompts=48, output=Path("runs/methods"))
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    args = parse(options, QUICK)

    name = located(args.model)
    model = load_model(name)
    found = {}
    for task in args.tasks:
        sizes = {"n_train": args.train, "n_val": args.prompts, "n_test": args.prompts}
        data = TASKS[task](name, **sizes, batch_size=8, seed=args.seed)
        data.setup("fit")
        folders = {method: args.output / task / method.replace(" ", "-") for method in args.methods}
        for method, folder in folders.items():
            if not (folder / "cost.json").exists():
                make(METHODS[method](model, args.seed), data, folder, args)
        found[task] = rows = table_rows(folders)
        results_page.show(rows, f"{task}: f, KL, accuracy, agreement with the full model where it is wrong")
        curves = {of: by_absolute(Curve.load(folder / "curve.json"), args.model) for of, folder in folders.items()}
        print("Written:", *save(curve_figure(curves, ("faithfulness", "kl")), args.output / task / "methods"))
        if args.write:
            write(task, rows, next(iter(curves.values())), args)
    write_json(args, rows=found)


def make(search: CircuitSearch, data: TaskDataModule, folder: Path, args: Any) -> None:
    """Train or attribute, judge on the test prompts, and keep what it cost."""
    limit = 1 if isinstance(search, EAPIGActivations) else BATCHES if isinstance(search, Attribution) else None
    training = TrainingTime()
    curve = FaithfulnessCurve(random=False, dirpath=folder)
    export = CircuitExport(folder, formats=["pt"], sizes=[0.01], save_top_k=0)
    fitting = {"max_steps": args.steps, "limit_train_batches": limit, "limit_val_batches": 0}
    quiet_trainer(training, export, **fitting).fit(search, data)
    quiet_trainer(curve).test(search, data, verbose=False)
    batch = next(iter(data.train_dataloader()))
    unit = Clock().alternate({"stock": lambda: stock_step(search.circuit_model.model, batch)}, repeats=5)["stock"]
    cost = {"seconds": training.seconds, "stock_steps": training.seconds / unit.seconds}
    (folder / "cost.json").write_text(json.dumps({**cost, "threads": args.threads, "seed": args.seed}))


def write(task: str, rows: list[results_page.Row], judged: Curve, args: Any) -> None:
    """The table of a task; that of IOI in brief, for the README."""
    measured_on = f"Seed {args.seed}, {judged.prompts} test prompts, {judged.ablations[0]} ablation"
    trained = f"edge pruning {args.steps} steps, attribution up to {8 * BATCHES} of {args.train} training pairs"
    run = f"{results_page.command()}, {results_page.machine()}"
    results_page.write_table(f"methods, {task}", rows, f"{measured_on}, 95 % intervals; {trained}. {run}.")
    if task == "IOI":
        results_page.write_table("methods in brief", in_brief(rows), f"{measured_on}; {trained}.", results_page.README)


class TrainingTime(pl.Callback):
    """CPU seconds from the start of fitting to the end of training, before other callbacks judge what came of it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.start = time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.process_time() - self.start


def table_rows(folders: dict[str, Path]) -> list[results_page.Row]:
    """A row for each method, by |score| where scores have signs; CPR by the signed scores, as MIB has it."""
    rows = []
    for method, folder in folders.items():
        curve = Curve.load(folder / "curve.json")
        ablation, best = curve.ablations[0], ranking_of(curve)
        points = {row.share: row for row in curve.points(ablation, best)}
        cost = json.loads((folder / "cost.json").read_text())
        rows.append(
            {
                "method": method,
                **{results_page.percent(share): cell(points[share]) for share in SHOWN},
                "CPR": f"{curve.areas(ablation, 'signed').cpr:.2f}",
                "CMD": f"{curve.areas(ablation, best).cmd:.3f}",
                "seconds": f"{cost['seconds']:.0f}",
                "stock steps": f"{cost['stock_steps']:.0f}",
            }
        )
    return rows


def in_brief(rows: list[results_page.Row]) -> list[results_page.Row]:
    """The same rows with faithfulness and KL at two sizes, for the README."""

    def cells(row: results_page.Row, size: str) -> results_page.Row:
        faithfulness, kl, *_ = row[size].split(", ")
        return {f"f at {size}": faithfulness.split(" ")[0], f"KL at {size}": kl}

    return [
        {"method": row["method"], **cells(row, "1 %"), **cells(row, "5 %"), "stock steps": row["stock steps"]}
        for row in rows
    ]


def ranking_of(curve: Curve) -> str:
    """By |score| where scores have signs."""
    return "absolute" if "absolute" in curve.rankings else "signed"


def by_absolute(curve: Curve, model: str) -> Curve:
    """A curve with the line of that ranking alone."""
    rows = [row for row in curve.rows if row.ranking in (None, ranking_of(curve))]
    summary = [areas for areas in curve.summary if areas.ranking == ranking_of(curve)]
    return replace(curve, model=model, rows=rows, summary=summary)


def cell(row: CurveRow) -> str:
    agreement = "-" if math.isnan(row.agreement_when_wrong) else f"{row.agreement_when_wrong:.0%}"
    f, low, high = (
        round(value, 2) + 0.0  # 0.00, not -0.00
        for value in (row.faithfulness, row.faithfulness_low, row.faithfulness_high)
    )
    return f"{f:.2f} [{low:.2f} to {high:.2f}], **{row.kl:.3f}**, {row.accuracy:.0%}, {agreement}"


if __name__ == "__main__":
    main()
