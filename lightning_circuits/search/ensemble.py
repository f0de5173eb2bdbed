"""Several attributions at once: an edge stands where it stands in the mean, by the logarithm of its rank.

Methods err in different ways. Where each by itself is all but right, as in the many edges of large circuits, what they
agree on is nearer to the truth than any of them: circuits of half the edges come out twice as near to the model. After
the parallel ensembles of Mondorf et al. (2025, "BlackboxNLP-2025 MIB Shared Task: Exploring Ensemble Strategies for
Circuit Localization Methods", arXiv:2510.06811), which average scores; ranks need no unit.

    >>> eap, eap_ig = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([0.1, 0.3, 0.2, 0.0])
    >>> mean_of_log_ranks(torch.stack([eap, eap_ig])).exp()  # 4, the number of edges, by the mean rank
    tensor([2.3094, 2.8284, 1.6330, 1.0000])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.arguments import shortened
from lightning_circuits.batch import Batch
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class Ensemble(Attribution):
    """The mean of several attributions' rankings, by the logarithm of the rank: log(n_edges / rank) in the mean.

    Args:
        model: see `Attribution`.
        methods: at least two attributions by name, each with its defaults.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, of all of them, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: fewer than two methods, one that is named twice, that there is not, or that needs more of the
            prompts than one pass.
        TypeError: something else than names.

    Scores are 0 for an edge that is the last in all rankings, log(n_edges) for one that is the first in all: ranks,
    whose sign says nothing. It costs what its methods cost.
    """

    scores_are = "ranks"

    def __init__(
        self, model: LanguageModel | None = None, *, methods: Sequence[str] = ("EAP", "EAPIG"), **options: Any
    ) -> None:
        self.methods = require_methods(methods)
        self._each: tuple[Attribution, ...] = tuple(METHODS.make(name) for name in self.methods)  # type: ignore[misc]
        super().__init__(model, **options)

    @property
    def at_full_model_alone(self) -> bool:
        return any(each.at_full_model_alone for each in self._each)

    def attribute(self, batch: Batch) -> tuple[Tensor, None]:
        return torch.cat([each.attribute(batch)[0] for each in self._each]), None

    def edge_scores(self) -> Tensor:
        of_each = super().edge_scores().view(len(self._each), self.layout.n_edges)
        return mean_of_log_ranks(of_each.abs() if self.absolute else of_each)

    # ---- the sums, one after the other -------------------------------------------------------------------------

    def begin(self) -> None:
        super().begin()
        self.edge_sums = nn.Parameter(self.edge_sums.data.repeat(len(self._each)))

    def _checked(self, edges: Tensor) -> Tensor:
        return torch.cat([self.layout.check(of_one) for of_one in edges.view(len(self._each), -1)])

    def _edge_names(self, index: Tensor) -> list[str]:
        return super()._edge_names(index % self.layout.n_edges)

    # ---- the methods, which go by what is given here -----------------------------------------------------------

    def _lend(self) -> None:
        """For a pass, or to let go of what they keep of one."""
        for each in self._each:
            each.borrow_model(self.circuit_model, self.model_name)
            each.ablation, each.objective = self.ablation, self.objective

    def _forget(self) -> None:
        super()._forget()
        self._lend()

    def on_train_start(self) -> None:
        super().on_train_start()
        self._lend()

    def on_train_end(self) -> None:
        super().on_train_end()
        self._lend()


def mean_of_log_ranks(scores: Tensor) -> Tensor:
    """log(n_edges / rank) in the mean over methods, float32 ``[n_edges]``. Edges that a method does not tell apart have
    the same rank in it, the last of theirs.

    Args:
        scores: ``[n_methods, n_edges]``, the best edge of each the highest.
    """
    scores = scores.double()
    n = scores.shape[-1]
    worse = torch.searchsorted(scores.sort().values, scores)  # how many edges are
    return (math.log(n) - (n - worse).double().log()).mean(0).float()


def require_methods(names: Sequence[str]) -> list[str]:
    """Names of attributions of one pass.

    Raises:
        ValueError: fewer than two, one twice, an unknown one, one of several passes or of several methods.
        TypeError: no names.
    """
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"methods takes names of attributions, such as ['EAP', 'EAPIG'], got {shortened(names)}")
    possible = [name for name in METHODS if _of_one_pass(METHODS[name])]
    for name in names:
        if name not in possible:
            raise ValueError(f"methods has {name!r}: an ensemble can be made of {', '.join(possible)}")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"an ensemble takes at least two methods, each once, got {list(names)}")
    return list(names)


def _of_one_pass(method: type) -> bool:
    """Whether `Attribution.attribute` is all that it says of a prompt, and its scores the mean over them."""
    return issubclass(method, Attribution) and method.edge_scores is Attribution.edge_scores
