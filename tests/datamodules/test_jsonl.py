"""Pairs of one's own: the JSON Lines format, the splits, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_circuits.datamodules import PromptPairDataModule
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.models.loading import load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")


def record(number: int = 0, **changes: object) -> dict[str, object]:
    a, b, c = NAMES[number], NAMES[number + 1], NAMES[number + 2]
    pair: dict[str, object] = {
        "clean": f"When {a} and {b} went to the store, {b} gave it to",
        "corrupt": f"When {a} and {b} went to the store, {c} gave it to",
        "answers": [f" {a}"],
        "distractors": [f" {b}"],
    }
    return pair | changes


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def text_splits(data: PromptPairDataModule) -> dict[str, list[str]]:
    return {name: [pair.clean for pair in pairs] for name, pairs in data.make_splits().items()}


def test_one_file_becomes_three_splits(tmp_path: Path) -> None:
    records = [record(n) for n in range(30)] * 2
    data = PromptPairDataModule("tiny-ioi", write(tmp_path / "p.jsonl", records), batch_size=4, val_fraction=0.2)
    splits = text_splits(data)
    assert {name: len(texts) for name, texts in splits.items()} == {"train": 42, "val": 12, "test": 6}
    # Nothing is lost, and both lines of a prompt are in one split.
    assert sorted([*splits["train"], *splits["val"], *splits["test"]]) == sorted(str(r["clean"]) for r in records)
    assert not set(splits["train"]) & set(splits["val"]) | set(splits["val"]) & set(splits["test"])
    batch = next(iter(data.val_dataloader()))
    assert TOKENIZER.decode(batch["clean_ids"][0]) == TOKENIZER.decode(TOKENIZER(splits["val"][0])["input_ids"])
    assert data.describe()["pairs"] == {"train": 42, "val": 12, "test": 6}
    json.dumps(data.describe())


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [record(n) for n in range(40)])
    splits = [text_splits(PromptPairDataModule(TOKENIZER, file, seed=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_files_of_their_own(tmp_path: Path) -> None:
    files = {s: write(tmp_path / s, [record(n) for n in rows]) for s, rows in
             {"train": range(6), "val": range(6, 9), "test": range(9, 10)}.items()}  # fmt: skip
    splits = text_splits(PromptPairDataModule(TOKENIZER, **files))
    assert [len(texts) for texts in splits.values()] == [6, 3, 1]
    assert splits["train"] == [record(n)["clean"] for n in range(6)]


def test_several_answers_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    many = record(0, answers=[" Mary", " John"], distractors=[" Tom"], note="ignored")
    path.write_text("\n\n".join(json.dumps(r) for r in [many, *(record(n) for n in range(1, 9))]) + "\r\n")
    prompts = {"clean": "When Ruth left, Tim gave it to", "corrupt": "When Ruth left, Sam gave it to"}
    test = write(tmp_path / "test", [many | prompts])
    [batch] = PromptPairDataModule(TOKENIZER, path, test=test).test_dataloader()
    assert TOKENIZER.convert_ids_to_tokens(batch["answers"][0].tolist()) == ["Mary", "John"]
    assert batch["distractors"].tolist() == [[TOKENIZER.convert_tokens_to_ids("Tom"), -100]]


BAD_LINES = {
    '{"clean": "When': ["not JSON", "column"],
    "[1, 2]": ["JSON object", "[1, 2]"],
    json.dumps({k: v for k, v in record().items() if k != "answers"}): ["answers missing"],
    json.dumps(record(clean="")): ["clean has to be a text"],
    json.dumps(record(answers=[])): ["answers has to be a list of at least one text"],
    json.dumps(record(answers="13")): ['answers is 13: as a text that is ["13"], as the id of a token [13]'],
    json.dumps(record(answers="[MASK]")): ["answers is '[MASK]', and should be a list"],
    json.dumps(record(distractors={})): ["distractors has to be a list"],
    json.dumps({k: v for k, v in record(distractor=[" John"]).items() if k != "distractors"}): [
        "distractors missing; is 'distractor' meant for distractors?"
    ],
    json.dumps(record(corrupt="When Mary left, John gave it to")): [
        "clean has 13 tokens and corrupt 8",
        "'When Mary left, John gave it to'",
        "['When', 'Mary', 'left', ',', 'John', 'gave', 'it', 'to']",
        repr(record()["clean"]),
        str(TOKENIZER.tokenize(record()["clean"])),
    ],
    json.dumps(record(corrupt=record()["clean"])): ["clean and corrupt are the same"],
    json.dumps(record(clean="gave xylophones to", corrupt="gave it to")): [
        "'xylophones' in 'gave xylophones to' is not in the tokenizer's vocabulary"
    ],
    json.dumps(record(corrupt="When Zoltan and Mary gave trombones to")): ["'Zoltan', 'trombones' in 'When Zoltan and"],
    json.dumps(record(clean=" ")): ["of ' ' the tokenizer makes no token"],
    json.dumps(record(answers=[" Mary John"])): [
        "answer ' Mary John'",
        "exactly one token",
        "by itself it is ['Mary', 'John']",
        f"give a token by its id, as {TOKENIZER.convert_tokens_to_ids('Mary')} for 'Mary'",
    ],
    json.dumps(record(distractors=["Mary"])): ["distractor 'Mary' has to add exactly one token", "' Mary' is one."],
    json.dumps(record(distractors=["s"])): ["distractor 's' has to add exactly one token", "or give the id of a token"],
    json.dumps(record(answers=[" Zaphod"])): ["answer ' Zaphod' is not in the tokenizer's vocabulary"],
    json.dumps(record(answers=[" Mary", " John"], distractors=[" John"])): [
        "['John'] is given as an answer and as a dis"
    ],
    # Token ids.
    json.dumps(record(answers=[10**6])): ["1000000 is the id of no token: this tokenizer's are from 0 to 227"],
    json.dumps(record(distractors=[-100])): ["-100 is the id of no token"],
    json.dumps(record(distractors=[True])): [
        "each of distractors has to be a text, the id of a token or a list of ids, not True"
    ],
    json.dumps(record(answers=[7.0])): [
        "each of answers has to be a text, the id of a token or a list of ids, not 7.0"
    ],
    json.dumps(record(answers=[float("nan")])): [
        "each of answers has to be a text, the id of a token or a list of ids, not nan"
    ],
    json.dumps(record(answers=[[]])): ["each of answers has to be a text, the id of a token or a list of ids, not []"],
    json.dumps(record(answers=[[7, True]])): ["a list of ids, not [7, True]"],
    json.dumps(record(answers=[[7, 10**6]])): ["1000000 is the id of no token"],
    json.dumps(record(answers=[[7, 8]])): ["[7, 8] are 2 tokens. Answers may have several", "answer_tokens='any'"],
    json.dumps(record(answers=[" Mary and"])): ["' Mary and' has to add exactly one token", "answer_tokens='any'"],
    json.dumps(record(answers=[None])): ["not None"],
    json.dumps(record(answers={"a": 7})): ["answers has to be a list"],
    json.dumps(record(answers=7)): ["answers has to be a list of at least one text or token id, not 7"],
    json.dumps(record(answers=[" Mary", TOKENIZER.convert_tokens_to_ids("Mary")])): [
        "['Mary'] is given twice in answers"
    ],
    json.dumps(record(distractors=[TOKENIZER.convert_tokens_to_ids("Adam")])): [
        "['Adam'] is given as an answer and as"
    ],
    # JSON that is not what it looks like.
    json.dumps(record()).replace("answers", "answer"): ["answers missing; is 'answer' meant for answers?"],
    json.dumps(record()).replace('"clean"', '"Clean"'): ["clean missing; is 'Clean' meant for clean?"],
    json.dumps(record())[:-1] + ', "answers": [" Mary"]}': ["'answers' stands in it twice"],
    json.dumps(record())[:-1] + ",}": ["not JSON"],
    json.dumps(record(clean="gave \ud800 to")): ["clean holds half a character, '\\ud800' by itself"],
    json.dumps(record(answers=["\udfff"])): ["each of answers holds half a character"],
    json.dumps(record()).replace("[", "[" + 5000 * "9" + ", ", 1): ["no pair: Exceeds the limit"],
    "[" * 10**5: ["no pair: maximum recursion"],
    json.dumps([record()] * 20): ["a pair is a JSON object", "characters)"],
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: BAD_LINES[line][0])
def test_a_bad_line_is_named(tmp_path: Path, bad: str, split: str) -> None:
    files = {"train": [json.dumps(record(n)) for n in range(3, 13)], "val": [json.dumps(record(n)) for n in (20, 21)]}
    files[split].insert(1, bad)
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lines))
    data = PromptPairDataModule(TOKENIZER, tmp_path / "train", tmp_path / "val", seed=2)
    with pytest.raises(ValueError) as caught:
        data.setup("fit")
    for part in [f"{tmp_path / split}, line 2: ", *BAD_LINES[bad]]:
        assert part in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\n\xff\n")
    with pytest.raises(ValueError, match=r"p, line 2: not UTF-8 \(byte 1 of the line\): save the file in UTF-8"):
        PromptPairDataModule(TOKENIZER, tmp_path / "p").setup()


def test_a_mark_of_utf8_and_ends_of_lines_do_not_matter(tmp_path: Path) -> None:
    lines = [json.dumps(record(n), ensure_ascii=False) for n in range(20)]
    (tmp_path / "plain").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "marked").write_text("\r\n".join(lines), encoding="utf-8-sig")
    plain, marked = (text_splits(PromptPairDataModule(TOKENIZER, tmp_path / name)) for name in ("plain", "marked"))
    assert plain == marked


def test_ids_do_for_texts(tmp_path: Path) -> None:
    def with_ids(n: int) -> dict[str, object]:
        pair = record(n)
        return pair | {"answers": [TOKENIZER(pair["answers"][0])["input_ids"][0]]}

    texts = PromptPairDataModule(TOKENIZER, write(tmp_path / "texts", [record(n) for n in range(20)]))
    ids = PromptPairDataModule(TOKENIZER, write(tmp_path / "ids", [with_ids(n) for n in range(20)]))
    for expected, batch in zip(texts.train_dataloader(), ids.train_dataloader(), strict=True):
        assert all(torch.equal(expected[key], batch[key]) for key in expected)
    assert texts.describe()["answers"] == "texts" and ids.describe()["answers"] == "texts and token ids"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.jsonl"):
        PromptPairDataModule(TOKENIZER, tmp_path / "nowhere.jsonl").setup()
    with pytest.raises(FileNotFoundError, match="there is a folder and no file"):
        PromptPairDataModule(TOKENIZER, tmp_path).setup()


def test_empty_splits_are_refused(tmp_path: Path) -> None:
    full, empty = write(tmp_path / "full", [record(n) for n in range(10)]), write(tmp_path / "empty", [])
    for files in ({"train": empty}, {"train": full, "val": empty}):
        with pytest.raises(ValueError, match=r"empty holds no pairs, so the (train|val) split would be empty"):
            PromptPairDataModule(TOKENIZER, **files).setup()
    few = write(tmp_path / "few", [record(n) for n in range(3)])
    with pytest.raises(ValueError, match=r"the val split would be empty.* 0.1 of the 3 different clean prompts"):
        PromptPairDataModule(TOKENIZER, few).setup()
    with pytest.raises(ValueError, match="leave nothing to train on"):
        PromptPairDataModule(TOKENIZER, few, val_fraction=0.49, test_fraction=0.5).setup()


def test_training_prompts_are_not_validated_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train", [record(n) for n in range(10)])
    val = write(tmp_path / "val", [record(20), record(4)])
    with pytest.raises(
        ValueError, match=r"1 of the val prompts are trained on as well.*val, line 2, and .*train, line 5"
    ):
        PromptPairDataModule(TOKENIZER, train, val, val, seed=1, test_fraction=0.1).setup()


def test_options_out_of_range_are_refused() -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"padding_side": "middle"}, "padding_side is one of 'right', 'left', got 'middle'"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "below 1 together"),
        ({"test_fraction": 0.0}, "above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PromptPairDataModule(TOKENIZER, "p.jsonl", **options)
