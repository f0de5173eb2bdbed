"""Heads that look where a test says, for tests of what is drawn and printed of them."""

from __future__ import annotations

from lightning_circuits.evaluation.attention_by_role import HeadAttention
from lightning_circuits.evaluation.metrics import Estimate


def make_head(
    head: str,
    model: tuple[float, float, float],
    circuit: tuple[float, float, float],
    wrong: str = "IO",
) -> HeadAttention:
    """Its confidence ratios for S2, each with its interval; all else is the same for every head."""
    attention, f = Estimate(0.25, 0.2, 0.3), Estimate(0.875, 0.75, 1.0)
    return HeadAttention(
        head=head,
        query="END",
        right="S2",
        wrong=wrong,
        ablation="interchange",
        split="test",
        prompts=64,
        model_right=attention,
        model_wrong=attention,
        circuit_right=attention,
        circuit_wrong=attention,
        model_ratio=Estimate(*model),
        circuit_ratio=Estimate(*circuit),
        faithfulness_right=f,
        faithfulness_wrong=Estimate(1.25, 1.0, 1.5),
    )
