"""Gradients at random circuits as a search: which circuits they are, and what they depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAP, EdgePruning, MaskedGradients
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import SizeRange
from lightning_circuits.scoring.at_masks import masked_gradient_scores
from tests.support.training import quiet_trainer, small

EVERY = SizeRange(1.0, 1.0)


def data_of(n: int = 12, batch_size: int = 4, **options: Any) -> IOIDataModule:
    data = IOIDataModule("tiny-ioi", n_train=n, n_val=4, n_test=4, batch_size=batch_size, **options)
    data.setup("fit")
    return data


def batches(**options: Any) -> list[Any]:
    return list(data_of(**options).train_dataloader())


def test_masks_have_as_many_edges_as_sizes_say_and_any_edge_may_be_among_them() -> None:
    search = MaskedGradients("tiny-ioi", masks=8, sizes=SizeRange(0.02, 0.5))
    masks = torch.stack([mask for batch in batches(n=60, batch_size=60) for mask in search.drawn(batch)])
    assert masks.shape == (8, 60, search.layout.n_edges) and set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean(-1)
    assert 0.015 < shares.min() < 0.025 and 0.45 < shares.max() < 0.505
    # As many between 2 and 10 % as between 10 and 50 %, of every prompt too.
    assert 0.45 < (shares < 0.1).float().mean() < 0.55
    assert ((shares < 0.1).float().mean(0) - 0.5).abs().max() <= 0.25
    chosen = masks.mean((0, 1))
    assert (chosen - chosen.mean()).abs().max() < 5 * (chosen.mean() * 0.9 / 480).sqrt()


def test_masks_are_those_of_the_prompt_whatever_the_batch() -> None:
    search = MaskedGradients("tiny-ioi", masks=2)
    together = next(iter(search.drawn(batches(batch_size=12, padding_side="left")[0])))
    apart = torch.cat([next(iter(search.drawn(batch))) for batch in batches(batch_size=1)])
    assert torch.equal(together, apart) and len(together.unique(dim=0)) == 12
    search = MaskedGradients("tiny-ioi", masks=2, seed=1)
    assert not torch.equal(together, next(iter(search.drawn(batches(batch_size=12)[0]))))


def test_scores_are_the_mean_over_prompts_and_masks() -> None:
    search = MaskedGradients("tiny-ioi", masks=3)
    quiet_trainer().fit(search, data_of())
    total: Any = 0
    for batch in batches():
        masks = list(search.drawn(batch))
        total += masked_gradient_scores(search.circuit_model, batch, search.ablation, search.objective, masks)
    torch.testing.assert_close(search.edge_scores(), total / (3 * 12), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"spans": True}, {"ablation": "mean"}], ids=str)
def test_of_all_edges_it_is_eap(options: dict[str, Any]) -> None:
    def scores(search: Any) -> Tensor:
        quiet_trainer().fit(search, data_of(spans="roles"))
        return search.edge_scores()

    found = scores(MaskedGradients("tiny-ioi", masks=1, sizes=EVERY, **options))
    theirs = scores(EAP("tiny-ioi", **options))
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_several_tokens_of_an_answer_are_of_one_prompt() -> None:
    """The rows of a prompt are run with one mask: with all edges it is EAP, whose loss takes them together."""
    from tests.test_several_tokens import Mixed

    def scores(search: Any) -> Tensor:
        quiet_trainer().fit(search, Mixed("tiny-ioi", answer_tokens="any", batch_size=3))
        return search.edge_scores()

    found, theirs = scores(MaskedGradients("tiny-ioi", masks=1, sizes=EVERY)), scores(EAP("tiny-ioi"))
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
    assert scores(MaskedGradients("tiny-ioi", masks=2)).isfinite().all()


def test_it_is_a_warm_start_by_its_name() -> None:
    search = EdgePruning("tiny-ioi", warm_start="MaskedGradients")
    quiet_trainer(max_steps=1).fit(search, small())
    assert search.describe()["warm_start"]["masks"] == 8


def test_less_than_one_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="masks is 0"):
        MaskedGradients("tiny-ioi", masks=0)
