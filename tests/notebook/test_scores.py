"""Scores without a Trainer are those of one, whatever prompts are given as."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pandas import DataFrame
from torch.utils.data import DataLoader

from lightning_circuits import EAPIG, Circuit, load, score
from lightning_circuits.datamodules import IOIDataModule, PromptPair
from lightning_circuits.namespace import pl
from lightning_circuits.notebook.given import prompt_batches
from lightning_circuits.search import METHODS, Attribution


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=6, n_val=5, n_test=1, batch_size=4)


@pytest.fixture(scope="module")
def pairs(data: IOIDataModule) -> list[PromptPair]:
    return list(data.make_splits()["train"])


def as_dicts(pairs: list[PromptPair]) -> list[dict[str, Any]]:
    names = ("clean", "corrupt", "answers", "distractors")
    return [{name: getattr(pair, name) for name in names} for pair in pairs]


def fitted(data: IOIDataModule, **options: Any) -> EAPIG:
    search = EAPIG("tiny-ioi", **options)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(search, data)
    return search


@pytest.mark.parametrize("options", [{}, {"ablation": "mean", "objective": "KL", "steps": 3}, {"kv": "head"}])
def test_scores_and_circuit_are_those_of_a_lightning_run(
    options: dict[str, Any], data: IOIDataModule, pairs: list[PromptPair]
) -> None:
    search = fitted(data, **options)
    scores = score("tiny-ioi", as_dicts(pairs), "eap-ig", batch_size=3, **options)
    torch.testing.assert_close(scores.edges, search.edge_scores(), rtol=1e-4, atol=1e-5)
    assert scores.circuit(size=0.1) == search.circuit(size=0.1)
    assert scores.ablation.fitted_over == (6 if "ablation" in options else 0)


def test_prompts_are_the_same_however_they_are_given(
    data: IOIDataModule, pairs: list[PromptPair], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in as_dicts(pairs)))
    model = load("tiny-ioi")
    loader = data.train_dataloader()
    dicts = as_dicts(pairs)
    texts = [{**each, "answers": each["answers"][0], "distractors": list(each["distractors"])} for each in dicts]
    given = [dicts, pairs, file, str(file), loader, list(loader), iter(list(loader)), iter(dicts), DataFrame(texts)]
    first, *others = [score(model, prompts, "EAP", ablation="mean") for prompts in given]
    for other in others:
        torch.testing.assert_close(other.edges, first.edges, rtol=1e-4, atol=1e-5)
        assert other.trained_on["prompts"] == first.trained_on["prompts"]
    assert first.trained_on["prompts"]["number"] == 6
    assert others[1].trained_on["data"] == {"file": str(file)}


def test_rows_are_read_as_a_data_module_reads_them(pairs: list[PromptPair], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="no pandas: pip install pandas")
    frame = pandas.DataFrame(as_dicts(pairs))
    of_texts = frame.assign(answers=frame.answers.str[0], distractors=frame.distractors.str[0])
    of_texts.to_csv(file := tmp_path / "pairs.csv", index=False)
    first = score("tiny-ioi", pairs, "EAP").trained_on["prompts"]
    for given in (frame, of_texts, of_texts.to_dict("records"), iter(as_dicts(pairs)), file):
        assert score("tiny-ioi", given, "EAP").trained_on["prompts"] == first
    alone = score("tiny-ioi", frame.drop(columns="distractors"), "EAP")
    assert alone.trained_on["prompts"]["number"] == 6 and alone.trained_on["prompts"] != first


def test_edges_are_told_apart_in_the_places_that_prompts_name(pairs: list[PromptPair]) -> None:
    placed = [{**each, "spans": dict(pair.spans)} for each, pair in zip(as_dicts(pairs), pairs, strict=True)]
    data = IOIDataModule("tiny-ioi", n_train=6, n_val=5, n_test=1, spans="roles")
    search = fitted(data, spans=True)
    scores = score("tiny-ioi", placed, spans=True)
    assert scores.search.layout == search.layout and search.layout.spans
    torch.testing.assert_close(scores.edges, search.edge_scores(), rtol=1e-4, atol=1e-5)
    mine, theirs = scores.circuit(size=20), search.circuit(size=20)
    assert mine == theirs and mine.metadata["token_edges"] == theirs.metadata["token_edges"]


def test_a_circuit_says_what_it_was_found_on_also_from_a_file(pairs: list[PromptPair], tmp_path: Path) -> None:
    scores = score("tiny-ioi", pairs, "EAP")
    scores.circuit(size=10).save(tmp_path / "circuit.json")
    said = Circuit.load(tmp_path / "circuit.json").metadata
    assert said["method"] == "EAP" and said["ablation"] == "interchange" and said["examples"] == 6
    assert said["trained_on"]["prompts"] == scores.trained_on["prompts"]
    assert "6 prompts" in repr(scores) and "479 edges by EAP" in repr(scores)
    best = scores.top(3)
    by_hand = sorted(range(479), key=lambda edge: -abs(scores.edges[edge].item()))[:3]
    assert best.columns["edge"] == scores.search.layout.edge_names(by_hand)


@pytest.mark.parametrize("name", [name for name in METHODS if not issubclass(METHODS[name], Attribution)])
def test_what_is_trained_is_refused_with_the_lines_that_train_it(name: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)Trainer.*search = {name}\(model\).*\.fit\(search, data\).*EAPIG"):
        score("no-such-model", [], method=name)


PAIR = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Paul gave a drink to",
    "answers": [" Mary"],
    "distractors": [" John"],
}


@pytest.mark.parametrize(
    ("prompts", "error", "said"),
    [
        ([], ValueError, "there are no prompts"),
        (PAIR, TypeError, "prompts takes a list of dicts"),
        (7, TypeError, "prompts takes a list of dicts, a frame of pandas, a file or the loader of a split, got 7"),
        (iter([]), ValueError, "there are no prompts"),
        (DataLoader([], batch_size=None), ValueError, "there are no prompts"),
        ([PAIR, "Mary"], ValueError, r"prompts\[1\]: a pair is a dict, of its fields by name, not 'Mary'"),
        ([PAIR, {"clean": "x"}], ValueError, r"prompts\[1\]: corrupt, answers missing; a pair has the fields clean"),
        ([PAIR | {"answers": 7}], ValueError, r"prompts\[0\]: answers has to be a list of at least one text"),
        ([PAIR, PAIR | {"distractors": []}], ValueError, r"1 of 2 pairs have no distractors.*without: prompts\[1\]"),
        ([PAIR, PAIR | {"corrupt": "When"}], ValueError, r"prompts\[1\]: clean has \d+ tokens and corrupt 1"),
        ("no-such-file.jsonl", FileNotFoundError, "no-such-file.jsonl"),
    ],
)
def test_what_is_no_prompts_is_said(prompts: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        score("tiny-ioi", prompts)


def test_prompts_are_read_as_data_modules_read_them(pairs: list[PromptPair]) -> None:
    without = [replace(pair, distractors=()) for pair in pairs]
    rows = [{"clean": pair.clean, "corrupt": pair.corrupt, "answers": pair.answers[0]} for pair in pairs]
    assert score("tiny-ioi", rows, "eap").edges.equal(score("tiny-ioi", without, "eap").edges)


def test_other_mistakes_are_said(data: IOIDataModule) -> None:
    with pytest.raises(TypeError, match=r"IOIDataModule has three splits: give one of them, such as data\.train_data"):
        score("tiny-ioi", data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"unknown method 'eapgi' \(did you mean EAPIG\?\); choose one of"):
        score("tiny-ioi", [PAIR], "eapgi")
    with pytest.raises(TypeError, match="method takes a name or a class, got"):
        score("tiny-ioi", [PAIR], EAPIG())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"EAPIG has no option 'step' \(did you mean steps\?\), but model, .*ablation"):
        score("no-such-model", [PAIR], step=3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        score("tiny-ioi", [PAIR], batch_size=0)
    nameless = load("tiny-ioi")
    nameless.config._name_or_path = ""
    with pytest.raises(ValueError, match=r"does not say where it is from.*give tokenizer="):
        score(nameless, [PAIR])
    assert score(nameless, [PAIR], "EAP", tokenizer="tiny-ioi").trained_on["prompts"]["number"] == 1


def test_prompts_that_are_too_long_are_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"prompts\[0\]: the prompts have \d+ tokens, more than"):
        score("tiny-ioi", [PAIR | {name: " ".join([str(PAIR[name])] * 20) for name in ("clean", "corrupt")}])


def test_batches_can_be_gone_through_again(data: IOIDataModule) -> None:
    read = prompt_batches(iter(list(data.val_dataloader())), "tiny-ioi")
    assert [len(list(read.batches)) for _ in range(2)] == [2, 2]


def test_the_names_bring_lightning_only_when_they_are_asked_for() -> None:
    program = (
        "import sys, lightning_circuits\nfrom lightning_circuits import Circuit\n"
        "assert 'pytorch_lightning' not in sys.modules\n"
        "assert {'evaluate', 'load', 'score', 'show'} <= set(dir(lightning_circuits))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
