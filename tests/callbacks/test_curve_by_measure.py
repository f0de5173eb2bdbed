"""A measure of one's own, from the callback through the curve's files to what may be compared."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from lightning_circuits.callbacks import FaithfulnessCurve
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.comparison import comparable
from lightning_circuits.evaluation.curve import Curve
from tests.support.drift import MODEL, Drift, files, make_trainer


def margin(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
    """Of one's own: how far the answer stands above all other tokens."""
    answer = batch["answers"][:, :1]
    return logits.gather(1, answer)[:, 0] - logits.scatter(1, answer, -math.inf).amax(1)


def test_a_measure_of_ones_own_goes_from_the_callback_through_the_files_to_the_comparison(
    data: IOIDataModule, tmp_path: Path
) -> None:
    plain = FaithfulnessCurve(sizes=[0.5, 0.9], dirpath=tmp_path)
    own = FaithfulnessCurve(sizes=[0.5, 0.9], dirpath=tmp_path, measure=margin)
    search = Drift()
    trainer = make_trainer(plain, own)
    trainer.fit(search, data)
    suffixes = ("csv", "json", "png", "svg")
    assert files(tmp_path) == {f"{stem}.{suffix}" for stem in ("curve", "curve-margin") for suffix in suffixes}
    trainer.test(search, data, verbose=False)
    assert {"curve-test.json", "curve-test-margin.json"} <= files(tmp_path)
    curve = Curve.load(tmp_path / "curve-margin.json")
    assert curve.measure == "margin" and {row.measure for row in curve.rows} == {"margin"}
    with (tmp_path / "curve-margin.csv").open() as file:
        assert {row["measure"] for row in csv.DictReader(file)} == {"margin"}

    said = {"full": [], "empty": []}  # type: ignore[var-annotated]
    for batch in data.val_dataloader():
        for name, ids in (("full", "clean_ids"), ("empty", "corrupt_ids")):
            for row, (tokens, mask) in enumerate(zip(batch[ids], batch["attention_mask"], strict=True)):
                logits = MODEL(input_ids=tokens[mask.bool()][None]).logits[0, -1].tolist()
                right = logits.pop(int(batch["answers"][row, 0]))
                said[name].append(right - max(logits))
    for name, values in said.items():
        assert curve.reference("interchange", name).value == pytest.approx(sum(values) / len(values), abs=1e-4)

    by_difference = Curve.load(tmp_path / "curve.json")
    untouched = ("circuit", "edges", "kl", "accuracy", "logit_difference")
    for row, other in zip(curve.rows, by_difference.rows, strict=True):
        assert [getattr(row, name) for name in untouched] == [getattr(other, name) for name in untouched]
    assert [row.faithfulness for row in curve.rows] != [row.faithfulness for row in by_difference.rows]
    assert comparable({"a": curve, "b": curve}) == []
    with pytest.raises(ValueError, match=r"different measures, .*a: margin; b: logit_difference.*--measure margin"):
        comparable({"a": curve, "b": by_difference})
    logged = trainer.callback_metrics
    row = own.curve.points("interchange", "signed")[0]  # type: ignore[union-attr]
    assert logged["test/curve/margin/interchange/50%/faithfulness"] == pytest.approx(row.faithfulness)
    assert "test/curve/interchange/50%/faithfulness" in logged
