"""Where what was learned gives way to what training began with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits import EAPIG, EdgePruning
from lightning_circuits.ablation import InterchangeAblation
from lightning_circuits.evaluation import exact
from lightning_circuits.gates import HardConcrete, TopK
from lightning_circuits.gates.sizes import SizeRange
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.search.splice import SHARES, spliced, where_learning_pays
from tests.support.edge_pruning import as_loader, best, data, fit
from tests.support.training import quiet_trainer


def order(scores: Tensor) -> list[int]:
    return scores.sort(descending=True, stable=True).indices.tolist()


@given(
    scores=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30), n=st.integers(0, 30)
)
def test_a_splice_is_the_best_as_learned_and_the_rest_as_at_the_start(scores: list[tuple[int, int]], n: int) -> None:
    n = min(n, len(scores))
    learned, start = (torch.tensor(each, dtype=torch.float32) for each in zip(*scores, strict=True))
    by_learning = sorted(range(len(scores)), key=lambda edge: -scores[edge][0])
    rest = sorted(sorted(by_learning[n:]), key=lambda edge: -scores[edge][1])
    found = spliced(learned, start, n)
    assert order(found) == by_learning[:n] + rest
    assert torch.equal(found[by_learning[:n]], learned[by_learning[:n]])


def test_no_two_of_millions_of_edges_are_level() -> None:
    n = 2**21
    learned = torch.randperm(n, generator=torch.Generator().manual_seed(0)).float() / n
    start = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    found = spliced(learned, start.float(), 1000)
    assert len(found.unique()) == n
    rest = found.argsort(descending=True)[1000:]
    assert (start[rest].diff() < 0).all()


@cache
def attributed() -> tuple[EdgePruning, Tensor]:
    """A search, and the scores of an attribution, by |score|."""
    fit(method := EAPIG(EMBEDDED), -1, data(16), limit_val_batches=0)
    return EdgePruning(EMBEDDED, warm_start=None), method.edge_scores().abs()


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("good", ["start", "learned", "few of learned"])
def test_what_is_nearer_to_the_model_is_taken(good: str, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "worth_capturing", lambda *_: captured)  # on a GPU, circuits are CUDA graphs
    search, scores = attributed()
    noise = torch.rand(len(scores), generator=torch.Generator().manual_seed(0))
    few = int(0.05 * len(scores))
    learned = {"start": noise, "learned": scores, "few of learned": torch.where(best(scores, few), scores, -scores)}
    start = {"start": scores, "learned": noise, "few of learned": torch.where(best(scores, few // 4), -scores, scores)}
    source = data(16)
    source.setup("fit")
    found = where_learning_pays(
        search.circuit_model, learned[good], start[good], 0.2, InterchangeAblation(), source.val_dataloader()
    )
    # one edge more or less may do nothing
    low, high = {"start": (0, 0.005), "learned": (0.1, 0.2), "few of learned": (0.0125, 0.05)}[good]
    assert int(low * len(scores)) <= found <= round(high * len(scores))


def test_a_trained_ranking_begins_as_learned_and_goes_on_as_at_the_start(tmp_path: Path) -> None:
    _, scores = attributed()
    search = EdgePruning(EMBEDDED, warm_start=scores)
    trainer = fit(search, 6, data(16))
    n = int(search.learned_edges)
    assert n in {0, round(0.2 * len(scores)), *(int(share * len(scores)) for share in SHARES if share < 0.2)}
    learned = order(search.gate.edge_scores())
    assert order(search.edge_scores()) == learned[:n] + [e for e in order(scores) if e not in learned[:n]]
    assert search.circuit(n + 40).metadata["learned_edges"] == n
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = EdgePruning.load_from_checkpoint(tmp_path / "last.ckpt", model=EMBEDDED, warm_start=scores)
    assert torch.equal(again.edge_scores(), search.edge_scores())
    fit(longer := EdgePruning(EMBEDDED, warm_start=scores), 8, data(16))
    resumed = EdgePruning(EMBEDDED, warm_start=scores)
    seen = []
    fit_on(resumed, 8, tmp_path / "last.ckpt", seen)
    assert seen[0] == len(scores), "a run that goes on has not ended"
    assert longer.learned_edges.shape == resumed.learned_edges.shape


def fit_on(search: EdgePruning, steps: int, checkpoint: Path, seen: list[int]) -> None:
    from lightning_circuits.namespace import pl
    from tests.support.training import QUIET

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            seen.append(int(module.learned_edges))

    pl.Trainer(max_steps=steps, callbacks=[Watch()], **QUIET).fit(search, data(16), ckpt_path=checkpoint)


def without_a_difference(batches: Any) -> list[Any]:
    return [batch | {"corrupt_ids": batch["clean_ids"]} for batch in batches]


@pytest.mark.parametrize("val", [None, lambda batches: [], without_a_difference])
def test_where_no_prompt_says_otherwise_learning_holds_as_far_as_it_went(val: Any) -> None:
    _, scores = attributed()
    source = data(16)
    loaders = [source.train_dataloader(), *([] if val is None else [as_loader(val(source.val_dataloader()))])]
    search = EdgePruning(EMBEDDED, warm_start=scores, gate=TopK(SizeRange(0.01, 0.1)))
    quiet_trainer(max_steps=2).fit(search, *loaders)
    assert int(search.learned_edges) == round(0.1 * len(scores))


@pytest.mark.parametrize("options", [{"warm_start": None}, {"gate": HardConcrete()}])
def test_where_there_is_no_start_or_one_size_everything_is_as_learned(options: dict[str, Any]) -> None:
    _, scores = attributed()
    search = EdgePruning(EMBEDDED, **{"warm_start": scores, **options})
    fit(search, 2, data(16))
    assert torch.equal(search.edge_scores(), search.gate.edge_scores())
