"""Circuits as models of their own, beside the full model: bytes on disk, and seconds a batch.

    python benchmarks/extracted.py --write

Circuits are EAP-IG's best edges for IOI under mean ablation, pruned. Each is extracted, saved and loaded again; what is
loaded has to put out what exact ablation does. The full model is the stock one of Hugging Face, saved by
``save_pretrained``. All put out logits at every token of a batch of IOI prompts, in float32. They take turns in one
process; seconds are medians of CPU seconds, and a ratio is that of the medians. It takes some three minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import results_page
import torch
from measuring import Clock
from options import parse, parser, write_json
from smollm2 import NAME, located

from lightning_circuits import ExtractedModel, extract, score
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model

SIZES = [0.005, 0.01, 0.02, 0.05]
LIMIT = 1e-4
QUICK = {"model": "tiny-ioi", "batch": 2, "prompts": 2, "repeats": 1, "sizes": [0.05]}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    options = parser(__doc__, model=NAME, batch=8, prompts=32, repeats=9)
    options.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="of the circuits, as parts of all edges")
    args = parse(options, QUICK)
    name = located(args.model)
    stock = load_model(name)
    model = wrap(stock)
    data = IOIDataModule(name, n_train=args.prompts, n_val=args.batch, n_test=1, batch_size=args.batch)
    scores = score(stock, data.train_dataloader(), method="eap-ig", ablation="mean", batch_size=args.batch)
    (batch,) = data.val_dataloader()
    ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    full_logits, corrupt = model.run_pair(batch)
    exact = ExactAblation(model, batch, full_logits, scores.ablation, corrupt)

    def full() -> None:
        stock(input_ids=ids, attention_mask=mask, use_cache=False)

    calls: dict[str, Callable[[], object]] = {"full model": torch.no_grad()(full)}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stock.save_pretrained(folder / "full")
        rows.append({"model": "full model", "edges": model.layout.n_edges, "bytes": bytes_in(folder / "full")})
        for size in args.sizes:
            called, circuit = results_page.percent(size), scores.circuit(size=size).prune()
            extract(stock, circuit, scores.ablation).save(folder / called)
            own = ExtractedModel.load(folder / called)
            off = own(ids, mask)[torch.arange(len(ids)), positions] - exact.logits(circuit.members)
            rows.append({"model": called, "edges": circuit.n_edges, "bytes": bytes_in(folder / called)})
            rows[-1] |= {"alive": str(own), "off": float(off.abs().max())}
            calls[called] = partial(own, ids, mask)
    for row, cost in zip(rows, Clock().alternate(calls, args.repeats).values(), strict=True):
        row["seconds"] = cost.seconds
    first = rows[0]
    shown = [
        {
            "model": row["model"],
            "edges": f"{row['edges']:,}",
            "MB on disk": f"{row['bytes'] / 1e6:,.1f}",
            "MB, ratio": f"**{row['bytes'] / first['bytes']:.2f}**",
            "seconds a batch": f"{row['seconds']:.3f}",
            "seconds, ratio": f"**{row['seconds'] / first['seconds']:.2f}**",
        }
        for row in rows
    ]
    shape = " x ".join(map(str, ids.shape))
    results_page.show(shown, f"{args.model}, float32, logits at every token of {shape}, {args.threads} thread(s)")
    for row in rows[1:]:
        print(f"{row['alive']}: logits within {row['off']:.1g} of exact ablation's")
    largest = max(row["off"] for row in rows[1:])
    assert largest < LIMIT, f"logits are {largest:.2g} off those of exact ablation, more than {LIMIT:g}"
    if args.write:
        results_page.write_table(
            "extracted",
            shown,
            f"EAP-IG on {args.prompts} pairs, mean ablation, edges after pruning, {shape} tokens; logits within "
            f"{largest:.1g} of exact ablation's. {results_page.command()}, {results_page.machine()}.",
        )
    write_json(args, tokens=shape, rows=rows)


if __name__ == "__main__":
    main()
