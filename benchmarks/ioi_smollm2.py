"""Edge pruning against attribution at every size: IOI with SmolLM2-135M, prompts that no method has seen.

    python benchmarks/ioi_smollm2.py --seeds 0 1 2 --output runs/ioi --write

For every seed (of the prompts and of training alike), each attribution on 160 training pairs, edges by |score|, and one
run of edge pruning as it is by default, which trains on all of them and decides on validation pairs how far its ranking
holds. All are judged on the same test prompts by exact ablation of binary circuits. Then seeds are held against each
other: how many of their edges are the same?

Scores are kept in the output folder, and what is there is not made again: a killed run goes on, and a method for itself
can be run by `--methods`. Where gates begin, what longer training buys, and what more prompts do, is written into
tables of their own:

    python benchmarks/ioi_smollm2.py --seeds 0 --starts Ensemble EAP-IG RelP --output runs/ioi --write
    python benchmarks/ioi_smollm2.py --seeds 0 --starts EAP-IG --steps 120 300 600 1000 --output runs/ioi --write
    python benchmarks/ioi_smollm2.py --seeds 0 --starts EAP-IG --train 2000 --output runs/ioi-2000 --write
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import results_page
import torch
from measuring import quiet_trainer
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits import EAP, EAPIG, EdgePruning, Ensemble, RelP
from lightning_circuits.ablation import InterchangeAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.evaluation.stability import pairwise_stability
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import MatchLogitDifference
from lightning_circuits.selection import size_to_count, top_n

SIZES = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
STABILITY_SIZES = [0.01, 0.02]
ATTRIBUTIONS = {"EAP": EAP, "EAP-IG": EAPIG, "RelP": RelP, "Ensemble": Ensemble}
TRAIN, ATTRIBUTED = 480, 160
TRAINED = "edge pruning"
START = "Ensemble"
"""Where gates begin by default."""
QUICK = {"model": "tiny-ioi", "seeds": [0, 1], "steps": [4], "starts": ["Ensemble", "RelP"], "train": 16}
QUICK |= {"prompts": 8, "output": Path("runs/quick")}


def main() -> None:
    options = parser(__doc__, model=NAME, train=TRAIN, prompts=128, output=Path("runs/ioi"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--steps", type=int, nargs="+", default=[300])
    options.add_argument("--starts", nargs="+", default=[START], choices=list(ATTRIBUTIONS), help="of edge pruning")
    methods = [*ATTRIBUTIONS, TRAINED]
    options.add_argument("--methods", nargs="+", default=methods, choices=methods)
    args = parse(options, QUICK)
    args.output.mkdir(parents=True, exist_ok=True)

    hf_model = load_model(located(args.model))
    rows = [row for seed in args.seeds for row in of_seed(hf_model, seed, args)]
    write_json(args, rows=rows)
    ioi = [line for seed in args.seeds for line in table_rows([row for row in rows if row["seed"] == seed])]
    results_page.show(ioi, f"{args.prompts} test prompts, interchange: KL (x the best attribution's), f, accuracy")
    several, variants = len(args.seeds) > 1, len(args.steps) * len(args.starts) > 1
    if variants:
        ioi = [{**line, "CPU minutes": minutes(line, args)} for line in ioi if TRAINED in line["seed, method"]]
    stable = stability_rows(hf_model, args) if several else []
    if several:
        results_page.show(stable, "Edges in common of two seeds: Jaccard index")
    if args.write:
        budget = f"edge pruning {' and '.join(map(str, args.steps))} steps on {args.train} pairs"
        budget += f" from the ranks of {' and '.join(args.starts)}"
        measured_on = f"{args.prompts} test prompts, interchange ablation, edges before pruning; {budget}"
        run = f"{results_page.command()}, {results_page.machine()}"
        name = "starts" if len(args.starts) > 1 else "budget" if len(args.steps) > 1 else "ioi"
        name = name if args.train == TRAIN else "more prompts"
        results_page.write_table(name, ioi, f"{measured_on}, attribution on {ATTRIBUTED}. {run}.")
        if several and not variants:
            of = f"Seeds {', '.join(map(str, args.seeds))}, means over their pairs"
            results_page.write_table("stability", stable, f"{of}; {budget}. {run}.")


def of_seed(hf_model: Any, seed: int, args: Any) -> list[dict]:
    """What the circuits of all sizes of each method are worth: a dictionary for each, and one for the full model."""
    model = EdgePruning(hf_model, warm_start=None).circuit_model
    path = args.output / f"rows-{seed}.json"
    known = {row["circuit"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    circuits = {
        f"{method} {size:g}": Circuit(model.layout, top_n(scores, n))
        for method, scores in rankings(hf_model, seed, args).items()
        for size in SIZES
        if (n := int(size * model.layout.n_edges))
    }
    if missing := {name: circuit for name, circuit in circuits.items() if name not in known}:
        data = prompts_of(args, seed)
        data.setup("test")
        found = evaluate(model, data.test_dataloader(), missing, [InterchangeAblation()], split="test", controls=False)
        for row in found:
            method, _, size = row.circuit.rpartition(" ")
            place = {"method": method, "size": float(size)} if method else {"method": row.circuit}
            known[row.circuit] = {**row.to_dict(), **place, "seed": seed}
        path.write_text(json.dumps(list(known.values())))
    return [known[name] for name in ("full", *circuits)]


def rankings(hf_model: Any, seed: int, args: Any) -> dict[str, torch.Tensor]:
    """The scores of every method, the best edge the highest, from their files or made now."""
    trained = {
        f"{TRAINED}, {steps} steps{'' if start == START else f' from {start}'}": (steps, start)
        for start in args.starts
        for steps in args.steps
    }
    made = {}
    for method in [each for each in args.methods if each != TRAINED] + [*trained] * (TRAINED in args.methods):
        path = path_of(args, method, seed)
        if not path.exists():
            torch.save(fitted(hf_model, method, *trained.get(method, (-1, "")), seed, args), path)
        made[method] = torch.load(path, weights_only=True)["scores"]
    return made


def path_of(args: Any, method: str, seed: int | str) -> Path:
    return args.output / f"{method.replace(',', '').replace(' ', '-')}-{seed}.pt"


def fitted(hf_model: Any, method: str, steps: int, begin_at: str, seed: int, args: Any) -> dict[str, Any]:
    """The scores of a method, the CPU seconds that they took, and how many edges of edge pruning are as learned."""
    start = time.process_time()
    if method in ATTRIBUTIONS:
        search = ATTRIBUTIONS[method](hf_model)
        quiet_trainer(limit_train_batches=ATTRIBUTED // 8, limit_val_batches=0).fit(search, prompts_of(args, seed))
        return {"scores": search.edge_scores().abs(), "seconds": time.process_time() - start}
    search = EdgePruning(hf_model, objective=MatchLogitDifference(), seed=seed, warm_start=ATTRIBUTIONS[begin_at]())
    quiet_trainer(max_steps=steps, limit_val_batches=0).fit(search, prompts_of(args, seed))
    seconds, learned = time.process_time() - start, int(search.learned_edges)
    return {"scores": search.edge_scores(), "seconds": seconds, "learned_edges": learned}


def prompts_of(args: Any, seed: int) -> IOIDataModule:
    name = located(args.model)
    return IOIDataModule(name, n_train=args.train, n_val=64, n_test=args.prompts, batch_size=8, seed=seed)


def table_rows(rows: list[dict]) -> list[results_page.Row]:
    """A row for each method of one seed. A cell of an attribution is KL, faithfulness and accuracy; one of edge pruning
    has the ratio of its KL to the best attribution's, too."""
    attributed = [row for row in rows if row["method"] in ATTRIBUTIONS]
    table: dict[str, results_page.Row] = {}
    for row in rows:
        if row["method"] == "full":
            continue
        others = [each["kl"] for each in attributed if each["size"] == row["size"]]
        ratio = "" if row["method"] in ATTRIBUTIONS or not others else f" ({row['kl'] / min(others):.2f})"
        f = round(row["faithfulness"], 2) + 0.0  # 0.00, not -0.00
        line = table.setdefault(row["method"], {"seed, method": f"{row['seed']}, {row['method']}"})
        line[results_page.percent(row["size"])] = f"**{row['kl']:.3f}**{ratio}, {f:.2f}, {row['accuracy']:.0%}"
    return list(table.values())


