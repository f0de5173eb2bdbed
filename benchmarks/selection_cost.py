"""How long choosing edges takes for the layout of Llama-3.1-8B: 1.6 million edges, on one core.

    python benchmarks/selection_cost.py --write

Figures are medians of CPU seconds. How many edges are chosen hardly matters; 10 % are.
"""

from __future__ import annotations

import results_page
import torch
from measuring import Clock
from options import parse, parser, write_json

from lightning_circuits.layout import Layout
from lightning_circuits.selection import greedy, threshold, top_n

LIMIT = 2.0
LLAMA = Layout(n_layers=32, n_heads=32, d_model=4096)
SMALL = Layout(n_layers=4, n_heads=4, d_model=64)
QUICK = {"repeats": 1}


def main() -> None:
    args = parse(parser(__doc__, repeats=7), QUICK)
    layout = SMALL if args.quick else LLAMA

    n = layout.n_edges // 10
    scores = torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(0))
    calls = {}
    for kind, values in {
        "scores": scores,
        "with ties": scores.clamp(0, 1).round(decimals=2),  # as learned gates have many
    }.items():
        calls[f"top_n, {kind}"] = lambda values=values: top_n(values, n)
        calls[f"threshold, {kind}"] = lambda values=values: threshold(values, 0.5)
        calls[f"greedy, {kind}"] = lambda values=values: greedy(values, n, layout)
    rows = {name: cost.seconds for name, cost in Clock().alternate(calls, args.repeats).items()}
    results_page.show(
        [{"selection": name, "CPU seconds": f"{seconds:.3f}"} for name, seconds in rows.items()],
        f"{layout.n_edges:,} edges, {args.threads} thread(s), at most {LIMIT:g} s",
    )
    if args.write:
        results_page.write_row(
            "selection cost",
            {
                "layout": f"Llama-3.1-8B, {layout.n_edges:,} edges",
                "top n": f"{rows['top_n, scores']:.1f} s",
                "greedy from the logits": f"{rows['greedy, scores']:.1f} s",
                "machine": results_page.machine(),
            },
        )
    write_json(args, edges=layout.n_edges, seconds=rows, limit=LIMIT)


if __name__ == "__main__":
    main()
