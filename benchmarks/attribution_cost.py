"""What attributing one batch costs, in units of the stock model's own forward + backward, and in memory.

    python benchmarks/attribution_cost.py --model smollm2-135m --batch 8 --length 16 --write

A *stock step* is that of `step_cost.py`: forward on the clean prompts, logits at every position, backward to the input
embeddings. EAP and EAP-IG are the whole of what a training step does with a batch: the stock runs on both prompts, the
runs in between, the descent, the contraction. All alternate in one process; ratios are those of the medians. Seconds
and memory are measured as there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import results_page
import torch
from step_cost import ABOVE, SHAPES, Clock, build

from lightning_circuits.ablation import make_ablation
from lightning_circuits.models import wrap
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import attribute, integral


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2", help=f"an id, a folder, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="of EAP-IG")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/results.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    model = build(args.model, args.device, args.dtype)
    circuit_model = wrap(model)
    layout, vocabulary, shape = circuit_model.layout, model.config.vocab_size, (args.batch, args.length)
    batch = {
        "clean_ids": torch.randint(vocabulary, shape, device=args.device),
        "corrupt_ids": torch.randint(vocabulary, shape, device=args.device),
        "attention_mask": torch.ones(shape, dtype=torch.int64, device=args.device),
        "positions": torch.full(shape[:1], args.length - 1, device=args.device),
        "answers": torch.zeros(args.batch, 1, dtype=torch.int64, device=args.device),
        "distractors": torch.ones(args.batch, 1, dtype=torch.int64, device=args.device),
    }

    def stock_step() -> None:
        embeddings = model.get_input_embeddings()(batch["clean_ids"]).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()

    ablation, objective = make_ablation("interchange"), LogitDifference()
    calls = {
        "stock": stock_step,
        "EAP": lambda: attribute(circuit_model, batch, objective, ablation),
        f"EAP-IG, {args.steps} steps": lambda: attribute(
            circuit_model, batch, objective, ablation, integral("left", args.steps)
        ),
    }
    clock = Clock(args.device)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for repeat in range(args.repeats + 1):
        for name, call in calls.items():
            figures = clock(call)
            if repeat:  # the first round warms up
                measured[name].append(figures)

    unit = args.batch * args.length * layout.d_model * torch.finfo(model.dtype).bits // 8
    stack, readers = layout.n_writers * unit, (layout.n_attention_readers + 1) * unit
    seconds = {name: statistics.median(s for s, _ in figures) for name, figures in measured.items()}
    memory = {name: max(m for _, m in figures) for name, figures in measured.items()}
    rows = [
        {
            "step": name,
            "seconds": seconds[name],
            "stock_steps": seconds[name] / seconds["stock"],
            "eaps": seconds[name] / seconds["EAP"],
            "peak_bytes": memory[name],
            "stacks_above_stock": (memory[name] - memory["stock"] - readers) / stack,
        }
        for name in calls
    ]
    results_page.show(
        [
            {
                "step": row["step"],
                "seconds": f"{row['seconds']:.3f}",
                "stock steps": f"{row['stock_steps']:.2f}",
                "EAPs": "" if row["step"] == "stock" else f"{row['eaps']:.2f}",
                "peak memory, MB": f"{row['peak_bytes'] / 1e6:,.0f}",
                ABOVE: "" if row["step"] == "stock" else f"{row['stacks_above_stock']:.2f}",
            }
            for row in rows
        ],
        f"{args.model}, {args.dtype}, batch {args.batch} x {args.length} tokens, {args.device}",
    )
    print(f"{layout.n_edges:,} edges; a stack of writers is {stack / 1e6:,.1f} MB; median of {args.repeats}")
    if args.write:
        _, eap, eap_ig = rows
        results_page.write_row(
            "attribution cost",
            {
                "shape, batch x length": f"{args.model}, {args.batch} x {args.length}, {args.dtype}",
                "EAP, stock steps": f"{eap['stock_steps']:.1f}",
                "EAP, memory": f"{eap['stacks_above_stock']:.1f} stacks ({stack / 1e6:,.0f} MB each)",
                "EAP-IG": f"{eap_ig['eaps']:.1f} x EAP with {args.steps} steps",
                "machine": results_page.machine(args.device),
            },
        )
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        args.json.write_text(json.dumps({"settings": settings, "stack_bytes": stack, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
