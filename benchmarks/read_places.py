"""Which heads work where? IOI on SmolLM2-135M, read from a trained circuit in spans; and what cancels without them.

    python benchmarks/read_places.py --write

The circuit is that of seed 0 of `benchmarks/places.py`, whose scores are made here if they are not in its folder. A
head works in a span if the circuit has its output there. What it is worth is the faithfulness that the circuit loses
without that output, at all tokens of the span together; where it looks, the span that the span's tokens attend to most,
in the model and in the circuit. What cancels is read from the scores of EAP: of the best edges by the sum of |score|
over the spans, those that are not among the best by the |sum|.
"""

from __future__ import annotations

from pathlib import Path

import results_page
import torch
from options import parse, parser, write_json
from places import QUICK, SIZES, scores
from smollm2 import NAME, located

from lightning_circuits import EAP
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.evaluation.attention import attention_patterns
from lightning_circuits.evaluation.completeness import circuit_parts, cut_edges
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import load_model
from lightning_circuits.scoring.cancellation import cancelled_edges
from lightning_circuits.selection import size_to_count, top_n

SHOWN = 14
"""Heads, the most important."""
DRAWN = 120
"""Edges, the best, of which those on a way to the logits can be told apart in a figure."""
PAGE = results_page.ROOT / "docs" / "places.md"


def main() -> None:
    options = parser(__doc__, model=NAME, seed=0, steps=300, train=480, prompts=32, size=0.003)
    options.add_argument("--output", type=Path, default=Path("runs/places"), help="default: %(default)s")
    quick = {name: value for name, value in QUICK.items() if name != "seeds"}
    args = parse(options, {**quick, "size": 0.1})

    name = located(args.model)
    hf_model = load_model(name)
    data = IOIDataModule(
        name, n_train=args.train, n_val=args.prompts, n_test=8, batch_size=8, seed=args.seed, spans="roles"
    )
    data.setup("fit")
    effects = scores("EAP", hf_model, data, True, args.seed, args)
    trained = scores("trained", hf_model, data, True, args.seed, args)
    model = EAP(hf_model).circuit_model.in_spans(trained.layout.spans)
    members = top_n(trained.scores, size_to_count(args.size, trained.layout), absolute=trained.absolute)
    circuit = Circuit(trained.layout, members, trained.scores, trained.metadata).prune()
    heads = heads_table(model, data, circuit)
    cancelled = cancelled_table(effects)
    results_page.show(heads, f"{circuit}: what is lost without a head's output in a span")
    results_page.show(cancelled, "Edges lost by cancelling, of the best by the sum of |score|")
    write_json(args, heads=heads, cancelled=cancelled)
    best = top_n(trained.scores, min(DRAWN, circuit.n_edges), absolute=trained.absolute)
    drawn = Circuit(trained.layout, best, trained.scores, trained.metadata).prune()
    print("Written:", save_figure(drawn, args.output / "circuit.svg"))
    if args.write:
        run = f"Seed {args.seed}. {results_page.command()}, {results_page.machine()}."
        kept = f"{circuit.n_edges} edges after pruning, {args.prompts} held-out prompts, interchange ablation"
        results_page.write_table("places, heads", heads, f"{kept}. {run}", PAGE)
        results_page.write_table("places, cancelled", cancelled, run, PAGE)
        save_figure(drawn, PAGE.with_suffix(".png"))


def heads_table(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> list[results_page.Row]:
    """A row for each head and span, those first without whose output most is lost."""
    heads = [name for name in circuit_parts(circuit, "nodes-in-spans") if name.startswith("a")]
    outputs = {name: circuit.members & cut_edges(circuit.layout, [name]) for name in heads}
    without = {name: circuit.members & ~edges for name, edges in outputs.items()}
    rows = evaluate(
        model, data.val_dataloader(), {"all": circuit, **without}, [ABLATIONS.make("interchange")], controls=False
    )
    f = {row.circuit: row.faithfulness for row in rows}
    looks = attention_by_span(model, list(data.val_dataloader()), circuit)
    table = []
    for name in sorted(outputs, key=f.__getitem__)[:SHOWN]:
        head, span = name.split("@")
        table.append(
            {
                "head": head,
                "span": span,
                "looks at, in the model": looks["full", head, span],
                "in the circuit": looks["circuit", head, span],
                "edges out": str(int(outputs[name].sum())),
                "f without": f"{f[name]:.2f} of {f['all']:.2f}",
            }
        )
    return table


def attention_by_span(model: CircuitModel, batches: list[Batch], circuit: Circuit) -> dict[tuple[str, str, str], str]:
    """For each head and span, in the model and in the circuit: the span that gets most of its attention, and how much.

    Attention is summed over the tokens of the span looked at, mean over those of the span that looks, and prompts.
    """
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        names = batch["span_names"]
        inside = torch.nn.functional.one_hot(batch["spans"] + 1, len(names) + 1)[..., 1:].float()
        patterns = attention_patterns(model, batch, circuit)
        for where in ("full", "circuit"):
            found = torch.einsum("bqs,hbqk,bkt->hst", inside, getattr(patterns, where), inside)
            sums[where] = sums.get(where, 0) + found
        sums["tokens"] = sums.get("tokens", 0) + inside.sum((0, 1))
    looks = {}
    for where in ("full", "circuit"):
        shares, targets = (sums[where] / sums["tokens"][:, None]).max(-1)
        for i, head in enumerate(patterns.heads):
            for j, span in enumerate(names):
                looks[where, head, span] = f"{names[targets[i, j]]} {shares[i, j]:.0%}"
    return looks


def cancelled_table(effects: Circuit) -> list[results_page.Row]:
    """How many of the best edges without spans are lost, and the two strongest of them."""
    layout, rows = effects.layout, []
    of_spans = layout.each_span(effects.scores)
    for size in SIZES:
        n = size_to_count(size, layout.plain)
        lost = cancelled_edges(effects.scores, layout, n).nonzero()[:, 0]
        strongest = lost[of_spans[:, lost].abs().sum(0).argsort(descending=True)][:2]
        told = [
            f"{name} ({', '.join(f'{s:+.3f}@{span}' for s, span in zip(of_spans[:, edge], layout.spans, strict=True))})"
            for name, edge in zip(layout.plain.edge_names(strongest), strongest, strict=True)
        ]
        rows.append(
            {"size": results_page.percent(size), "lost": f"{len(lost) / n:.0%}", "the strongest": "; ".join(told)}
        )
    return rows


if __name__ == "__main__":
    main()
