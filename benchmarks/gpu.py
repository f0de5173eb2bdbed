"""What a GPU makes of it: a training step, attribution and exact ablation, in units of the stock model's own step.

    python benchmarks/gpu.py --write        # some three minutes on one H100; shapes that do not fit are left out
    python benchmarks/gpu.py --shapes smollm2-135m:8x16:float32 --json gpu.json

Models are shapes with random weights (`shapes.py`), prompts random tokens; what a step costs does not depend on what
they say. A *stock step* is that of `step_cost.py`, a *stock forward* its forward with logits at the last position.

| row | what is measured |
|---|---|
| dense | a step of `EdgePruning` with every gate open: stock pair, gates, gated run, KL, backward, Adam |
| captured | the same as a CUDA graph, of small models |
| 98 % zeros | as many gates at 0, at random: few readers are without an open edge |
| 1 % circuit | hard gates of a circuit as training leaves it (`trained.py`) |
| EAP, EAP-IG(5) | the scores of one batch |
| ablation | exact ablation of one of ten such circuits, in stock forwards |
| run | seconds of a whole training: 300 steps of 8 pairs of SmolLM2's shape, validated three times at four sizes |

All of a shape take turns in one process. Equality is that of losses and gate gradients, the largest difference as a
part of the largest value: captured against eager, blocks of one layer against the default, and what is alive alone
against everything.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import results_page
import torch
from measuring import Clock, quiet_trainer, stack_bytes, stock_step
from options import parse, parser, write_json
from shapes import build, random_batch
from step_cost import A_CIRCUIT, ALL_OPEN, at_zero, gate_step, search_with
from torch import Tensor
from torch.utils.data import DataLoader
from trained import trained_circuit

from lightning_circuits import EAP, EAPIG, EdgePruning, blocks
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.captured import worth_capturing
from lightning_circuits.evaluation.exact import ExactAblation, captured_runs
from lightning_circuits.models import CircuitModel
from lightning_circuits.search.one_pass import Attribution

SHAPES = [
    "gpt2:32x32:float32",
    "smollm2-135m:8x16:float32",
    "smollm2-135m:64x32:bfloat16",
    "llama-3.1-8b:32x64:bfloat16",
    "llama-2-13b:32x64:bfloat16",
]
QUICK = {"shapes": ["tiny:2x8:float32"], "repeats": 1}
CIRCUITS = 10


def attribution(search: Attribution, batch: Batch) -> Callable[[], object]:
    """The scores of one batch."""
    return lambda: search.attribute(batch)


def ablations(model: CircuitModel, batch: Batch, circuits: list[Tensor]) -> Callable[[], None]:
    """Exact ablation of circuits on a batch, behind the stock pair that they share."""
    ablation = ABLATIONS.make("interchange")
    full, corrupt = model.run_pair(batch)
    run = ExactAblation(model, batch, full, ablation, corrupt, captured_runs(model))

    def call() -> None:
        for members in circuits:
            run.logits(members)

    return call


def whole_run(stock: Any, prompts: int, length: int, device: str, steps: int = 300) -> float:
    """Seconds of a training with its validation: a loader over batches of random pairs, of which some are held out."""
    batches = [random_batch(stock.config.vocab_size, prompts, length, "cpu") for _ in range(40)]
    train, held_out = (DataLoader(part, batch_size=None) for part in (batches[:32], batches[32:]))  # type: ignore[arg-type]
    search = EdgePruning(stock)
    validation = FaithfulnessValidation(every_n_steps=steps // 3, sizes=[0.005, 0.01, 0.02, 0.05])
    trainer = quiet_trainer(validation, accelerator=device, max_steps=steps)
    start = time.perf_counter()
    trainer.fit(search, train, held_out)
    return time.perf_counter() - start


@contextmanager
def blocks_of(layers: int) -> Iterator[None]:
    """While open, blocks have so many layers."""
    before, blocks.BLOCK = blocks.BLOCK, layers
    try:
        yield
    finally:
        blocks.BLOCK = before


def difference(mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """The largest between losses and between gradients, as a part of the largest value."""
    pairs = zip(mine, theirs, strict=True)
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)


def measure(shape: str, device: str, repeats: int) -> dict[str, Any]:
    """All rows of one shape."""
    name, size, dtype = shape.split(":")
    prompts, length = map(int, size.split("x"))
    torch.manual_seed(0)
    stock = build(name, device, dtype)
    batch = random_batch(stock.config.vocab_size, prompts, length, device)
    dense = search_with(stock, ALL_OPEN).to(device)
    model, layout = dense.circuit_model, dense.layout
    circuits = [trained_circuit(layout, seed).to(device) for seed in range(CIRCUITS)]
    trained = search_with(stock, A_CIRCUIT).to(device)
    steps = {
        "dense": gate_step(dense, batch),
        "98 % zeros": gate_step(search_with(stock, at_zero(0.02)).to(device), batch),
        "1 % circuit": gate_step(trained, batch),
    }
    if worth_capturing(model, batch) or device == "cpu":
        steps["captured"] = gate_step(dense, batch, captured=True)
    same = {}
    eager = steps["dense"]()
    with blocks_of(1):
        same["blocks of one"] = difference(steps["dense"](), eager)
    if "captured" in steps:
        same["captured"] = [difference(steps["captured"](), eager) for _ in range(3)][-1]
    everything, gradient = gate_step(trained, batch, alive_alone=False)()
    same["alive alone"] = difference(steps["1 % circuit"](), (everything, gradient * circuits[0]))
    del eager, everything, gradient
    exact = ablations(model, batch, circuits)
    calls: dict[str, Callable[[], object]] = {
        "stock": lambda: stock_step(stock, batch),
        "stock forward": lambda: model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"]),
        **steps,
        "EAP": attribution(EAP(stock), batch),
        "EAP-IG(5)": attribution(EAPIG(stock), batch),
        "ablation": exact,
    }
    for row, call in list(calls.items()):
        try:
            call()
        except torch.OutOfMemoryError:
            print(f"{shape}, {row}: does not fit {results_page.machine(device)}")
            del calls[row]
            torch.cuda.empty_cache()
    costs = Clock(device).alternate(calls, repeats)
    unit, forward = costs["stock"].seconds, costs["stock forward"].seconds
    whole = whole_run(stock, prompts, length, device, steps=300 if repeats > 1 else 3) if prompts <= 8 else None
    ratios = {
        row: cost.seconds / unit for row, cost in costs.items() if row not in ("stock", "stock forward", "ablation")
    }
    return {
        "shape": shape,
        "edges": layout.n_edges,
        "stack_bytes": stack_bytes(model, batch),
        "stock_seconds": unit,
        "stock_steps": ratios,
        "ablation_stock_forwards": costs["ablation"].seconds / CIRCUITS / forward if "ablation" in costs else None,
        "peak_bytes": {row: cost.peak_bytes for row, cost in costs.items()},
        "difference": same,
        "run_seconds": whole,
    }


def main() -> None:
    options = parser(__doc__, device="cuda" if torch.cuda.is_available() else "cpu", repeats=5)
    options.add_argument("--shapes", nargs="+", default=SHAPES, help="name:prompts x tokens:dtype")
    args = parse(options, QUICK)
    found = []
    for shape in args.shapes:
        try:
            found.append(measure(shape, args.device, args.repeats))
        except torch.OutOfMemoryError:
            print(f"{shape}: does not fit {results_page.machine(args.device)}")
        gc.collect()
        torch.cuda.empty_cache()
    rows = table(found)
    results_page.show(rows, f"on {results_page.machine(args.device)}, PyTorch {torch.__version__}")
    if args.write:
        caption = f"{results_page.command()} on {results_page.machine(args.device)}, PyTorch {torch.__version__}."
        results_page.write_table("GPU", rows, caption)
    write_json(args, machine=results_page.machine(args.device), shapes=found)


def table(found: list[dict[str, Any]]) -> list[results_page.Row]:
    """A row for each figure, a column for each shape; empty where it does not fit, or was not measured."""
    rows = {
        "stock step, seconds": lambda each: f"{each['stock_seconds']:.3f}",
        **{
            f"{row}, stock steps": lambda each, row=row: f"{each['stock_steps'][row]:.2f}"  # type: ignore[misc]
            for row in ("dense", "captured", "98 % zeros", "1 % circuit", "EAP", "EAP-IG(5)")
        },
        "ablation of a circuit, stock forwards": lambda each: f"{each['ablation_stock_forwards']:.2f}",
        "run, seconds": lambda each: f"{each['run_seconds']:.1f}",
        "dense, peak above the model, GB": lambda each: f"{each['peak_bytes']['dense'] / 1e9:.1f}",
        "largest difference": lambda each: f"{max(each['difference'].values()):.0e}",
    }
    cells = list[results_page.Row]()
    for row, of in rows.items():
        cells.append({"": row})
        for each in found:
            name, size, dtype = each["shape"].split(":")
            try:
                cells[-1][f"{name}, {size.replace('x', ' x ')}, {dtype}"] = of(each)
            except (KeyError, TypeError):
                cells[-1][f"{name}, {size.replace('x', ' x ')}, {dtype}"] = ""
    return cells


if __name__ == "__main__":
    main()
