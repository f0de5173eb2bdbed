"""Gates with logits that a test chooses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_logits(gate: Any, logits: Tensor) -> Any:
    gate.start(len(logits), generator())
    gate.logits = nn.Parameter(logits.clone())
    return gate


def spread(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, generator=generator(seed), dtype=torch.float64).to(dtype)
