"""How long choosing edges takes for the layout of Llama-3.1-8B: 1.6 million edges, on one core.

    python benchmarks/selection_cost.py --write

Figures are medians of CPU seconds. How many edges are chosen hardly matters; 10 % are.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import results_page
import torch
from step_cost import Clock

from lightning_circuits.layout import Layout
from lightning_circuits.selection import greedy, threshold, top_n

LIMIT = 2.0
LLAMA = Layout(n_layers=32, n_heads=32, d_model=4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/results.md")
    args = parser.parse_args()
    torch.set_num_threads(1)

    n = LLAMA.n_edges // 10
    scores = torch.randn(LLAMA.n_edges, generator=torch.Generator().manual_seed(0))
    gates = scores.clamp(0, 1).round(decimals=2)  # learned gates have many ties
    rows = {}
    clock = Clock("cpu")
    for kind, values in (("scores", scores), ("with ties", gates)):
        for name, call in {
            "top_n": lambda values=values: top_n(values, n),
            "threshold": lambda values=values: threshold(values, 0.5),
            "greedy": lambda values=values: greedy(values, n, LLAMA),
        }.items():
            call()
            rows[f"{name}, {kind}"] = statistics.median(clock(call)[0] for _ in range(args.repeats))
    results_page.show(
        [{"selection": name, "CPU seconds": f"{seconds:.3f}"} for name, seconds in rows.items()],
        f"{LLAMA.n_edges:,} edges, one thread, at most {LIMIT:g} s",
    )
    if args.write:
        results_page.write_row(
            "selection cost",
            {
                "layout": f"Llama-3.1-8B, {LLAMA.n_edges:,} edges",
                "top n": f"{rows['top_n, scores']:.1f} s",
                "greedy from the logits": f"{rows['greedy, scores']:.1f} s",
                "machine": results_page.machine(),
            },
        )
    if args.json:
        args.json.write_text(json.dumps({"edges": LLAMA.n_edges, "seconds": rows, "limit": LIMIT}, indent=1))


if __name__ == "__main__":
    main()
