"""Rows of circuits of weights, made up for the tests of tables."""

from __future__ import annotations

from typing import Any

from lightning_circuits.weights.judging import WeightRow


def make_weight_row(circuit: str, **other: Any) -> WeightRow:
    numbers = {"agreement": 0.875, "answer_nll": 1.25, "text_nll": 4.004}
    ends = {f"{name}_{end}": value for name, value in numbers.items() for end in ("low", "high")}
    said = {"rest": "zero", "split": "val", "density": 0.5, "weights": 53_084_160, "prompts": 40, "lines": 51}
    return WeightRow(**{"circuit": circuit, **said, **numbers, **ends, **other})
