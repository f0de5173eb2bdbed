"""What it costs to evaluate circuits by exact ablation, in units of the stock model's own forward.

    python benchmarks/evaluation_cost.py --write

A *stock forward* is the Hugging Face model on the clean prompts of a batch, logits at the answer position only: the
stricter unit, logits at every position cost the model some more. An *evaluation* is a call of `evaluate` on that batch
with interchange ablation: the stock runs on the clean and the corrupt prompts, the references, a run for each circuit,
the metrics with their bootstrap. `all sizes` is the whole of it for MIB's ten sizes, divided by ten; the tenth, all
edges, is the full model, which runs anyway. With their controls (a random circuit of each size, the complement) there
are three circuits for each size. The model is in float32 and reads IOI prompts, the ranking is random: the cost of a
circuit depends on how many edges it has, hardly on which.

All alternates in one process; figures are medians of CPU seconds. It takes some five minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import results_page
import torch
from measuring import Clock
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.selection import size_to_count, top_n

SIZES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
LIMIT = 4.0
QUICK = {"model": "tiny-ioi", "batch": 2, "repeats": 1, "sizes": [0.01, 0.1, 1.0]}


def main() -> None:
    options = parser(__doc__, model=NAME, batch=8, repeats=3)
    options.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="of the circuits, as parts of all edges")
    args = parse(options, QUICK)
    name = located(args.model)
    model = wrap(load_model(name))
    data = IOIDataModule(name, n_train=1, n_val=args.batch, n_test=1, batch_size=args.batch)
    (batch,) = data.val_dataloader()
    scores = torch.randn(model.layout.n_edges, generator=torch.Generator().manual_seed(0))
    circuits = {f"{size:.1%}": top_n(scores, size_to_count(size, model.layout)) for size in args.sizes}
    ablation = ABLATIONS.make("interchange")

    @torch.no_grad()
    def stock(keep: int) -> None:
        model.model(batch["clean_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=keep)

    def run(*names: str, controls: bool = False) -> None:
        evaluate(model, [batch], {name: circuits[name] for name in names}, [ablation], controls=controls)

    calls: dict[str, Callable[[], None]] = {
        "stock forward, logits at the answer": lambda: stock(1),
        "stock forward, logits everywhere": lambda: stock(0),
        "no circuit": run,
        **{f"no circuit and {name}": lambda name=name: run(name) for name in circuits},  # type: ignore[misc]
        "all sizes": lambda: run(*circuits),
        "all sizes with controls": lambda: run(*circuits, controls=True),
    }
    seconds = {name: cost.seconds for name, cost in Clock().alternate(calls, args.repeats).items()}
    unit = seconds["stock forward, logits at the answer"]

    rows = {name: seconds[name] / unit for name in list(calls)[1:3]}
    rows |= {f"and {name}": (seconds[f"no circuit and {name}"] - seconds["no circuit"]) / unit for name in circuits}
    rows |= {
        f"{name}, each": seconds[name] / unit / len(args.sizes) for name in ("all sizes", "all sizes with controls")
    }
    shape = " x ".join(map(str, batch["clean_ids"].shape))
    results_page.show(
        [{"evaluation": name, "stock forwards": f"{ratio:.2f}"} for name, ratio in rows.items()],
        f"{args.model}, float32, {shape} tokens, {args.threads} thread(s)",
    )
    ratio = rows["all sizes, each"]
    verdict = "within" if ratio <= LIMIT else "above"
    print(f"a stock forward takes {unit:.3f} CPU seconds")
    print(f"a size costs {ratio:.2f} of them, {verdict} the limit of {LIMIT:g}")
    if args.write:
        results_page.write_row(
            "evaluation cost",
            {
                "model, batch x length": f"{args.model}, {shape}",
                "stock forwards a size": f"{ratio:.1f}",
                "machine": results_page.machine(),
            },
        )
    write_json(args, tokens=shape, seconds=seconds, stock_forwards=rows, limit=LIMIT)


if __name__ == "__main__":
    main()
