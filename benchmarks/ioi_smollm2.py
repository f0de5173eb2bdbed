"""Edge pruning against EAP on IOI with SmolLM2-135M: the same held-out prompts, exact ablation, binary circuits.

    python benchmarks/ioi_smollm2.py --seeds 0 1 2 --write

For every seed (of the prompts and of training alike): EAP, which is the gates' gradient of the logit difference at
M = 1 on 160 training pairs, edges taken by absolute value; one run of top-k gates, read at every size; and one run of
hard concrete gates, trained for 1 % of the edges. Both start from the ranks of that EAP, and are trained to match the
full model's distribution and logit difference. All settings are the same for all seeds and sizes.
"""

from __future__ import annotations

import time
from typing import Any

import results_page
from measuring import quiet_trainer
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits import EdgePruning
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.gates import HardConcrete, TargetSparsity, TopK
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import LogitDifference, MatchLogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.selection import size_to_count, top_n

SIZES = [0.0025, 0.005, 0.01, 0.02, 0.05, 0.1]
QUICK = {"model": "tiny-ioi", "seeds": [0], "steps": 4, "train": 16, "prompts": 8}


def main() -> None:
    options = parser(__doc__, model=NAME, steps=300, train=480, prompts=64)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--gates", nargs="+", default=["top-k", "hard concrete"])
    args = parse(options, QUICK)

    name = located(args.model)
    hf_model = load_model(name)
    rows = []
    for seed in args.seeds:
        data = IOIDataModule(name, n_train=args.train, n_val=args.prompts, n_test=8, batch_size=8, seed=seed)
        rows += one_seed(hf_model, data, seed, args.gates, args.steps)
        write_json(args, rows=rows)
    table = [line for seed in args.seeds for line in table_rows([row for row in rows if row["seed"] == seed])]
    results_page.show(table, f"{args.prompts} held-out prompts, interchange: KL (x EAP's), faithfulness")
    if args.write:
        results_page.write_table(
            "ioi",
            table,
            f"{rows[0]['prompts']} held-out prompts, {rows[0]['ablation']} ablation, edges before pruning; "
            f"{args.steps} steps on {args.train} pairs. {results_page.command()}, {results_page.machine()}.",
        )


def one_seed(hf_model: Any, data: IOIDataModule, seed: int, gates: list[str], steps: int) -> list[dict]:
    """All methods on one seed: a dictionary for every method and size."""
    start = time.perf_counter()
    model = EdgePruning(hf_model).circuit_model
    attributed = list(data.train_dataloader())[:20]
    ablation = ABLATIONS.make("interchange")
    attribution = sum(gradient_scores(model, batch, ablation, LogitDifference()).edges for batch in attributed).abs()
    scores, seconds = {"EAP": attribution}, {"EAP": time.perf_counter() - start}
    for kind in gates:
        gate = TopK() if kind == "top-k" else HardConcrete(TargetSparsity(0.99))
        search = EdgePruning(hf_model, gate=gate, objective=MatchLogitDifference(), warm_start=attribution, seed=seed)
        trainer = quiet_trainer(max_steps=steps, limit_val_batches=0)
        start = time.perf_counter()
        trainer.fit(search, data)
        scores[kind], seconds[kind] = search.edge_scores(), time.perf_counter() - start
    circuits = {
        f"{kind} {size:g}": Circuit(model.layout, top_n(values, size_to_count(size, model.layout)))
        for kind, values in scores.items()
        for size in SIZES
    }
    found = evaluate(model, data.val_dataloader(), circuits, [ablation], controls=False)
    rows = []
    for row in found:
        kind, _, size = row.circuit.rpartition(" ")
        if kind:
            rows.append({"method": kind, "seed": seed, "seconds": seconds[kind], **row.to_dict(), "size": float(size)})
    return rows


def table_rows(rows: list[dict]) -> list[results_page.Row]:
    """A row for each method of one seed; a cell is KL, its ratio to EAP's, and faithfulness."""
    baseline = {row["size"]: row["kl"] for row in rows if row["method"] == "EAP"}
    table: dict[str, results_page.Row] = {}
    for row in rows:
        kl, size = row["kl"], row["size"]
        cell = f"{kl:.3f}" if row["method"] == "EAP" else f"**{kl:.3f}** ({kl / baseline[size]:.2f})"
        name = f"{row['seed']}, {row['method']}"
        line = table.setdefault(row["method"], {"seed, method": name})
        line[results_page.percent(size)] = f"{cell}, {row['faithfulness']:.2f}"
    return list(table.values())


if __name__ == "__main__":
    main()
