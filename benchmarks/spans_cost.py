"""What gates in spans cost: a training step and a run of exact ablation with 6 spans, and the same without spans.

    python benchmarks/spans_cost.py --write
    python benchmarks/spans_cost.py --model tiny --batch 4 --length 12

Every token is live and stands in one of the spans, so both multiply as many tokens: what is more is that a product is
one for every span. A *training step* is that of `step_cost.py`, with all gates open and with most at 0. *Exact
ablation* is the run of one circuit on prompts that are ready for it (`ExactAblation.logits`); the circuit in spans has
the edges of the other in each span, so that both put out the same. Without and with spans alternate in one process;
figures are medians of CPU seconds, the ratio is that of the medians.
"""

from __future__ import annotations

from collections.abc import Callable

import results_page
import torch
from measuring import Clock
from options import parse, parser, write_json
from shapes import build, random_batch
from step_cost import ALL_OPEN, at_zero, gate_step, search_with

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.models import CircuitModel, wrap

LIMIT = 1.3
QUICK = {"model": "tiny", "batch": 2, "length": 8, "repeats": 1}


def in_equal_spans(batch: Batch, n_spans: int) -> Batch:
    """The prompts, their tokens in spans of as equal a length as can be."""
    rows, length = batch["clean_ids"].shape
    spans = (torch.arange(length) * n_spans // length).expand(rows, length)
    return batch | {"spans": spans, "span_names": [str(span) for span in range(n_spans)]}


def exact_run(model: CircuitModel, batch: Batch, members: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A run of one circuit, to be repeated."""
    with torch.no_grad():
        full, corrupt = model.run_pair(batch)
    run = ExactAblation(model, batch, full, ABLATIONS.make("interchange"), corrupt)
    return lambda: run.logits(members)


def main() -> None:
    options = parser(__doc__, model="smollm2-135m", batch=8, length=20, spans=6, repeats=9)
    options.add_argument("--density", type=float, default=0.02, help="the part of the gates that is not at 0")
    options.add_argument("--sizes", type=float, nargs="+", default=[0.5, 0.05], help="of circuits, as parts of all")
    args = parse(options, QUICK)
    torch.manual_seed(0)
    stock = build(args.model, "cpu", "float32")
    batch = in_equal_spans(random_batch(stock.config.vocab_size, args.batch, args.length, "cpu"), args.spans)

    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name in (ALL_OPEN, at_zero(args.density)):
        pair = [search_with(stock, name, args.density, spans) for spans in ([], batch["span_names"])]
        calls[f"training step, {name}"] = gate_step(pair[0], batch), gate_step(pair[1], batch)
    plain = wrap(stock)
    spread = plain.in_spans(batch["span_names"])
    for size in args.sizes:
        members = torch.rand(plain.layout.n_edges) < size
        without, within = exact_run(plain, batch, members), exact_run(spread, batch, members.repeat(args.spans))
        torch.testing.assert_close(within(), without(), atol=1e-3, rtol=1e-3)
        calls[f"exact ablation, {size:.0%} of the edges"] = without, within

    each = {
        (name, spans): call for name, pair in calls.items() for spans, call in zip((False, True), pair, strict=True)
    }
    seconds = {name: cost.seconds for name, cost in Clock().alternate(each, args.repeats).items()}
    rows = [
        {
            "what": name,
            "seconds_without": seconds[name, False],
            "seconds_in_spans": seconds[name, True],
            "ratio": seconds[name, True] / seconds[name, False],
        }
        for name in calls
    ]
    shape = f"{args.model}, {args.batch} x {args.length}"
    results_page.show(
        [
            {
                "what": row["what"],
                "CPU seconds without spans": f"{row['seconds_without']:.4f}",
                f"in {args.spans} spans": f"{row['seconds_in_spans']:.4f}",
                "ratio": f"{row['ratio']:.2f}",
            }
            for row in rows
        ],
        f"{shape} tokens, float32, {args.threads} thread(s)",
    )
    highest = max(row["ratio"] for row in rows)
    print(f"the highest is {highest:.2f}, {'within' if highest <= LIMIT else 'above'} the limit of {LIMIT:g}")
    if args.write:
        results_page.write_row(
            "spans cost",
            {
                "shape, batch x length": f"{shape}, {args.spans} spans",
                **{row["what"]: f"{row['ratio']:.2f}" for row in rows},
                "machine": results_page.machine(),
            },
        )
    write_json(args, rows=rows, limit=LIMIT)


if __name__ == "__main__":
    main()
