"""What cut edges carry, against means taken one prompt and one token at a time by the oracle."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation, GroupMeanAblation
from lightning_circuits.arguments import as_data
from lightning_circuits.batch import PromptSource
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap
from tests.support.oracle import ALL_OPEN, Pairs, oracle, stock_logits
from tests.support.tiny_models import VOCABULARY, tiny_model

LENGTHS = (4, 2, 5, 3, 5, 1, 2)
MODELS = ("gpt2", "llama-gqa")

OF_ALL_CIRCUITS = [name for name in ABLATIONS.names() if not ABLATIONS[name].of_each_circuit]

models = pytest.mark.parametrize("family", MODELS)
means = pytest.mark.parametrize("name", ["mean", "mean-positional", "mean-group", "mean-span"])
SPANS, GROUPS = ("A", "A..END", "END"), ("even", "odd")

Prompts = list[tuple[list[int], list[int]]]
Batch = dict[str, Tensor]


@cache
def wrapped(family: str, dtype: torch.dtype = torch.float64) -> CircuitModel:
    return wrap(tiny_model(family, dtype))


@cache
def prompts() -> Prompts:
    """Clean and corrupt prompts of many lengths, as lists of tokens."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, VOCABULARY, (2, length), generator=generator).tolist() for length in LENGTHS]
    return [(clean, corrupt) for clean, corrupt in drawn]


def span(token: int, length: int) -> int:
    """The last token of a prompt is END, the first, if that is another one, A."""
    return 2 if token == length - 1 else min(token, 1)


def group(clean: list[int]) -> int:
    """Prompts of both groups have several lengths."""
    return sum(clean) % 2


def slot(name: str, token: int, clean: list[int]) -> Any:
    """Which tokens share a mean."""
    return {
        "mean": 0,
        "mean-positional": token,
        "mean-group": (group(clean), token),
        "mean-span": span(token, len(clean)),
    }[name]


def collate(rows: Prompts, side: str) -> Batch:
    """A batch, padded with a token that would show if it were read. The names of spans and groups are in another order
    each."""
    longest = max(len(clean) for clean, _ in rows)

    def padded(ids: list[int], fill: int) -> list[int]:
        gap = [fill] * (longest - len(ids))
        return ids + gap if side == "right" else gap + ids

    mask = torch.tensor([padded([1] * len(clean), 0) for clean, _ in rows])
    turned = [(i + len(rows)) % 3 for i in range(3)]
    spans = [[turned[span(token, len(clean))] for token in range(len(clean))] for clean, _ in rows]
    groups = [(group(clean) + len(rows)) % 2 for clean, _ in rows]
    return {
        "groups": torch.tensor(groups),
        "group_names": tuple(GROUPS[(i + len(rows)) % 2] for i in range(2)),
        "spans": torch.tensor([padded(ids, -1) for ids in spans]),
        "span_names": tuple(SPANS[turned.index(i)] for i in range(3)),
        "clean_ids": torch.tensor([padded(clean, 7) for clean, _ in rows]),
        "corrupt_ids": torch.tensor([padded(corrupt, 7) for _, corrupt in rows]),
        "attention_mask": mask,
        "positions": torch.tensor([max(i for i, real in enumerate(row) if real) for row in mask.tolist()]),
    }


def batched(rows: Prompts, size: int, side: str) -> list[Batch]:
    return [collate(rows[start : start + size], side) for start in range(0, len(rows), size)]


def as_pairs(batch: Batch) -> Pairs:
    return Pairs(batch["clean_ids"], batch["corrupt_ids"], batch["attention_mask"], batch["positions"])


@cache
def loop_means(family: str, name: str, side: str = "clean") -> dict[tuple[str, Any], Tensor]:
    """By writer and slot, the mean from one prompt at a time without padding."""
    seen: dict[tuple[str, Any], list[Tensor]] = defaultdict(list)
    for clean, corrupt in prompts():
        batch = as_pairs(collate([(clean, corrupt)], "right"))
        ids = batch.clean_ids if side == "clean" else batch.corrupt_ids
        for writer, output in oracle(tiny_model(family, torch.float64), ALL_OPEN, ids, batch).writers.items():
            for token, vector in enumerate(output[0]):
                seen[writer, slot(name, token, clean)].append(vector)
    return {key: torch.stack(vectors).sum(0) / len(vectors) for key, vectors in seen.items()}


def fitted(name: str, model: CircuitModel, rows: Prompts, size: int = 3, side: str = "right") -> Ablation:
    ablation = ABLATIONS.make(name)
    ablation.fit(model, batched(rows, size, side))
    return ablation


