"""What attributing one batch costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/attribution_cost.py --model smollm2-135m --batch 8 --length 16 --write

A *stock step* is that of `step_cost.py`: forward on the clean prompts, logits at every position, backward to the input
embeddings. EAP, RelP and EAP-IG are the whole of what a training step does with a batch: the stock runs on both
prompts, the runs in between, the descent, the contraction. All alternate in one process; ratios are those of the
medians. Seconds and memory are measured as there.
"""

from __future__ import annotations

import results_page
import torch
from measuring import Clock, show_steps, stack_bytes, step_rows, stock_step
from options import parse, parser, write_json
from shapes import build, random_batch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.models import wrap
from lightning_circuits.models.relevance import by_relevance
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import integral

QUICK = {"model": "tiny", "batch": 2, "length": 8, "repeats": 1}


def main() -> None:
    options = parser(__doc__, model="gpt2", batch=8, length=16, steps=5, device="cpu", dtype="float32", repeats=9)
    args = parse(options, QUICK)
    torch.manual_seed(0)
    stock = build(args.model, args.device, args.dtype)
    model = wrap(stock)
    batch = random_batch(stock.config.vocab_size, args.batch, args.length, args.device)
    ablation, objective = ABLATIONS.make("interchange"), LogitDifference()
    points = integral("left", args.steps)

    def relp() -> None:
        with by_relevance(model) as view:
            gradient_scores(view, batch, ablation, objective)

    calls = {
        "stock": lambda: stock_step(stock, batch),
        "EAP": lambda: gradient_scores(model, batch, ablation, objective),
        "RelP": relp,
        f"EAP-IG, {args.steps} steps": lambda: gradient_scores(model, batch, ablation, objective, points),
    }
    costs = Clock(args.device).alternate(calls, args.repeats)
    rows = step_rows(costs, model, batch)
    show_steps(f"{args.model}, {args.dtype}, {args.device}", rows, model, batch)
    _, eap, by_rules, eap_ig = rows
    ratio, stack = eap_ig["seconds"] / eap["seconds"], stack_bytes(model, batch)
    relevance = by_rules["seconds"] / eap["seconds"]
    print(f"EAP-IG takes {ratio:.2f} times as long as EAP, RelP {relevance:.2f} times")
    if args.write:
        results_page.write_row(
            "attribution cost",
            {
                "shape, batch x length": f"{args.model}, {args.batch} x {args.length}, {args.dtype}",
                "EAP, stock steps": f"{eap['stock_steps']:.1f}",
                "EAP, memory": f"{eap['stacks_above_stock']:.1f} stacks ({stack / 1e6:,.0f} MB each)",
                "EAP-IG": f"{ratio:.1f} x EAP with {args.steps} steps",
                "machine": results_page.machine(args.device),
            },
        )
    write_json(args, stack_bytes=stack, rows=rows)


if __name__ == "__main__":
    main()
