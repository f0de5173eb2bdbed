"""What is a circuit that was found under one ablation worth under another? IOI with SmolLM2-135M, five by five.

    python benchmarks/ablations.py --write

A circuit of one size is found under each ablation: by EAP-IG, and under optimal ablation, which an attribution cannot
ask about, by edge pruning, which starts at the ranks of EAP-IG under interchange ablation and learns constants beside
its gates. (EAP-IG takes the middles of its five steps: under zero ablation the first of the left ends is a stream of
zeros, where norms make gradients overflow.) Edges that lead nowhere are left out. Every circuit is then judged under
all five ablations on the same test prompts, means being taken and optimal constants fitted over the training prompts,
for each circuit anew.

The table has f and, behind it, the KL divergence from the model and the share of right answers. An f has the empty
circuit of *its* ablation in it, KL has not: between columns compare KL, f within one.
"""

from __future__ import annotations

import time

import results_page
from measuring import quiet_trainer
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits import EAPIG, CircuitSearch, EdgePruning
from lightning_circuits.ablation import ABLATIONS, Ablation, OptimalAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.gates import SizeRange, TopK
from lightning_circuits.models.loading import load_model

SHOWN = ("interchange", "mean", "mean-positional", "zero", "optimal")
QUICK = {"model": "tiny-ioi", "train": 8, "prompts": 8, "steps": 2, "fit": 2, "size": 0.1}


def main() -> None:
    options = parser(__doc__, model=NAME, seed=0, size=0.02, train=24, prompts=48, batch=4, steps=40, fit=24, lr=0.1)
    args = parse(options, QUICK)
    name = located(args.model)
    model = load_model(name)
    data = IOIDataModule(
        name,
        n_train=args.train,
        n_val=args.prompts,
        n_test=args.prompts,
        batch_size=args.batch,
        corruption="third-name",
        seed=args.seed,
    )
    data.setup()

    def ablation(called: str) -> Ablation:
        return OptimalAblation(args.fit, args.lr) if called == "optimal" else ABLATIONS.make(called)

    made = [ablation(each) for each in SHOWN]
    for each in made:
        each.require_known(data.train_dataloader() if each.needs_data else (), data.test_dataloader())
    begun, circuits = time.process_time(), dict[str, Circuit]()
    for under in SHOWN:
        search: CircuitSearch = (
            EAPIG(model, ablation=ablation(under), steps=5, rule="midpoint")
            if under != "optimal"
            else EdgePruning(
                model,
                ablation=ablation(under),
                gate=TopK(SizeRange(args.size / 4, args.size * 4)),
                warm_start=circuits["interchange"].scores,
                seed=args.seed,
            )
        )
        quiet_trainer(max_steps=args.steps).fit(search, data)
        circuits[under] = search.circuit(args.size).prune()
        print(f"{under}: {circuits[under].n_edges:,} edges, {time.process_time() - begun:.0f} CPU seconds", flush=True)

    for each in made:
        each.fit(search.circuit_model, data.train_dataloader() if each.needs_data else ())
    rows = evaluate(search.circuit_model, data.test_dataloader(), circuits, made, split="test", controls=False)
    table = table_rows(rows, circuits)
    results_page.show(table, f"f, KL, accuracy; {time.process_time() - begun:.0f} CPU seconds")
    write_json(args, rows=[row.to_dict() for row in rows])
    if args.write:
        results_page.write_table(
            "ablations",
            table,
            f"Seed {args.seed}, {args.prompts} test prompts, circuits of {results_page.percent(args.size)} before "
            f"pruning, by {args.train} training pairs; constants fitted in {args.fit} steps of {args.batch} prompts. "
            f"{results_page.command()}, {results_page.machine()}.",
        )


def table_rows(rows: list[Row], circuits: dict[str, Circuit]) -> list[results_page.Row]:
    """A row for each circuit, a column for each ablation that it was judged under."""
    cells = {(row.circuit, row.ablation): f"{row.faithfulness:.2f}, {row.kl:.2f}, {row.accuracy:.0%}" for row in rows}
    names = {"empty": "nothing (empty circuit)"} | {
        under: f"{under}, {circuit.n_edges:,} edges" for under, circuit in circuits.items()
    }
    return [
        {"found under": shown, **{f"judged under {each}": cells[circuit, each] for each in SHOWN}}
        for circuit, shown in names.items()
    ]


if __name__ == "__main__":
    main()
