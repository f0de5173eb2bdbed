"""What it costs to evaluate circuits by exact ablation, in units of the stock model's own forward.

    python benchmarks/evaluation_cost.py --write

A *stock forward* is the Hugging Face model on the clean prompts of a batch, logits at the answer position only: the
stricter unit, logits at every position cost the model some more. An *evaluation* is a call of `evaluate` on that batch
with interchange ablation: the stock runs on the clean and the corrupt prompts, the references, a run for each circuit,
the metrics with their bootstrap. `ten sizes` is the whole of it for MIB's ten sizes, divided by ten; its tenth, all
edges, is the full model, which runs anyway. With their company (a random circuit of each size, the complement) there
are three circuits for each size. The model is SmolLM2-135M in float32 on IOI prompts, the ranking is random: the cost
of a circuit depends on how many edges it has, hardly on which.

All alternates in one process; figures are medians of CPU seconds. It takes some five minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import results_page
import torch
from smollm2 import fetch
from step_cost import Clock

from lightning_circuits.ablation import make_ablation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.selection import size_to_count, top_n

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LIMIT = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/results.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    folder = fetch()
    model = wrap(load_model(folder))
    data = IOIDataModule(folder, n_train=1, n_val=args.batch, n_test=1, batch_size=args.batch)
    (batch,) = data.val_dataloader()
    scores = torch.randn(model.layout.n_edges, generator=torch.Generator().manual_seed(0))
    circuits = {f"{size:.1%}": top_n(scores, size_to_count(size, model.layout)) for size in SIZES}
    ablation = make_ablation("interchange")

    @torch.no_grad()
    def stock(keep: int) -> None:
        model.model(batch["clean_ids"], batch["attention_mask"], use_cache=False, logits_to_keep=keep)

    def run(*names: str, company: bool = False) -> None:
        evaluate(model, {name: circuits[name] for name in names}, [batch], [ablation], company=company)

    calls: dict[str, Callable[[], None]] = {
        "stock forward, logits at the answer": lambda: stock(1),
        "stock forward, logits everywhere": lambda: stock(0),
        "no circuit": run,
        **{f"no circuit and {name}": lambda name=name: run(name) for name in circuits},  # type: ignore[misc]
        "ten sizes": lambda: run(*circuits),
        "ten sizes with company": lambda: run(*circuits, company=True),
    }
    clock = Clock("cpu")
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(args.repeats + 1):
        for name, call in calls.items():
            seconds, _ = clock(call)
            if repeat:  # the first round warms up
                measured[name].append(seconds)
    seconds = {name: statistics.median(figures) for name, figures in measured.items()}
    unit = seconds["stock forward, logits at the answer"]

    rows = {name: seconds[name] / unit for name in list(calls)[1:3]}
    rows |= {f"and {name}": (seconds[f"no circuit and {name}"] - seconds["no circuit"]) / unit for name in circuits}
    rows |= {f"{name}, each": seconds[name] / unit / len(SIZES) for name in ("ten sizes", "ten sizes with company")}
    shape = " x ".join(map(str, batch["clean_ids"].shape))
    results_page.show(
        [{"evaluation": name, "stock forwards": f"{ratio:.2f}"} for name, ratio in rows.items()],
        f"SmolLM2-135M, float32, {shape} tokens, {args.threads} thread(s)",
    )
    ratio = rows["ten sizes, each"]
    verdict = "within" if ratio <= LIMIT else "above"
    print(f"a stock forward takes {unit:.3f} CPU seconds")
    print(f"a size costs {ratio:.2f} of them, {verdict} the limit of {LIMIT:g}")
    if args.write:
        results_page.write_row(
            "evaluation cost",
            {
                "model, batch x length": f"SmolLM2-135M, {shape}",
                "stock forwards a size": f"{ratio:.1f}",
                "machine": results_page.machine(),
            },
        )
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        figures = {"settings": settings, "tokens": shape, "seconds": seconds, "stock_forwards": rows, "limit": LIMIT}
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
