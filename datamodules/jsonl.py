"""Prompts of one's own, from JSON Lines files: a pair a line.

    {"clean": "Paris is in", "corrupt": "Rome is in", "answers": [" France"], "distractors": [" Italy"]}

    data = PromptPairDataModule("gpt2", train="capitals.jsonl", batch_size=8)

An answer is a text, or the id of a token, `"answers": [4881]`. Places of the clean prompt may have names, by the
characters where they begin and behind which they end: `"spans": {"CITY": [0, 5], "END": [9, 11]}`; null stands for a
place that a prompt does not have. Prompts made from one template may say so: `"group": "X is in"`.

Splits that have no file of their own are cut out of the training file.
"""

from __future__ import annotations

import codecs
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_circuits.arguments import require_numbers, shortened
from lightning_circuits.datamodules.base import PairDataModule
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

FIELDS = ("clean", "corrupt", "answers", "distractors")
"""What a pair has to have; beside them `spans` and `group`."""


class PromptPairDataModule(PairDataModule):
    """Pairs from JSON Lines files (the format is in the module's docstring).

    A split without a file is cut out of `train`, by `seed`. Lines with the same clean prompt stay together, so that
    nothing trained on is validated on; for the same reason, a file for validation or test that shares clean prompts
    with the training split is refused.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        train: the file to train on.
        val: a file of its own for validation.
        test: a file of its own for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides the splits and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.
        val_fraction: how much of `train` to cut off where there is no `val`.
        test_fraction: how much of `train` to cut off where there is no `test`.

    Raises (when set up, so before any training):
        FileNotFoundError: a file is not there.
        ValueError: with file and line: not a pair in JSON, or a pair that cannot be used (see `tokenise`); a split is
            empty; clean prompts shared between splits.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        train: str | Path,
        val: str | Path | None = None,
        test: str | Path | None = None,
        batch_size: int = 8,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "refuse",
    ) -> None:
        super().__init__(tokenizer, batch_size, padding_side, seed, spans, misfits)
        require_numbers(val_fraction=val_fraction, test_fraction=test_fraction)
        for name, file in (("train", train), ("val", val), ("test", test)):
            if not isinstance(file, (str, Path)) and (file is not None or name == "train"):
                raise TypeError(f"{name} takes the path of a file, got {file!r}")
        if val_fraction <= 0 or test_fraction <= 0 or val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} have to be above 0, and below 1 "
                "together"
            )
        self.files = {"train": train, "val": val, "test": test}
        self.fractions = {"val": val_fraction, "test": test_fraction}

    def make_splits(self) -> dict[str, list[PromptPair]]:
        splits = {name: read_pairs(file) for name, file in self.files.items() if file is not None}
        for name, pairs in splits.items():
            if not pairs:
                raise ValueError(f"{self.files[name]} holds no pairs, so the {name} split would be empty")
        words = [word for split in splits.values() for pair in split for word in (*pair.answers, *pair.distractors)]
        self.answers_are = " and ".join(sorted({"texts" if isinstance(word, str) else "token ids" for word in words}))
        prompts = shuffled(sorted({pair.clean for pair in splits["train"]}), "split", self.seed)
        total = len(prompts)
        for name, fraction in self.fractions.items():
            if self.files[name] is None:
                count = round(fraction * total)
                if not 0 < count < len(prompts):
                    raise ValueError(
                        f"the {name} split would be empty, or leave nothing to train on: {fraction:g} of the {total} "
                        f"different clean prompts in {self.files['train']}. Give more pairs, another {name}_fraction, "
                        f"or a file of its own ({name}=...)"
                    )
                cut, prompts = set(prompts[:count]), prompts[count:]
                splits[name] = [pair for pair in splits["train"] if pair.clean in cut]
                splits["train"] = [pair for pair in splits["train"] if pair.clean not in cut]
        trained = {pair.clean: pair.where for pair in splits["train"]}
        for name in self.fractions:
            if shared := [pair for pair in splits[name] if pair.clean in trained]:
                raise ValueError(
                    f"{len(shared)} of the {name} prompts are trained on as well, so nothing measured on them would "
                    f"count. The first: {shared[0].clean!r} ({shared[0].where}, and {trained[shared[0].clean]})"
                )
        return splits

    def describe(self) -> dict[str, Any]:
        self.setup()
        return {
            "data": type(self).__name__,
            "tokenizer": self.tokenizer_name,
            "files": {name: None if file is None else str(file) for name, file in self.files.items()},
            "fractions": dict(self.fractions),
            "answers": self.answers_are,
            "pairs": {name: len(pairs) for name, pairs in self._splits.items()},
            **self.describe_misfits(),
            "seed": self.seed,
        }


def read_pairs(file: str | Path) -> list[PromptPair]:
    """Read a JSON Lines file of pairs; blank lines are passed over, other fields are ignored.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: the file is compressed or not UTF-8; with the line's number: it is not JSON, not an object, or a
            field is missing, given twice or of another type.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is {'a folder and ' if path.is_dir() else ''}no file {path} (JSON Lines, a line per pair with the "
            f"fields {', '.join(FIELDS)})"
        )
    content = path.read_bytes()
    for start, kind in _OTHER_FILES.items():
        if content.startswith(start):
            raise ValueError(f"{path} is {kind}: a file of pairs is JSON Lines, in UTF-8")
    pairs = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            pairs.append(_parse_pair(line, f"{path}, line {number}"))
    return pairs


_OTHER_FILES = {
    b"\x1f\x8b": "compressed (gzip)",
    b"PK\x03\x04": "compressed (zip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PAR1": "in Parquet",
    codecs.BOM_UTF16_LE: "in UTF-16",
    codecs.BOM_UTF16_BE: "in UTF-16",
}


def _parse_pair(line: bytes, where: str) -> PromptPair:
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from None
    except (ValueError, RecursionError) as error:  # a field twice; a number of thousands of digits; lists in lists
        raise ValueError(f"{where}: no pair: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: a pair is a JSON object with the fields {', '.join(FIELDS)}, not {shortened(record)}"
        )
    if missing := [field for field in FIELDS if field not in record]:
        meant = {field: get_close_matches(field, set(record) - set(FIELDS), 1) for field in missing}
        hints = "".join(f"; is {names[0]!r} meant for {field}?" for field, names in meant.items() if names)
        raise ValueError(f"{where}: {', '.join(missing)} missing{hints}; a pair has the fields {', '.join(FIELDS)}")
    for field in FIELDS[2:]:
        if not isinstance(record[field], list) or not record[field]:
            raise ValueError(
                f"{where}: {field} has to be a list of at least one text or token id, not {shortened(record[field])}"
            )
    spans = {} if record.get("spans") is None else record["spans"]
    group = "" if record.get("group") is None else record["group"]
    answers, distractors = tuple(record["answers"]), tuple(record["distractors"])
    return PromptPair(record["clean"], record["corrupt"], answers, distractors, where, spans, group)


def _each_once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(fields)
    if len(record) < len(fields):
        names = [name for name, _ in fields]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return record
