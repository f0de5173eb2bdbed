"""In which spans a search has edges: under each corruption of IOI and each ablation."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.search.splits import live_spans, live_tokens

BEFORE = {"..IO", "..S1"}  # ABBA and BABA begin with another name
AFTER = {"S2", "S2..END", "END"}
ALL = BEFORE | AFTER | {"IO", "IO..S1", "S1", "S1+1", "S1+1..S2", "IO..S2"}
"""With a token a word."""


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("corruption", "ablation", "expected"),
    [
        ("third-name", "interchange", AFTER),
        ("s2-io-flip", "interchange", AFTER),
        ("abc", "interchange", ALL - BEFORE),
        *((corruption, "zero", ALL) for corruption in ("third-name", "s2-io-flip", "abc")),
        *(("third-name", ablation, ALL) for ablation in ("mean", "mean-positional", "mean-span")),
    ],
)
def test_live_spans_are_those_from_the_first_token_that_differs(
    corruption: Any, ablation: str, expected: set[str], side: Any
) -> None:
    data = IOIDataModule(EMBEDDED, 60, 8, 8, batch_size=7, corruption=corruption, padding_side=side, spans="roles")
    cut, loader = ABLATIONS.make(ablation), data.train_dataloader()
    found = live_spans(loader, cut)
    assert set(found) == expected
    assert list(found) == [name for name in loader.span_names if name in found]
    tokens = 0
    for pair in loader.pairs:
        differs = [a != b for a, b in zip(pair.clean, pair.corrupt, strict=True)]
        tokens += len(differs) - (differs.index(True) if ablation == "interchange" else 0)
    assert sum(found.values()) == pytest.approx(tokens / 60) and found["S2"] == found["END"] == 1.0
    every = live_tokens(loader, cut)
    assert {name for name, number in every.items() if name and not number} == set(loader.span_names) - set(found)