def minutes(line: results_page.Row, args: Any) -> str:
    """What a run of edge pruning took, its start and validation included."""
    seed, _, method = line["seed, method"].partition(", ")
    seconds = torch.load(path_of(args, method, seed), weights_only=True)["seconds"]
    return f"{seconds / 60:.0f}"


def stability_rows(hf_model: Any, args: Any) -> list[results_page.Row]:
    """For each method, the mean Jaccard index of the edges of two seeds."""
    of_seeds = [rankings(hf_model, seed, args) for seed in args.seeds]
    layout = EdgePruning(hf_model, warm_start=None).layout
    table = []
    for method in of_seeds[0]:
        row = {"method": method}
        for size in STABILITY_SIZES:
            found = pairwise_stability([top_n(scores[method], size_to_count(size, layout)) for scores in of_seeds])
            row[results_page.percent(size)] = f"{found.mean:.2f} ({found.chance:.2f} by chance)"
        table.append(row)
    if len(of_seeds) == 3 and (trained := [name for name in of_seeds[0] if name.startswith(TRAINED)]):
        row = {"method": f"{trained[0]}: the mean of two runs, and the third"}
        for size in STABILITY_SIZES:
            n = size_to_count(size, layout)
            found = [against_the_others([scores[trained[0]] for scores in of_seeds], one, n) for one in range(3)]
            row[results_page.percent(size)] = f"{sum(found) / 3:.2f}"
        table.append(row)
    return table


def against_the_others(scores: list[torch.Tensor], one: int, n: int) -> float:
    """The Jaccard index of the best n edges of a run, and those by the mean logarithm of the ranks of the others."""
    places = [other.argsort(descending=True).argsort() + 1.0 for i, other in enumerate(scores) if i != one]
    mine, theirs = top_n(scores[one], n), top_n(-torch.stack(places).log().mean(0), n)
    return float((mine & theirs).sum() / (mine | theirs).sum())


if __name__ == "__main__":
    main()
