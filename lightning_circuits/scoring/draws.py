"""Random numbers that belong to a prompt: the same whatever stands beside it, in whatever order prompts come.

What a batch draws would depend on how prompts fall into batches, on the number of processes, and on where a killed run
goes on. So every prompt has generators of its own, seeded by a hash of its tokens and of the seed that the user gave.
Two prompts of the same tokens draw the same.
"""

from __future__ import annotations

import hashlib

import torch

from lightning_circuits.batch import Batch, prompts_alone, prompts_of_rows
from lightning_circuits.scoring.paths import PathPoint


def generators_of(batch: Batch, seed: int) -> list[torch.Generator]:
    """One for each prompt, on the CPU.

    They depend on the seed and on the tokens of both prompts of the pair, not on padding; rows that read on in an
    answer of several tokens are the prompt's.
    """
    alone = prompts_alone(batch)
    clean, corrupt, real = (alone[name].cpu() for name in ("clean_ids", "corrupt_ids", "attention_mask"))
    found = []
    for pair, mask in zip(torch.stack([clean, corrupt], 1), real.bool(), strict=True):
        digest = hashlib.sha256(f"{seed} {pair[:, mask].tolist()}".encode()).digest()
        found.append(torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True)))
    return found


def drawn_points(batch: Batch, steps: int, seed: int) -> list[PathPoint]:
    """Points of the line between the reference and the clean prompt, drawn for each prompt.

    The k-th lies at ``(k + u) / steps``, u uniform in [0, 1) and drawn anew for each: one in every part of the line, so
    that the mean of gradients at them has the integral as its expectation, and less variance than that of as many
    points drawn from all of the line (stratified sampling).

    Args:
        batch: the prompts, B rows.
        steps: how many points.
        seed: of the draws.

    Returns:
        points whose ``at`` is float32 ``[B]``, one after the other on the line.
    """
    drawn = [torch.rand(steps, generator=each, dtype=torch.float32) for each in generators_of(batch, seed)]
    at = (torch.arange(steps) + torch.stack(drawn)) / steps  # [prompts, steps]
    at = at[prompts_of_rows(batch).cpu()]  # [rows, steps]
    return [PathPoint(each, 1 / steps) for each in at.T.to(batch["clean_ids"].device)]
