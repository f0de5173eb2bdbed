"""What attributing one batch costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/attribution_cost.py --model smollm2-135m --batch 8 --length 16 --write

A *stock step* is that of `step_cost.py`: forward on the clean prompts, logits at every position, backward to the input
embeddings. A method is the whole of what it does with a batch: the stock runs on both prompts, the runs in between, the
descent, the contraction. All alternate in one process; ratios are those of the medians. Seconds and memory are measured
as there.
"""

from __future__ import annotations

import results_page
import torch
from measuring import Clock, show_steps, stack_bytes, step_rows, stock_step
from options import parse, parser, write_json
from shapes import build, random_batch

from lightning_circuits import EAP, EAPIG, Attribution, Ensemble, ExpectedGradients, MaskedGradients, RelP

METHODS: dict[str, type[Attribution]] = {
    "EAP": EAP,
    "RelP": RelP,
    "expected gradients": ExpectedGradients,
    "masked gradients": MaskedGradients,
    "EAP-IG": EAPIG,
    "ensemble": Ensemble,
}
"""As they are by default: one random point, eight random masks, five points."""
QUICK = {"model": "tiny", "batch": 2, "length": 8, "repeats": 1}


def main() -> None:
    options = parser(__doc__, model="gpt2", batch=8, length=16, device="cpu", dtype="float32", repeats=9)
    args = parse(options, QUICK)
    torch.manual_seed(0)
    stock = build(args.model, args.device, args.dtype)
    batch = random_batch(stock.config.vocab_size, args.batch, args.length, args.device)
    searches = {name: method(stock) for name, method in METHODS.items()}
    calls = {"stock": lambda: stock_step(stock, batch)}
    calls |= {name: lambda search=search: search.scores_over(lambda: [batch]) for name, search in searches.items()}
    clock, largest = Clock(args.device), {"masked gradients": calls.pop("masked gradients")}
    costs = clock.alternate(calls, args.repeats)
    # Apart, and after the others: what they leave to the allocator would be part of the others' peaks.
    costs |= clock.alternate(largest, args.repeats)
    model = searches["EAP"].circuit_model
    rows = step_rows(costs, model, batch)
    show_steps(f"{args.model}, {args.dtype}, {args.device}", rows, model, batch)
    eap = rows[1]
    times = {row["step"]: row["seconds"] / eap["seconds"] for row in rows[2:]}
    if args.write:
        results_page.write_row(
            "attribution cost",
            {
                "shape, batch x length": f"{args.model}, {args.batch} x {args.length}, {args.dtype}",
                "EAP, stock steps": f"{eap['stock_steps']:.1f}",
                **{f"{name}, x EAP": f"{ratio:.1f}" for name, ratio in times.items()},
                "machine": results_page.machine(args.device),
            },
        )
    write_json(args, stack_bytes=stack_bytes(model, batch), rows=rows)


if __name__ == "__main__":
    main()
