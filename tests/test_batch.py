"""A batch from a loader of one's own that does not keep the contract is one error, wherever it comes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_circuits import EAP, EdgePruning
from lightning_circuits.ablation import ZeroAblation
from lightning_circuits.batch import FIELDS, copied, first_prompts, on_device, repeated, require_batch
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl


def batch(**changes: Any) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        "clean_ids": [[3, 4, 5], [6, 7, 0]],
        "corrupt_ids": [[3, 6, 5], [5, 7, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "positions": [2, 1],
        "answers": [[7], [8]],
        "distractors": [[8, 9], [7, -100]],
    }
    return {name: torch.tensor(value) for name, value in tensors.items()} | changes


BROKEN: dict[str, dict[str, Any]] = {
    r"prompt 1 of a batch has answers that are none of the model's 228 tokens": {"answers": torch.tensor([[1], [228]])},
    r"prompt 0 of a batch has distractors that are none of": {"distractors": torch.tensor([[-1], [2]])},
    r"prompt 0 of a batch has clean_ids that are none of": {"clean_ids": torch.tensor([[1, 2, -100], [4, 5, 6]])},
    r"prompt 1 of a batch has corrupt_ids that are none of": {"corrupt_ids": torch.tensor([[1, 2, 3], [4, 5, 999]])},
    r"prompt 0 of a batch has its answer read outside of its 3 columns": {"positions": torch.tensor([-1, 1])},
    r"prompt 1 of a batch has its answer read outside": {"positions": torch.tensor([2, 3])},
    r"prompt 1 of a batch has its answer read at padding": {"positions": torch.tensor([2, 2])},
    r"prompt 0 of a batch has an attention mask of other": {"attention_mask": torch.tensor([[1, 2, 1], [1, 1, 0]])},
    r"attention_mask of a batch have the shape \[2, 2\], expected \[2, 3\]": {
        "attention_mask": torch.ones(2, 2).long()
    },
    r"positions of a batch have the shape \[2, 1\], expected \[2\]": {"positions": torch.tensor([[2], [1]])},
    r"answers of a batch have the shape \[2\], expected \[2, candidates\]": {"answers": torch.tensor([7, 8])},
    r"clean_ids of a batch are \[prompts, tokens\], .* got \[3\]": {"clean_ids": torch.tensor([1, 2, 3])},
}
WITH_SPANS: dict[str, Any] = {"spans": torch.tensor([[0, 1, 1], [0, 1, -1]]), "span_names": ("S2", "END")}
BROKEN |= {
    r"a batch lacks span_names": {"spans": WITH_SPANS["spans"]},
    r"a batch lacks spans": {"span_names": ("S2", "END")},
    r"spans of a batch have the shape \[2, 2\], expected \[2, 3\]": WITH_SPANS | {"spans": torch.zeros(2, 2).long()},
    r"prompt 1 of a batch has spans that are none of its 2 span_names": WITH_SPANS
    | {"spans": torch.tensor([[0, 1, -1], [0, 2, 1]])},
    r"prompt 0 of a batch has spans that are none of its 2": WITH_SPANS | {"spans": torch.full((2, 3), -2)},
    r"spans need printable names of their own, .* got 'S2', 'S2'": WITH_SPANS | {"span_names": ("S2", "S2")},
    r"spans need printable names of their own, .* got 'a->b'": WITH_SPANS | {"span_names": ("S2", "a->b")},
}
GROUPED: dict[str, Any] = {"groups": torch.tensor([1, -1]), "group_names": ("ABBA", "BABA")}
BROKEN |= {
    r"a batch lacks groups": {"group_names": ("ABBA", "BABA")},
    r"groups of a batch have the shape \[2, 1\], expected \[2\]": GROUPED | {"groups": torch.zeros(2, 1).long()},
    r"prompt 1 of a batch has groups that are none of its 2 group_names": GROUPED | {"groups": torch.tensor([1, 2])},
    r"prompt 0 of a batch has groups that are none of its 2": GROUPED | {"groups": torch.tensor([-2, 0])},
    r"group_names of a batch have to differ, got \('ABBA', 'ABBA'\)": GROUPED | {"group_names": ("ABBA", "ABBA")},
}
OF_ANOTHER_KIND: dict[str, dict[str, Any]] = {
    r"clean_ids of a batch are torch.float32, expected whole": {"clean_ids": torch.ones(2, 3)},
    r"attention_mask of a batch are torch.float32": {"attention_mask": torch.ones(2, 3)},
    r"spans of a batch are torch.float32, expected whole": WITH_SPANS | {"spans": torch.zeros(2, 3)},
    r"spans of a batch have to be a tensor, got": WITH_SPANS | {"spans": [[0, 1, 1], [0, 1, -1]]},
    r"spans take a list of names, got 'END'": WITH_SPANS | {"span_names": "END"},
    r"spans take a list of names, got \(5, 'END'\)": WITH_SPANS | {"span_names": (5, "END")},
    r"groups of a batch are torch.float32, expected whole": GROUPED | {"groups": torch.zeros(2)},
    r"groups of a batch have to be a tensor, got \[0, 1\]": GROUPED | {"groups": [0, 1]},
    r"group_names of a batch are a tuple of texts, got 'ABBA'": GROUPED | {"group_names": "ABBA"},
    r"group_names of a batch are a tuple of texts, got \(5,\)": GROUPED | {"group_names": (5,)},
    r"answers of a batch have to be a tensor, got \[\[7\], \[8\]\]": {"answers": [[7], [8]]},
}


@pytest.mark.parametrize("message", [*BROKEN, *OF_ANOTHER_KIND])
def test_what_breaks_the_contract_is_named(message: str) -> None:
    error = ValueError if message in BROKEN else TypeError
    with pytest.raises(error, match=f"^{message}"):
        require_batch(batch(**(BROKEN | OF_ANOTHER_KIND)[message]), 228)


def test_what_keeps_it_is_taken_whatever_else_is_there() -> None:
    require_batch(batch(), 228)
    require_batch(batch(attention_mask=batch()["attention_mask"].bool(), texts=["a", "b"]), 228)
    require_batch(batch(**GROUPED, **WITH_SPANS), 228)
    require_batch(batch(groups=GROUPED["groups"]), 228)  # numbers alone, which say nothing
    require_batch({name: value.int() for name, value in batch().items()}, 228)


def test_prompts_keep_their_groups_and_spans_wherever_they_go() -> None:
    whole: Any = batch(**GROUPED, **WITH_SPANS)
    twice = repeated(copied(on_device(whole, torch.device("cpu"))), 2)
    assert twice["groups"].tolist() == [1, -1, 1, -1] and twice["group_names"] == ("ABBA", "BABA")
    assert first_prompts(twice, 3)["groups"].tolist() == [1, -1, 1] and first_prompts(twice, 3)["spans"].shape == (3, 3)
    require_batch(twice, 228)
    require_batch(first_prompts(twice, 3), 228)


@pytest.mark.parametrize("name", FIELDS)
def test_a_tensor_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^a batch lacks {name}; it has "):
        require_batch({key: value for key, value in batch().items() if key != name}, 228)


@pytest.mark.parametrize("given", [None, [torch.ones(2, 3)], torch.ones(2, 3), "batch"])
def test_what_is_no_batch_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="a batch is a dict of the tensors clean_ids, corrupt_ids"):
        require_batch(given, 228)


def fit(search: pl.LightningModule, loader: Any, folder: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=1, default_root_dir=folder, enable_checkpointing=False, **quiet).fit(search, loader)


def entrances() -> dict[str, Callable[[Any, Path], object]]:
    model = wrap(load_model("tiny-ioi"))
    return {
        "attribution": lambda loader, folder: fit(EAP("tiny-ioi"), loader, folder),
        "learned gates": lambda loader, folder: fit(EdgePruning("tiny-ioi"), loader, folder),
        "evaluation": lambda loader, folder: evaluate(model, loader, {}, [ZeroAblation()]),
    }


@pytest.mark.parametrize("entrance", ["attribution", "learned gates", "evaluation"])
def test_every_entrance_looks(entrance: str, tmp_path: Path) -> None:
    broken = batch(positions=torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match="prompt 0 of a batch has its answer read outside of its 3 columns"):
        entrances()[entrance](DataLoader([broken], batch_size=None), tmp_path)
