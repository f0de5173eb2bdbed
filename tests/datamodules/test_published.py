"""Files in the formats of others, made by hand: what comes out, and every way in which a row can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.datamodules import PromptPairDataModule, read_pairs
from lightning_circuits.models.loading import load_tokenizer


def in_file(folder: Path, text: str) -> Path:
    path = folder / "file"
    path.write_text(text, encoding="utf-8")
    return path


class Digits:
    """A tokenizer for which the token of a year is 1000 and its two digits, but for those that are several tokens."""

    def __init__(self, *several: str) -> None:
        self.several = several

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[1, 2] if text in self.several else [1000 + int(text)] for text in texts]}


@pytest.mark.parametrize(
    ("text", "answers", "distractors"),
    [
        (",clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n7,It is,It was,x,5335,1757\n", (5335,), (1757,)),
        ("clean,corrupted,country_idx,corrupted_country_idx,country\nIt is,It was,3,4,Mali\n", (3,), (4,)),
        ("clean,corrupted,clean_answer_idx,corrupted_answer_idx,label\nIt is,It was,673,339,1\n", (673,), (339,)),
        (
            'clean,corrupted,answers_idx,corrupted_answers_idx\nIt is,It was,"[7, 8, 7]","[9]"\n',
            (7, 8),  # one is named twice
            (9,),
        ),
    ],
    ids=["ioi", "capital", "gender", "hypernymy"],
)
def test_tasks_of_eap_ig_are_pairs_of_token_ids(
    text: str, answers: tuple[int, ...], distractors: tuple[int, ...], tmp_path: Path
) -> None:
    [pair] = read_pairs(path := in_file(tmp_path, text), format="eap-ig")
    assert (pair.clean, pair.corrupt, pair.answers, pair.distractors) == ("It is", "It was", answers, distractors)
    assert pair.where == f"{path}, line 2" and not pair.group and not pair.spans


def test_years_are_tokens_by_the_tokenizer(tmp_path: Path) -> None:
    rows = '"The war, they say, lasted from 1352 to 13",from 1301 to 13,52\nFrom 1798,From 1701,98\nA 1700,A 1701,0\n'
    path = in_file(tmp_path, f"clean,corrupted,correct_idx\n{rows}")
    pairs = read_pairs(path, "eap-ig", Digits())
    assert pairs[0].clean == "The war, they say, lasted from 1352 to 13"
    assert pairs[0].answers == tuple(range(1053, 1100)) and pairs[0].distractors == tuple(range(1000, 1053))
    assert [(len(pair.answers), len(pair.distractors)) for pair in pairs] == [(47, 53), (1, 99), (99, 1)]
    with pytest.raises(ValueError, match=r"line 2: correct_idx is a year, and it takes a tokenizer to say"):
        read_pairs(path, "eap-ig")
    with pytest.raises(ValueError, match=r"line 2: 07 is 2 tokens for this tokenizer, and has to be one"):
        read_pairs(path, "eap-ig", Digits("52", "07"))


IDS = "clean,corrupted,correct_idx,incorrect_idx\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{IDS}a,b,1,2\nc,d,1\n", "line 3: fewer values than there are columns"),
        (f"{IDS}a,b,1,2,3\n", "line 2: more values than there are columns"),
        ("clean,correct_idx,incorrect_idx\na,1,2\n", "line 2: no column corrupted; there are 'clean', 'correct_idx'"),
        ("clean,corrupted,plural,group\na,b,1,x\n", r"line 2: no columns of answers that are known \(correct_idx and"),
        (f"{IDS}a,b,one,2\n", "line 2: correct_idx has to be the id of a token, or a list of ids, not 'one'"),
        (f"{IDS}a,b,1,[]\n", r"line 2: incorrect_idx has to be the id of a token, or a list of ids, not '\[\]'"),
        (f"{IDS}a,b,True,2\n", "line 2: correct_idx has to be the id of a token"),
        (f"{IDS},b,1,2\n", "line 2: clean has to be a text, not ''"),
        ("clean,corrupted,correct_idx\na,b,99\n", r"line 2: correct_idx has to be the last two digits .* not \[99\]"),
        (f'{IDS}a,"b,1,2\n', "behind line 1: not CSV: unexpected end"),
    ],
)
def test_a_row_of_eap_ig_that_is_none_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"file, {said}"):
        read_pairs(in_file(tmp_path, text), "eap-ig", Digits())


def names(**changes: Any) -> dict[str, Any]:
    row = {
        "prompt": "Mary and John met, and John told",
        "template": "A and B met, and B told",
        "metadata": {"subject": "John", "indirect_object": "Mary", "random_c": "Anna"},
        "choices": ["Mary", "John"],
        "abc_counterfactual": {"prompt": "Ann and Bob met, and Kim told"},
        "s2_io_flip_counterfactual": {"prompt": "Mary and John met, and Mary told"},
    }
    return row | changes


def choice(**changes: Any) -> dict[str, Any]:
    of = {"label": ["A", "B", "C"], "text": ["red", "blue", "grey"]}
    other = {"prompt": "Q: A? B? C?", "choices": {"label": ["X", "Y", "Z"]}, "answerKey": 1}
    return {"prompt": "Q?", "choices": of, "answerKey": 2, "symbol_counterfactual": other} | changes


def sum_of(**changes: Any) -> dict[str, Any]:
    other = {"prompt": "20 + 21 =", "label": 41}
    return {"prompt": "10 + 13 =", "operator": "+", "label": 23, "random_counterfactual": other} | changes


def rows_of_mib(folder: Path, *rows: Any) -> Path:
    return in_file(folder, "".join(json.dumps(row) + "\n\n" for row in rows))


def test_rows_of_mib_are_pairs(tmp_path: Path) -> None:
    unpaired = [sum_of(random_counterfactual=None), sum_of(random_counterfactual={"prompt": None, "label": None})]
    path = rows_of_mib(tmp_path, names(), *unpaired, choice(), sum_of())
    pairs = read_pairs(path, format="mib")
    assert [(pair.clean, pair.corrupt, pair.answers, pair.distractors, pair.group) for pair in pairs] == [
        (names()["prompt"], "Mary and John met, and Mary told", (" Mary",), (" John",), "A and B met, and B told"),
        ("Q?", "Q: A? B? C?", ("C",), ("Y",), ""),
        ("10 + 13 =", "20 + 21 =", ("23",), ("41",), ""),
    ]
    assert [pair.where for pair in pairs] == [f"{path}, line {number}" for number in (1, 7, 9)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "year": "1732"}, "no row of MIB that is known: .* it has prompt, year"),
        ([1], r"a pair is a JSON object with fields by name, not \[1\]"),
        (names(metadata={"indirect_object": "Mary"}), "metadata.subject is missing"),
        (names(prompt=None), "prompt is missing"),
        (choice(answerKey=3), r"answerKey 3 is none of the choices \['A', 'B', 'C'\]"),
        (choice(answerKey="C"), "answerKey 'C' is none of the choices"),
        (choice(symbol_counterfactual={"prompt": "b"}), "symbol_counterfactual.choices.label is missing"),
        (sum_of(random_counterfactual={"prompt": "b"}), "random_counterfactual.label is missing"),
        (sum_of(prompt=5), "clean has to be a text, not 5"),
        (names(template=5), "group has to be a text, not 5"),
    ],
)
def test_a_row_of_mib_that_is_none_is_named(row: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"file, line 3: {said}"):
        read_pairs(rows_of_mib(tmp_path, names(), row), "mib")


def test_files_that_are_none_and_formats_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere.csv \(CSV, a row per pair\)"):
        read_pairs(tmp_path / "nowhere.csv", "eap-ig")
    (tmp_path / "latin").write_bytes(f"{IDS}a\xe9,b,1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin, line 2: not UTF-8 \(byte 2 of the line\)"):
        read_pairs(tmp_path / "latin", "eap-ig")
    (tmp_path / "zipped").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"zipped is compressed \(zip\).*It should be CSV, in UTF-8"):
        read_pairs(tmp_path / "zipped", "eap-ig")
    for made in (lambda: read_pairs("x", format="tsv"), lambda: PromptPairDataModule("tiny-ioi", "x", format="tsv")):
        with pytest.raises(ValueError, match=r"format is one of 'auto', 'jsonl', .*'mib', got 'tsv'"):
            made()


def test_a_data_module_of_them_says_which_format(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny-ioi")
    people = ["Mary", "John", "Anna", "Paul", "Lucy", "Mark"]
    ids = {name: tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in people}
    rows = "".join(
        f"When {a} and {b} went to the store {b} gave it to,When {a} and {b} went to the store {a} gave it to,"
        f"{ids[a]},{ids[b]}\n"
        for a in people
        for b in people
        if a != b
    )
    data = PromptPairDataModule(tokenizer, in_file(tmp_path, IDS + rows), format="eap-ig", batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert {*batch["answers"].flatten().tolist()} <= {*ids.values()}
    said = data.describe()
    assert (said["format"], said["answers"], sum(said["pairs"].values())) == ("eap-ig", "token ids", 30)
