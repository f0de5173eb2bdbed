"""What one training step of the gates costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/step_cost.py --model gpt2 --batch 8 --length 32 --write
    python benchmarks/step_cost.py --model llama-2-13b --batch 32 --length 64 --device cuda --dtype bfloat16

A *stock step* is the Hugging Face model's forward on the clean prompts, logits at every position, and the backward to
the input embeddings (weights frozen); `--last-logits` gives the stricter one, with logits at the last position only.
A *gate step* is everything `EdgePruning` does: the stock runs on the clean and the corrupt prompts, the forward with
gated edges, KL, backward, Adam. The two alternate in one process; the ratio is that of the medians. On a CPU seconds
are CPU seconds, and memory is the peak of the resident set above what stood before the first step; on a GPU they are
wall seconds and the allocator's peak. `--model` is an id, a folder, or a shape of `shapes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import results_page
import torch
from measuring import Clock, show_steps, stack_bytes, step_rows, stock_step
from options import parse, parser, write_json
from shapes import build, random_batch
from torch import Tensor

from lightning_circuits import EdgePruning
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.masked import masked_logits
from lightning_circuits.measures import kl_divergence

QUICK = {"model": "tiny", "batch": 2, "length": 8, "repeats": 1}


def gates_open(model: Any, density: float, spans: Sequence[str] = ()) -> EdgePruning:
    """A search of which a random part of the gates is open: all of a `TopK`'s, or the rest closed for good."""
    # A `TopK` has none at exactly 0.
    search = EdgePruning(model, gate=TopK() if density == 1 else HardConcrete(), spans=bool(spans))
    search.tell_apart(spans)
    if density == 1:
        return search
    closed = torch.rand(search.layout.n_edges, generator=torch.Generator().manual_seed(0)) >= density
    search.gate.logits.data[closed] = -20.0
    return search


def name_of(density: float) -> str:
    return "all gates open" if density == 1 else f"{1 - density:.0%} of the gates at 0"


def gate_step(search: EdgePruning, batch: dict[str, Tensor]) -> Callable[[], None]:
    """The first step of training, to be repeated: what `EdgePruning.training_step` does, and the optimizer."""
    optimizer = torch.optim.Adam(search.gate.parameters(), lr=1e-3)

    def step() -> None:
        full, corrupt = search.circuit_model.run_pair(batch)
        logits = masked_logits(
            search.circuit_model,
            search.gate(torch.Generator().manual_seed(0), 0, 0.0),
            batch["clean_ids"],
            batch["attention_mask"],
            batch["positions"],
            corrupt,
            skip_closed=search.gate.closed_for_good(0.0),
            places=search.ablation.places(search.layout, batch),
        )
        loss, penalty = kl_divergence(logits, full).mean(), search.gate.penalty(0.0)
        optimizer.zero_grad()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()

    return step


def main() -> None:
    options = parser(__doc__, model="gpt2", batch=8, length=32, device="cpu", dtype="float32", repeats=9)
    options.add_argument("--density", type=float, nargs="+", default=[1.0, 0.02], help="parts of gates that are not 0")
    options.add_argument("--last-logits", action="store_true", help="stock step: logits at the last position only")
    args = parse(options, QUICK)
    torch.manual_seed(0)
    stock = build(args.model, args.device, args.dtype)
    batch = random_batch(stock.config.vocab_size, args.batch, args.length, args.device)
    searches = {density: gates_open(stock, density).to(args.device) for density in args.density}
    calls: dict[str, Callable[[], object]] = {"stock": lambda: stock_step(stock, batch, 1 if args.last_logits else 0)}
    calls |= {name_of(density): gate_step(search, batch) for density, search in searches.items()}
    costs = Clock(args.device).alternate(calls, args.repeats)
    model = next(iter(searches.values())).circuit_model
    rows = step_rows(costs, model, batch)
    show_steps(f"{args.model}, {args.dtype}, {args.device}", rows, model, batch)
    if args.write:
        gates = rows[1:]
        above = max(row["stacks_above_stock"] for row in gates)
        results_page.write_row(
            "step cost",
            {
                "shape, batch x length": f"{args.model}, {args.batch} x {args.length}, {args.dtype}",
                "edges": f"{model.layout.n_edges:,}",
                **{row["step"]: f"{row['stock_steps']:.1f}" for row in gates},
                "memory": f"{above:.1f} stacks ({stack_bytes(model, batch) / 1e6:,.0f} MB each)",
                "machine": results_page.machine(args.device),
            },
        )
    write_json(args, stack_bytes=stack_bytes(model, batch), rows=rows)


if __name__ == "__main__":
    main()
