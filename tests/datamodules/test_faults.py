"""Bad rows are said together: the first ten, each by its place, and how many there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.commands.errors import in_one_line
from lightning_circuits.datamodules import IOIDataModule, PromptPair, PromptPairDataModule, read_pairs
from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.facts import read_facts
from lightning_circuits.datamodules.faults import BadRows
from lightning_circuits.models.loading import load_tokenizer
from tests.datamodules.test_jsonl import record

TOKENIZER = load_tokenizer("tiny-ioi")


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_lines_that_cannot_be_read_are_said_together(tmp_path: Path) -> None:
    bad = ["nonsense", record(clean=""), {"clean": "a"}, *(record(answers=n) for n in range(30))]
    file = written(tmp_path / "p", [record(0), *bad, record(1)])
    with pytest.raises(BadRows) as caught:
        read_pairs(file)
    first, *shown, last = str(caught.value).splitlines()
    assert first == "33 of 35 pairs cannot be used; the first 10:"
    assert [line.split(":")[0] for line in shown] == [f"  {file}, line {n}" for n in range(2, 12)]
    assert "not JSON" in shown[0] and "clean has to be" in shown[1] and "answers has to be" in shown[-1]
    assert last == "  and 23 more"
    assert len(caught.value.faults) == 33


def test_one_bad_line_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*p, line 2: not JSON[^\n]*$"):
        read_pairs(written(tmp_path / "p", [record(0), "nonsense"]))


def test_pairs_of_all_splits_that_do_not_fit_are_said_together(tmp_path: Path) -> None:
    short = "When Mary left, John gave it to"
    rows = [record(n) for n in range(20)]
    rows[3]["corrupt"] = rows[11]["corrupt"] = rows[12]["corrupt"] = short
    file = written(tmp_path / "p", rows)
    for seed in range(3):  # whichever splits they fall into
        with pytest.raises(BadRows) as caught:
            PromptPairDataModule(TOKENIZER, file, val_fraction=0.3, test_fraction=0.3, seed=seed).setup()
        said = str(caught.value)
        assert said.startswith("3 of 20 pairs cannot be used:\n")
        assert all(f"{file}, line {line}: clean has 13 tokens and corrupt 8" in said for line in (4, 12, 13))
        assert said.endswith("misfits='drop'")


def test_other_faults_have_no_such_way_out(tmp_path: Path) -> None:
    rows = [record(n) for n in range(20)]
    rows[3]["corrupt"] = "When Mary left, John gave it to"
    rows[7]["answers"] = [10**6]
    data = PromptPairDataModule(TOKENIZER, written(tmp_path / "p", rows))
    with pytest.raises(BadRows) as caught:
        data.setup()
    assert len(caught.value.faults) == 2 and "drop" not in str(caught.value)
    with pytest.raises(BadRows, match="1000000 is the id of no token"):  # which dropping does not hide
        PromptPairDataModule(TOKENIZER, tmp_path / "p", misfits="drop").setup()


def test_files_of_several_splits_are_read_before_any_is_refused(tmp_path: Path) -> None:
    files = {name: written(tmp_path / name, [record(n), "nonsense"]) for n, name in enumerate(("train", "val", "test"))}
    with pytest.raises(BadRows, match=r"^3 of 6 pairs cannot be used:") as caught:
        PromptPairDataModule(TOKENIZER, **files).setup()
    assert all(f"{file}, line 2: not JSON" in str(caught.value) for file in files.values())


def test_bad_facts_are_said_together(tmp_path: Path) -> None:
    with pytest.raises(BadRows, match="2 of 2 facts cannot be used"):
        read_facts(written(tmp_path / "p", [{"subject": "a"}, "nonsense"]))


def test_the_command_line_has_a_line_for_each(tmp_path: Path) -> None:
    with pytest.raises(BadRows) as caught:
        read_pairs(written(tmp_path / "p", ["{nonsense", "{"]))
    said = in_one_line(caught.value)
    assert said is not None and said.startswith("2 of 2 pairs") and said.count("\n") == 2


class Endless(PairDataModule):
    """Pairs without end, none of which fits."""

    def make_splits(self) -> Any:
        def pairs() -> Any:
            while True:
                yield PromptPair("Mary gave it to", "Mary gave", (" John",), (), "a pair")

        return {name: pairs() for name in ("train", "val", "test")}

    def wanted(self, split: str) -> int:
        return 4

    def describe(self) -> dict[str, Any]:
        return {}


def test_no_more_are_drawn_than_are_wanted() -> None:
    with pytest.raises(BadRows, match=r"^12 of 12 pairs cannot be used; the first 10:"):
        Endless(TOKENIZER).setup()


def test_prompts_too_long_for_the_model_are_said_together() -> None:
    from lightning_circuits.models import wrap
    from lightning_circuits.models.loading import load_model

    model = wrap(load_model("tiny-ioi"))
    assert model.prompt_limit is not None
    data = IOIDataModule(TOKENIZER, 4, 2, 2)
    data.setup()
    for pair in data._splits["train"][:2]:
        pair.clean.extend([0] * model.prompt_limit.tokens)
    with pytest.raises(BadRows, match=r"^2 of 8 pairs cannot be used:\n  train prompt 0: the prompts have \d+ tokens"):
        data.require_fit(model)
