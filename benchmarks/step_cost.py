"""What one training step of the gates costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/step_cost.py --model gpt2 --batch 8 --length 32 --write
    python benchmarks/step_cost.py --model llama-2-13b --batch 32 --length 64 --device cuda --dtype bfloat16

A *stock step* is the Hugging Face model's forward on the clean prompts, logits at every position, and the backward to
the input embeddings (weights frozen); `--last-logits` gives the stricter one, with logits at the last position only.
A *gate step* is everything `EdgePruning` does: the stock runs on the clean and the corrupt prompts, the forward with
gated edges, KL, backward, Adam. The two alternate in one process; the ratio is that of the medians. On a CPU seconds
are CPU seconds, and memory is the peak of the resident set above what stood before the first step; on a GPU they are
wall seconds and the allocator's peak. `--model` is an id, a folder, or a shape of `shapes.py`. `gpu.py` measures more
shapes in one run.
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
from trained import trained_circuit

from lightning_circuits import EdgePruning
from lightning_circuits.batch import Batch
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.layout import Layout
from lightning_circuits.search.gated_loss import CapturedLosses, gated_losses

QUICK = {"model": "tiny", "batch": 2, "length": 8, "repeats": 1}


ALL_OPEN = "all gates open"
A_CIRCUIT = "hard gates of a circuit of 1 %"
CONSTANTS = "all open, constants learned too"


def at_zero(density: float) -> str:
    """What the step is called in which so many of the gates, at random, are not at 0."""
    return f"{1 - density:.0%} of the gates at 0"


def kept(name: str, layout: Layout, density: float) -> Tensor | None:
    """bool ``[n_edges]``: which gates are open in the step of this name; None for all of a `TopK`'s."""
    if name == ALL_OPEN:
        return None
    if name == A_CIRCUIT:
        return trained_circuit(layout.plain).repeat(layout.n_spans)
    return torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(0)) < density


def search_with(stock: Any, name: str, density: float = 0.02, spans: Sequence[str] = ()) -> EdgePruning:
    """A search whose gates are as the name says."""
    # A `TopK` has none at exactly 0. Those of a `HardConcrete` far enough from 0 are 0 and 1 whatever its noise.
    search = EdgePruning(stock, gate=TopK() if name == ALL_OPEN else HardConcrete(), spans=bool(spans))
    search.tell_apart(spans)
    members = kept(name, search.layout, density)
    if members is not None:
        search.gate.logits.data = torch.where(members, 20.0, -20.0)
    return search


def gate_step(
    search: EdgePruning, batch: Batch, captured: bool = False, alive_alone: bool = True
) -> Callable[[], tuple[Tensor, Tensor]]:
    """The first step of training, to be repeated: what `EdgePruning.training_step` does, and the optimizer.

    It gives back losses ``[B]`` and the gradient ``[n_edges]`` at gates, of closed ones too if not ``alive_alone``.
    """
    model, gate, n = search.circuit_model, search.gate, len(batch["positions"])
    optimizer = torch.optim.Adam(gate.parameters(), lr=1e-9)
    weights = torch.full((n,), 1 / n, device=model.device)
    graphs = CapturedLosses(model, search.ablation, search.objective)

    def step() -> tuple[Tensor, Tensor]:
        gates = gate(torch.Generator().manual_seed(1), 0, 0.0)
        gates.retain_grad()
        if captured:
            total, losses = graphs(gates, batch, weights)
        else:
            skip = alive_alone and gate.closed_for_good(0.0)
            losses = gated_losses(model, gates, batch, search.ablation, search.objective, skip)
            total = losses @ weights.to(losses.dtype)
        penalty = gate.penalty(0.0)
        optimizer.zero_grad()
        (total if penalty is None else total + penalty).backward()
        optimizer.step()
        return losses.detach(), gates.grad  # type: ignore[return-value]

    return step


def constants_step(stock: Any, batch: Batch) -> Callable[[], None]:
    """A step of training under optimal ablation, which learns a constant for each writer beside the gates."""
    search = EdgePruning(stock, ablation="optimal", warm_start=None)
    search.start_within(lambda: [batch])
    optimizer, _ = search.optimizer_for(1)

    def step() -> None:
        loss = search.losses(search.draw(0, 0.0), batch, 0.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    options = parser(__doc__, model="gpt2", batch=8, length=32, device="cpu", dtype="float32", repeats=9)
    options.add_argument("--density", type=float, default=0.02, help="the part of the gates that is not at 0")
    options.add_argument("--last-logits", action="store_true", help="stock step: logits at the last position only")
    args = parse(options, QUICK)
    torch.manual_seed(0)
    stock = build(args.model, args.device, args.dtype)
    batch = random_batch(stock.config.vocab_size, args.batch, args.length, args.device)
    names = ALL_OPEN, at_zero(args.density), A_CIRCUIT
    searches = {name: search_with(stock, name, args.density).to(args.device) for name in names}
    calls: dict[str, Callable[[], object]] = {"stock": lambda: stock_step(stock, batch, 1 if args.last_logits else 0)}
    calls |= {name: gate_step(search, batch) for name, search in searches.items()}
    clock = Clock(args.device)
    costs = clock.alternate(calls, args.repeats)
    # Apart, and after the others: what it leaves to the allocator would be part of their peaks.
    costs |= clock.alternate({CONSTANTS: constants_step(stock, batch)}, args.repeats)
    model = next(iter(searches.values())).circuit_model
    rows = step_rows(costs, model, batch)
    show_steps(f"{args.model}, {args.dtype}, {args.device}", rows, model, batch)
    if args.write:
        gates = rows[1:]
        above = max(row["stacks_above_stock"] for row in gates if row["step"] != CONSTANTS)
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
