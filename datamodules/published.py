"""Rows of the files that others publish, as pairs.

*EAP-IG*, a CSV for each task: ``clean`` and ``corrupted`` prompts, and beside them token ids of the tokenizer that the
file was made for, by its name (``gpt2.csv``). Ids are taken as they stand: give the data that tokenizer.

| columns                                         | tasks                                                             |
|-------------------------------------------------|-------------------------------------------------------------------|
| ``correct_idx``, ``incorrect_idx``              | indirect objects, coloured objects                                |
| ``country_idx``, ``corrupted_country_idx``      | countries and capitals                                            |
| ``clean_answer_idx``, ``corrupted_answer_idx``  | gender bias                                                       |
| ``answers_idx``, ``corrupted_answers_idx``      | hypernymy: lists, such as ``[13, 27]``                            |
| ``correct_idx`` alone                           | greater-than: the last two digits of a year. Answers are the       |
|                                                 | tokens of all later ones up to 99, distractors those of the others |

Agreement (``plural``) has no answers in its file, which go by a list of verbs elsewhere. A ``group`` is kept.

*MIB*, rows of its data sets: the ``prompt`` with the counterfactual that its circuit track takes by default.

| fields                             | corrupt prompt               | answer and distractor                           |
|------------------------------------|------------------------------|-------------------------------------------------|
| ``metadata.indirect_object``       | `s2_io_flip_counterfactual`  | the two names, each with a space before it      |
| ``choices``, ``answerKey``         | `symbol_counterfactual`      | the labels of the right choice in both prompts  |
| ``label`` (arithmetic)             | `random_counterfactual`      | the two results                                 |

Rows of MIB whose counterfactual is null are passed over, as MIB does. Those whose answers are several tokens it passes
over too: give ``misfits="drop"``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from lightning_circuits.arguments import shortened
from lightning_circuits.datamodules.tokenising import PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("country_idx", "corrupted_country_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("answers_idx", "corrupted_answers_idx"),
)
"""Of EAP-IG's files: where the answers stand, and where the distractors."""
YEARS = 100


def pair_of_eap_ig(row: Mapping[Any, Any], where: str, tokenizer: PreTrainedTokenizerBase | None) -> PromptPair:
    """A row of a CSV of EAP-IG.

    Args:
        row: by the names of the columns, all texts.
        where: it stands, for errors.
        tokenizer: for years, whose tokens the file does not give.

    Raises:
        ValueError: a column is missing, or holds something else; a row with more or fewer values than columns.
    """
    if None in row or None in row.values():
        raise ValueError(f"{where}: {'more' if None in row else 'fewer'} values than there are columns")
    if missing := [name for name in ("clean", "corrupted") if name not in row]:
        raise ValueError(f"{where}: no column {missing[0]}; there are {', '.join(map(repr, row))}")
    found = next(((one, other) for one, other in COLUMNS if one in row and other in row), None)
    if found is not None:
        answers, distractors = (_ids(row[name], name, where) for name in found)
    elif "correct_idx" in row:
        answers, distractors = _years(_ids(row["correct_idx"], "correct_idx", where), where, tokenizer)
    else:
        known = ", ".join(f"{one} and {other}" for one, other in COLUMNS)
        raise ValueError(f"{where}: no columns of answers that are known ({known}); there are {', '.join(row)}")
    return PromptPair(row["clean"], row["corrupted"], answers, distractors, where, group=row.get("group", ""))


def _ids(text: str, name: str, where: str) -> tuple[int, ...]:
    """One id, or a list of several."""
    try:
        given = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        given = None
    ids = given if isinstance(given, (list, tuple)) else [given]
    if not ids or not all(type(each) is int for each in ids):
        raise ValueError(f"{where}: {name} has to be the id of a token, or a list of ids, not {shortened(text)}")
    return tuple(dict.fromkeys(ids))  # some lists name a token twice


def _years(
    year: tuple[int, ...], where: str, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of the two digits of all years behind this one, and of the others of its century."""
    if len(year) > 1 or not 0 <= year[0] < YEARS - 1:
        raise ValueError(f"{where}: correct_idx has to be the last two digits of a year below 99, not {list(year)}")
    if tokenizer is None:
        raise ValueError(f"{where}: correct_idx is a year, and it takes a tokenizer to say which tokens years are")
    tokens: Any = tokenizer([f"{each:02d}" for each in range(YEARS)], add_special_tokens=False)["input_ids"]
    if several := [number for number, ids in enumerate(tokens) if len(ids) != 1]:
        raise ValueError(
            f"{where}: {several[0]:02d} is {len(tokens[several[0]])} tokens for this tokenizer, and has to be one: the "
            "file is for another"
        )
    ids = [token for [token] in tokens]
    return tuple(ids[year[0] + 1 :]), tuple(ids[: year[0] + 1])


def pair_of_mib(record: Mapping[str, Any], where: str) -> PromptPair | None:
    """A row of a data set of MIB; None if it has no counterfactual.

    Args:
        record: its fields.
        where: it stands, for errors.

    Raises:
        ValueError: a row of none of the tasks that are known; a field is missing, or holds something else.
    """
    of_names = isinstance(record.get("metadata"), Mapping) and "indirect_object" in record["metadata"]
    kinds = {
        "s2_io_flip_counterfactual": of_names,
        "symbol_counterfactual": "choices" in record and not of_names,
        "random_counterfactual": "label" in record,
    }
    name = next((name for name, is_one in kinds.items() if is_one and name in record), None)
    if name is None:
        raise ValueError(
            f"{where}: no row of MIB that is known: it has neither names, choices nor a label with {', '.join(kinds)}; "
            f"it has {', '.join(map(str, record))}"
        )
    other = record[name]
    if other is None or (isinstance(other, Mapping) and other.get("prompt") is None):
        return None
    if of_names:
        answer, distractor = (f" {_field(record, f'metadata.{who}', where)}" for who in ("indirect_object", "subject"))
    elif name == "symbol_counterfactual":
        answer, distractor = _label(record, "", where), _label(record, f"{name}.", where)
    else:
        answer, distractor = str(_field(record, "label", where)), str(_field(record, f"{name}.label", where))
    clean, corrupt = _field(record, "prompt", where), _field(record, f"{name}.prompt", where)
    group = "" if record.get("template") is None else record["template"]
    return PromptPair(clean, corrupt, (answer,), (distractor,), where, group=group)


def _label(record: Mapping[str, Any], inside: str, where: str) -> str:
    """Of the right choice."""
    labels, key = _field(record, f"{inside}choices.label", where), _field(record, f"{inside}answerKey", where)
    if not isinstance(labels, list) or type(key) is not int or not 0 <= key < len(labels):
        raise ValueError(f"{where}: {inside}answerKey {shortened(key)} is none of the choices {shortened(labels)}")
    return str(labels[key])


def _field(record: Mapping[str, Any], path: str, where: str) -> Any:
    """What stands in a row, by the names that lead there."""
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, Mapping) or value.get(name) is None:
            raise ValueError(f"{where}: {path} is missing")
        value = value[name]
    return value
