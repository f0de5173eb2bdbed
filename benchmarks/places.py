"""What are places worth? Circuits of edges against circuits of edges in spans, on IOI with SmolLM2-135M.

    python benchmarks/places.py --seeds 0 1 2 --write

EAP, EAP-IG and edge pruning, each with a gate or score for an edge at all tokens, and for an edge in each span that is
live (found from the prompts: S2, what lies between S2 and END, END). The same pairs and steps for both, the same
held-out prompts, interchange ablation. Edge pruning starts from the ranks of its own EAP.

An edge in a span is less than an edge, so circuits are compared twice. At equal *slots*: the same share of what there
is to choose from, once a number for an edge, once for an edge and span. At equal *token-edges*: an edge counts once for
every token at which it is open, and the best slots are taken as long as they cost no more than the circuit without
spans. Scores that stand in the folder are not made again, so that a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import results_page
import torch
from measuring import quiet_trainer
from options import parse, parser, write_json
from smollm2 import NAME, located
from torch import Tensor

from lightning_circuits import EAP, EAPIG, Attribution, CircuitSearch, EdgePruning
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models.loading import load_model
from lightning_circuits.objectives import MatchLogitDifference
from lightning_circuits.search.splits import live_tokens
from lightning_circuits.selection import size_to_count, top_n, worth

SIZES = [0.005, 0.01, 0.02, 0.05, 0.1]
QUICK = {"model": "tiny-ioi", "seeds": [0], "steps": 4, "train": 16, "prompts": 8}
COUNTS = ("slots", "token-edges")
BATCHES = 20
"""Of eight pairs, for attribution."""

METHODS: dict[str, Callable[[Any, bool, Path, int], CircuitSearch]] = {
    "EAP": lambda model, spans, eap, seed: EAP(model, spans=spans),
    "EAP-IG": lambda model, spans, eap, seed: EAPIG(model, steps=5, spans=spans),
    "trained": lambda model, spans, eap, seed: EdgePruning(
        model, objective=MatchLogitDifference(), warm_start=eap, seed=seed, spans=spans
    ),
}


def main() -> None:
    options = parser(__doc__, model=NAME, steps=300, train=480, prompts=64, output=Path("runs/places"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    args = parse(options, QUICK)

    name = located(args.model)
    model = load_model(name)
    rows = []
    for seed in args.seeds:
        data = IOIDataModule(
            name, n_train=args.train, n_val=args.prompts, n_test=8, batch_size=8, seed=seed, spans="roles"
        )
        for spans in (False, True):
            scored = {method: scores(method, model, data, spans, seed, args) for method in args.methods}
            rows += judge(model, data, scored, seed)
            write_json(args, rows=rows)
    for counted in COUNTS:
        table = table_rows(rows, counted)
        results_page.show(table, f"{args.prompts} held-out prompts, interchange, equal {counted}: KL, faithfulness")
        if args.write:
            results_page.write_table(
                f"places, {counted}",
                table,
                f"Seeds {', '.join(map(str, args.seeds))}, {args.prompts} held-out prompts, interchange ablation, "
                f"edges before pruning; {args.steps} steps on {args.train} pairs, attribution on {8 * BATCHES}. "
                f"{results_page.command()}, {results_page.machine()}.",
            )


def scores(method: str, model: Any, data: IOIDataModule, spans: bool, seed: int, args: argparse.Namespace) -> Circuit:
    """The circuit of a method with its scores, from its file if it has been made before."""
    folder = args.output / f"seed-{seed}" / ("per-span" if spans else "all-tokens")
    path = folder / f"{method}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        search = METHODS[method](model, spans, folder / "EAP.safetensors", seed)
        limit = BATCHES if isinstance(search, Attribution) else None
        quiet_trainer(max_steps=args.steps, limit_train_batches=limit, limit_val_batches=0).fit(search, data)
        search.circuit(size=SIZES[0]).save(path)
    return Circuit.load(path)


def judge(model: Any, data: IOIDataModule, scored: dict[str, Circuit], seed: int) -> list[dict[str, Any]]:
    """The circuits of every size of some scores of one layout: a dictionary for each, by either count."""
    layout = next(iter(scored.values())).layout
    where = "per span" if layout.spans else "all tokens"
    circuit_model = EAP(model).circuit_model.in_spans(layout.spans)
    found = live_tokens(data.train_dataloader(), ABLATIONS.make("interchange"))
    tokens = torch.tensor([found[name] for name in layout.spans] or [sum(found.values())], dtype=torch.float64)
    sizes = list(itertools.product(scored, COUNTS, SIZES))
    circuits = {
        f"{method} {counted} {size}": Circuit(layout, chosen(scored[method], tokens, counted, size))
        for method, counted, size in sizes
    }
    alike: dict[bytes, str] = {}
    names = {name: alike.setdefault(circuit.members.numpy().tobytes(), name) for name, circuit in circuits.items()}
    once = {name: circuits[name] for name in alike.values()}
    judged = evaluate(circuit_model, data.val_dataloader(), once, [ABLATIONS.make("interchange")], controls=False)
    by_name = {row.circuit: row for row in judged}
    return [
        {
            "seed": seed,
            "method": method,
            "where": where,
            "counted": counted,
            "asked": size,
            **by_name[names[name]].to_dict(),
        }
        for (method, counted, size), name in zip(sizes, circuits, strict=True)
    ]


def chosen(scored: Circuit, tokens: Tensor, counted: str, size: float) -> Tensor:
    """The best edges of a size: a share of all slots, or all that a share of all token-edges pays for."""
    layout, scores = scored.layout, worth(scored.scores, absolute=scored.absolute)
    if counted == "slots":
        return top_n(scores, size_to_count(size, layout))
    best = scores.argsort(descending=True, stable=True)
    spent = tokens.repeat_interleave(layout.plain.n_edges)[best].cumsum(0)
    return top_n(scores, int((spent <= size * spent[-1]).sum()))


def table_rows(rows: list[dict[str, Any]], counted: str) -> list[results_page.Row]:
    """A row for each method and kind of edges, a cell being KL and faithfulness, in the mean over seeds; last, what KL
    per span is of that without spans, seed by seed."""
    rows = [row for row in rows if row["counted"] == counted]
    found = {(row["method"], row["where"], row["asked"], row["seed"]): row for row in rows}
    methods, seeds = (list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "seed"))

    def values(name: str, method: str, where: str, size: float) -> list[float]:
        return [found[method, where, size, seed][name] for seed in seeds]

    def cell(method: str, where: str, size: float) -> str:
        kl, f = (fmean(values(name, method, where, size)) for name in ("kl", "faithfulness"))
        return f"**{kl:.3f}**, {f:.2f}"

    def ratios(method: str, size: float) -> str:
        each = zip(*(values("kl", method, where, size) for where in ("per span", "all tokens")), strict=True)
        return " ".join(f"{spans / plain:.2f}" for spans, plain in each)

    table = [
        {"method": f"{method}, {where}"} | {results_page.percent(size): cell(method, where, size) for size in SIZES}
        for method in methods
        for where in ("all tokens", "per span")
    ]
    return table + [
        {"method": f"{method}: KL per span / all tokens"}
        | {results_page.percent(size): ratios(method, size) for size in SIZES}
        for method in methods
    ]


if __name__ == "__main__":
    main()
