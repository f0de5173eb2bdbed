"""docs/models.md: of every architecture that the installed transformers know, whether it is read.

    python -m tests.support.architectures_page --write

Each is built tiny and given to `wrap`; what a row says was seen there. `tests/models/test_every_architecture.py` holds
every row, and says when the page is out of date.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import transformers

from lightning_circuits.models import wrap
from lightning_circuits.models.mixtures import is_mixture
from lightning_circuits.models.refused import reason_of
from lightning_circuits.models.registry import family_of
from tests.support.every_architecture import ARCHITECTURES, CannotBeBuilt, build

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

LIMITS = {
    "falcon": "without `alibi`",
    "opt": "all sizes but 350M",
    "vaultgemma": "without `attn_logit_softcapping`",
}
"""What a config of a family that is read must not say. Each has its test."""

INTRODUCTION = """\
# Models

Of the {total} architectures that `AutoModelForCausalLM` of transformers {version} knows, {read} are read, {refused} are
refused by name, and of {unbuilt} no small model could be built. For each that is read, a random model of three layers
is compared with its own stock forward, and with a slow reference made from its own modules: with all edges open the
logits are the stock model's, with all closed the corrupt run's, a random circuit has the reference's logits and
gradient, and prompts may be padded on either side.

Whatever is read is checked once more when it is wrapped ([What is checked](own-model.md#what-is-checked)). To add a
family: [Your own model](own-model.md#another-family-of-hugging-face).

## Read

K/V groups: whether several query heads may share a key and a value. Parallel: whether the MLP of a layer reads the
stream that its attention reads.

{rows_read}

## Refused

`wrap` says so, and `load_model` before any weight is read, with the reason that stands here.

{rows_refused}

## Not built

No small model could be made from a config, with the error. None of them is read.

{rows_unbuilt}

This page is written by `python -m tests.support.architectures_page --write`.
"""


class Row(NamedTuple):
    """What the page says of an architecture; ``note``: of one that is not read, why."""

    model_type: str
    status: Literal["read", "refused", "unbuilt"]
    grouped: bool = False
    parallel: bool = False
    note: str = ""


@cache
def row_of(model_type: str) -> Row:
    """What is seen of a tiny model.

    Raises:
        ValueError: there is a class for it, and yet it is not read.
    """
    try:
        model = build(model_type)
    except CannotBeBuilt as error:
        said = f"`{str(error).replace('`', '')}`"
        return Row(model_type, "unbuilt", note="; ".join(filter(None, (reason_of(model_type), said))))
    if family_of(model) is None:
        return Row(model_type, "refused", note=reason_of(model.config.model_type) or "")
    read = wrap(model, kv="group")
    notes = [LIMITS[model_type]] if model_type in LIMITS else []
    if windowed := sum(getattr(read, "windowed", [])):
        notes.append(f"sliding windows{' in some layers' if windowed < read.layout.n_layers else ''}")
    if any(is_mixture(read.mlp_module(layer)) for layer in range(read.layout.n_layers)):
        notes.append("a mixture of experts, router included, is one MLP")
    layout = read.layout
    return Row(model_type, "read", layout.n_kv_readers < layout.n_heads, layout.parallel, "; ".join(notes))


def page() -> str:
    """The whole page."""
    rows = [row_of(model_type) for model_type in sorted(ARCHITECTURES)]
    of = {status: [row for row in rows if row.status == status] for status in ("read", "refused", "unbuilt")}
    return INTRODUCTION.format(
        total=len(rows),
        version=transformers.__version__,
        **{status: len(found) for status, found in of.items()},
        rows_read=_table(
            ["K/V groups", "parallel", "notes"],
            {row.model_type: [_yes(row.grouped), _yes(row.parallel), row.note] for row in of["read"]},
        ),
        rows_refused=_table(["what stands in the way"], {row.model_type: [row.note] for row in of["refused"]}),
        rows_unbuilt=_table(["why"], {row.model_type: [row.note] for row in of["unbuilt"]}),
    )


def _table(headings: list[str], rows: dict[str, list[str]]) -> str:
    """Cells by ``model_type``, as Markdown."""
    lines = [
        ["`model_type`", "architecture", *headings],
        ["---"] * (2 + len(headings)),
        *([f"`{model_type}`", ARCHITECTURES[model_type], *cells] for model_type, cells in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What docs/models.md says of every architecture.")
    parser.add_argument("--write", action="store_true", help="put it into the page, in place of showing it")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(page())
