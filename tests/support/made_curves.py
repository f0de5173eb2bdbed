"""Curves made up for the tests of tables and figures, without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_circuits.evaluation.curve import RANDOM, Curve, CurvePlace
from lightning_circuits.evaluation.rows import Row

TOTAL = 1000
F = {0.01: 0.2, 0.1: 0.7, 0.5: 1.4, 1.0: 1.0}
BETTER = {0.01: 0.6, 0.1: 0.9, 0.5: 0.95, 1.0: 1.0}


def make_row(circuit: str, ablation: str, edges: int, f: float, split: str = "test", prompts: int = 50) -> Row:
    kl, accuracy = abs(1 - f) / 2 if not math.isnan(f) else 0.3, min(1.0, max(0.0, f if not math.isnan(f) else 0.5))
    return Row(
        circuit=circuit,
        ablation=ablation,
        split=split,
        size=edges / TOTAL,
        edges=edges,
        edges_pruned=max(0, edges - 1),
        token_edges=7.5 * edges,
        prompts=prompts,
        faithfulness=f,
        faithfulness_low=f - 0.1,
        faithfulness_high=f + 0.1,
        faithfulness_q1=f,
        faithfulness_median=f,
        faithfulness_q3=f,
        value=4 * f,
        ratio=f,
        ratio_low=f - 0.1,
        ratio_high=f + 0.1,
        difference=4 * f - 4,
        difference_low=4 * f - 5,
        difference_high=4 * f - 3,
        kl=kl,
        accuracy=accuracy,
        agreement_when_right=accuracy,
        agreement_when_wrong=math.nan,
        logit_difference=f,
    )


def make_curve(
    lines: Mapping[str, Mapping[float, float]],
    method: str = "EAP",
    model: str = "gpt2",
    split: str = "test",
    ablations: Sequence[str] = ("interchange",),
    prompts: int = 50,
    random: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Curve:
    """A curve with faithfulness by share of 1,000 edges for each ranking, the same under each ablation."""
    rows, places = [], {}
    for ablation in ablations:
        rows.append(make_row("full", ablation, TOTAL, 1.0, split, prompts))
        rows.append(make_row("empty", ablation, 0, 0.0, split, prompts))
        everything = {**lines, **({RANDOM: dict.fromkeys(next(iter(lines.values())), 0.05)} if random else {})}
        for ranking, points in everything.items():
            for share, f in points.items():
                name = f"{100 * share:g}% {ranking}"
                places[name] = CurvePlace(ranking, share)
                rows.append(make_row(name, ablation, round(share * TOTAL), f, split, prompts))
    return Curve.of(rows, places, method, model, {"model_hash": model, **(metadata or {})})


def in_spans(curve: Curve, *names: str) -> Curve:
    """The same curve of as many edges in each of these spans, of which an edge is open at 1, 2, 4, ... tokens."""
    tokens = sum(2**i for i in range(len(names)))
    rows = [
        replace(
            row,
            edges=row.edges * len(names),
            edges_pruned=row.edges_pruned * len(names),
            token_edges=row.edges * tokens,
        )
        for row in curve.rows
    ]
    return replace(curve, rows=rows, metadata={**curve.metadata, "spans": list(names)})


def put_curve(folder: Path, f: Mapping[float, float] = F, **options: Any) -> Path:
    """A curve of one ranking where a run would leave it; a second one beside it is that of another split."""
    folder.mkdir(parents=True, exist_ok=True)
    curve = make_curve({"signed": f}, **options)
    curve.save(folder, "curve" if not (folder / "curve.json").exists() else f"curve-{curve.split}")
    return folder