def check_against_loops(
    family: str, name: str, ablation: Ablation, rows: Prompts, side: str, of: str = "clean"
) -> None:
    """Every real token of every prompt carries the oracle's mean."""
    model, batch, expected = wrapped(family), collate(rows, side), loop_means(family, name, of)
    _, corrupt = model.run_pair(batch)
    reference = ablation.reference(batch, corrupt)
    assert reference.shape == corrupt.shape and reference.dtype == model.dtype and reference.isfinite().all()
    for w, writer in enumerate(model.layout.writer_names):
        for i in range(len(rows)):
            real = batch["attention_mask"][i].nonzero().flatten().tolist()
            for token, column in enumerate(real):
                mean = expected[writer, slot(name, token, rows[i][0])]
                torch.testing.assert_close(
                    reference[w, i, column], mean, atol=1e-9, rtol=0, msg=f"{writer} {i} {token}"
                )


@models
@means
@pytest.mark.parametrize("side", ["right", "left"])
def test_means_are_those_of_plain_loops(family: str, name: str, side: str) -> None:
    check_against_loops(family, name, fitted(name, wrapped(family), prompts(), side=side), prompts(), side)


@means
@settings(max_examples=15)
@given(
    order=st.permutations(range(len(LENGTHS))),
    size=st.integers(1, len(LENGTHS) + 1),
    sides=st.tuples(*[st.sampled_from(["right", "left"])] * 2),
)
def test_means_do_not_depend_on_how_prompts_are_batched(
    name: str, order: list[int], size: int, sides: tuple[str, str]
) -> None:
    """Neither on the order, the batch size, the ragged last batch, nor the side of the padding, there or here."""
    ablation = fitted(name, wrapped("gpt2"), [prompts()[i] for i in order], size, sides[0])
    check_against_loops("gpt2", name, ablation, prompts()[:4], sides[1])


@means
def test_means_do_not_depend_on_how_prompts_are_batched_in_float32(name: str) -> None:
    model = wrapped("gpt2", torch.float32)
    batch = collate(prompts(), "right")
    _, corrupt = model.run_pair(batch)
    ways = [
        fitted(name, model, prompts(), size, side).reference(batch, corrupt.clone())
        for size, side in ((1, "right"), (3, "left"), (7, "right"))
    ]
    real = batch["attention_mask"].bool()
    assert ways[0].dtype == torch.float32
    for other in ways[1:]:
        torch.testing.assert_close(ways[0][:, real], other[:, real], atol=1e-6, rtol=1e-6)


@means
def test_means_of_a_second_data_set_replace_those_of_the_first(name: str) -> None:
    ablation = fitted(name, wrapped("gpt2"), [([3, 3, 3, 3, 3, 3], [4, 4, 4, 4, 4, 4])])
    ablation.fit(wrapped("gpt2"), batched(prompts(), 2, "right"))
    check_against_loops("gpt2", name, ablation, prompts(), "right")


def test_means_can_be_taken_over_a_generator_of_batches() -> None:
    ablation = ABLATIONS.make("mean-positional")
    ablation.fit(wrapped("gpt2"), iter(batched(prompts(), 4, "left")))
    check_against_loops("gpt2", "mean-positional", ablation, prompts(), "left")


@models
@pytest.mark.parametrize("name", OF_ALL_CIRCUITS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_circuit_under_every_ablation_is_that_of_the_oracle(family: str, name: str, side: str) -> None:
    """Ablation and masked computation together, for a random circuit."""
    model, batch = wrapped(family), collate(prompts(), side)
    layout, ablation = model.layout, fitted(name, model, prompts())
    circuit = torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(0)) < 0.5
    _, corrupt = model.run_pair(batch)
    logits = masked_logits(
        model,
        circuit.float(),
        batch["clean_ids"],
        batch["attention_mask"],
        batch["positions"],
        ablation.reference(batch, corrupt),
    )
    pairs = as_pairs(batch)
    if name == "interchange":
        carried = oracle(model.model, ALL_OPEN, pairs.corrupt_ids, pairs).writers
    elif name == "zero":
        carried = {writer: torch.zeros_like(corrupt[0]) for writer in layout.writer_names}
    else:
        carried = {writer: torch.zeros_like(corrupt[0]) for writer in layout.writer_names}
        for writer, output in carried.items():
            for i, mask in enumerate(batch["attention_mask"]):
                real = mask.nonzero().flatten().tolist()
                for token, column in enumerate(real):
                    output[i, column] = loop_means(family, name)[writer, slot(name, token, prompts()[i][0])]
    gates = dict(zip(layout.edge_names(range(layout.n_edges)), circuit.double().tolist(), strict=True))
    expected = oracle(model.model, gates, pairs.clean_ids, pairs, carried).logits
    torch.testing.assert_close(logits, expected, atol=1e-8, rtol=1e-8)


@models
@pytest.mark.parametrize("side", ["right", "left"])
def test_one_forward_gives_the_clean_logits_and_the_corrupt_writers(family: str, side: str) -> None:
    model, batch = wrapped(family), collate(prompts(), side)
    pairs = as_pairs(batch)
    logits, corrupt = model.run_pair(batch)
    torch.testing.assert_close(logits, stock_logits(model.model, pairs.clean_ids, pairs), atol=1e-9, rtol=1e-9)
    expected = oracle(model.model, ALL_OPEN, pairs.corrupt_ids, pairs).writers
    real = batch["attention_mask"].bool()
    for w, writer in enumerate(model.layout.writer_names):
        torch.testing.assert_close(corrupt[w][real], expected[writer][real], atol=1e-9, rtol=1e-9)
    assert not logits.requires_grad and not corrupt.requires_grad


@pytest.mark.parametrize("name", OF_ALL_CIRCUITS)
def test_a_reference_can_be_consumed(name: str) -> None:
    """The masked computation writes over its reference: the next batch must not notice."""
    model, batch = wrapped("gpt2"), collate(prompts(), "right")
    ablation = fitted(name, model, prompts())
    _, corrupt = model.run_pair(batch)
    first = ablation.reference(batch, corrupt.clone())
    kept = first.clone()
    first.fill_(torch.nan)
    assert torch.equal(ablation.reference(batch, corrupt.clone()), kept)


def test_interchange_carries_the_corrupt_run_and_zero_nothing() -> None:
    corrupt = torch.randn(3, 2, 4, 5)
    assert torch.equal(ABLATIONS.make("interchange").reference({}, corrupt), corrupt)
    zero = ABLATIONS.make("zero").reference({}, corrupt)
    assert zero.shape == corrupt.shape and zero.count_nonzero() == 0


def test_ablations_go_by_their_names() -> None:
    assert ABLATIONS.names() == [
        *("interchange", "zero", "mean", "mean-positional", "mean-group", "mean-span", "optimal")
    ]
    assert all(ABLATIONS.make(name).name == name for name in ABLATIONS)


def test_an_unknown_ablation_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match=r"'resample'.*zero, mean, mean-positional, mean-group, mean-span, optimal"):
        ABLATIONS.make("resample")


@means
@pytest.mark.parametrize("side", ["right", "left"])
def test_means_over_corrupt_prompts_are_those_of_plain_loops(name: str, side: str) -> None:
    ablation = type(ABLATIONS.make(name))("corrupt")
    ablation.fit(wrapped("llama-gqa"), batched(prompts(), 3, side))
    check_against_loops("llama-gqa", name, ablation, prompts(), side, of="corrupt")
    assert ablation.describe() == {"name": name, "prompts": "corrupt", "data": None, "fitted_over": len(LENGTHS)}


class Given(PromptSource):
    """A data module in small."""

    def __init__(self, rows: Prompts) -> None:
        self.rows, self.read_by = rows, list[Any]()

    def describe(self) -> dict[str, Any]:
        return {"pairs": len(self.rows)}

    def require_fit(self, model: Any) -> None:
        self.read_by.append(model)

    def train_dataloader(self) -> list[Batch]:
        return batched(self.rows, 2, "left")


@means
def test_means_over_data_of_their_own_do_not_depend_on_what_fit_is_given(name: str) -> None:
    ablation = type(ABLATIONS.make(name))("corrupt", data=Given(prompts()))
    assert not ablation.needs_data and ABLATIONS.make(name).needs_data
    ablation.require_known((), batched(prompts(), 3, "right"))
    ablation.fit(wrapped("gpt2"), batched(prompts()[:2], 2, "right"))
    check_against_loops("gpt2", name, ablation, prompts(), "right", of="corrupt")
    assert ablation.data.read_by == [wrapped("gpt2")]
    assert ablation.fitted_over == len(LENGTHS) and ablation.describe()["data"]["pairs"] == len(LENGTHS)
    assert as_data(ablation) != as_data(type(ablation)("corrupt", data=Given(prompts()[:2])))


def test_other_sides_and_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompts is one of 'clean', 'corrupt', got 'both'"):
        GroupMeanAblation("both")
    with pytest.raises(TypeError, match=r"data takes a data module, .*, got \[\]"):
        GroupMeanAblation(data=[])


def test_memory_for_means_does_not_grow_with_the_prompts() -> None:
    """When the next batch is made, the one before may be alive, and none of the others."""
    alive: list[weakref.ref[Tensor]] = []

    def batches() -> Iterator[Batch]:
        for row in prompts() * 5:
            batch = collate([row], "right")
            alive[:] = [each for each in alive if each() is not None]
            assert len(alive) <= 1
            alive.append(weakref.ref(batch["clean_ids"]))
            yield batch

    ablation = ABLATIONS.make("mean-group")
    ablation.fit(wrapped("gpt2"), batches())
    known = {slot("mean-group", token, clean) for clean, _ in prompts() for token in range(len(clean))}
    assert ablation.means.shape[1] == len(known)


def without(batch: Batch, word: str) -> Batch:
    return {key: value for key, value in batch.items() if word not in key}


def test_prompts_of_no_group_or_another_have_no_mean_by_group() -> None:
    model, batch = wrapped("gpt2"), collate(prompts(), "right")
    ablation, corrupt = ABLATIONS.make("mean-group"), model.run_pair(batch)[1]
    with pytest.raises(ValueError, match="mean-group ablation: the prompts are of no group: give data"):
        ablation.fit(model, [without(batch, "group")])
    with pytest.raises(ValueError, match="mean-group ablation: some prompts are of no group"):
        ablation.fit(model, [batch | {"groups": batch["groups"] - 1}])
    ablation.fit(model, [batch])
    with pytest.raises(ValueError, match="mean-group ablation: the prompts are of no group"):
        ablation.reference(without(batch, "group"), corrupt)
    other = batch | {"group_names": tuple("new" if name == "odd" else name for name in batch["group_names"])}
    for look in (lambda: ablation.reference(other, corrupt), lambda: ablation.require_known([batch], [other])):
        with pytest.raises(ValueError, match=r"taken over is of the group 'new'; there were 2 other groups: take"):
            look()
    assert ablation.reference(batch, corrupt).isfinite().all()  # looking at others has changed nothing


def test_a_prompt_longer_than_all_of_its_group_is_refused() -> None:
    """Though another group had longer ones."""
    model = wrapped("gpt2")
    longest = {g: max(len(clean) for clean, _ in prompts() if group(clean) == g) for g in range(2)}
    shorter = min(longest, key=longest.get)
    rows = [row for row in prompts() if group(row[0]) != shorter or len(row[0]) < longest[shorter]]
    known = max(len(clean) for clean, _ in rows if group(clean) == shorter)
    assert longest[1 - shorter] >= longest[shorter] > known
    message = rf"a prompt of {longest[shorter]} tokens in the group '{GROUPS[shorter]}', .* at most {known};"
    ablation = fitted("mean-group", model, rows)
    with pytest.raises(ValueError, match=message):
        ablation.reference(batch := collate(prompts(), "left"), model.run_pair(batch)[1])
    with pytest.raises(ValueError, match=message):
        ablation.require_known(batched(rows, 2, "right"), batched(prompts(), 3, "left"))


@means
def test_a_mean_that_was_never_taken_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{name} ablation needs the means.*fit\(model, loader\)"):
        ABLATIONS.make(name).reference(collate(prompts(), "right"), torch.zeros(1))


@means
def test_a_loader_without_batches_has_no_mean(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} ablation: the loader for the means has no batch"):
        ABLATIONS.make(name).fit(wrapped("gpt2"), [])


def test_prompts_without_spans_or_with_another_have_no_mean_by_span() -> None:
    model, batch = wrapped("gpt2"), collate(prompts(), "right")
    with pytest.raises(ValueError, match="mean-span ablation: the prompts have no spans"):
        ABLATIONS.make("mean-span").fit(model, [without(batch, "span")])
    ablation = fitted("mean-span", model, prompts())
    other = batch | {"span_names": tuple("S2" if name == "END" else name for name in batch["span_names"])}
    with pytest.raises(ValueError, match=r"no prompt that the means were taken over has the span S2; it had .*END"):
        ablation.reference(other, model.run_pair(batch)[1])
    ablation.fit(model, [other])
    with pytest.raises(ValueError, match=r"has the span END; it had .*S2"):
        ablation.reference(batch, model.run_pair(batch)[1])


def test_a_prompt_longer_than_all_that_means_were_taken_over_is_refused() -> None:
    model, batch = wrapped("gpt2"), collate(prompts(), "left")
    _, corrupt = model.run_pair(batch)
    short = [row for row in prompts() if len(row[0]) <= 3]
    with pytest.raises(ValueError, match=r"mean-positional ablation: a prompt of 5 tokens.*at most 3"):
        fitted("mean-positional", model, short).reference(batch, corrupt)
    assert fitted("mean", model, short).reference(batch, corrupt).shape == corrupt.shape  # one mean fits any length
