"""What every edge is worth on some prompts, in one pass and without a Trainer.

    >>> scores = score("gpt2", prompts, method="eap-ig")                                               # doctest: +SKIP
    >>> scores.circuit(size=0.01).top(20)                                                              # doctest: +SKIP

The numbers are those of a Lightning run on the same prompts: the methods and their sums are the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_options, shortened
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules.fitting import require_fit
from lightning_circuits.datamodules.tokenising import AnswerTokens
from lightning_circuits.listing import Listing
from lightning_circuits.notebook.given import LanguageModel, Prompts, Tokenizer, prompt_batches
from lightning_circuits.pages import see_page
from lightning_circuits.search import METHODS, Attribution
from lightning_circuits.search.identity import hash_of_prompts
from lightning_circuits.search.splits import live_spans


@dataclass(frozen=True, repr=False)
class Scores:
    """What every edge of a model is worth on some prompts. ``search``: the method, with the model in it;
    ``trained_on``: which prompts, as files say it."""

    search: Attribution
    trained_on: dict[str, Any]

    @property
    def edges(self) -> Tensor:
        """float32 ``[n_edges]``, in the order of the layout."""
        return self.search.edge_scores()

    @property
    def ablation(self) -> Ablation:
        """What cut edges carry, fitted to the prompts where it takes means."""
        return self.search.ablation

    def circuit(self, size: float | int | None = None, threshold: float | None = None, greedy: bool = False) -> Circuit:
        """The circuit of the best edges.

        Args:
            size: a share of the edges in (0, 1], or a number of edges from 1 up.
            threshold: instead of a size, the score that an edge must reach.
            greedy: grow the circuit from the logits downwards, so that every edge of it leads there.

        Raises:
            ValueError: a size that rounds to no edge; no size and no threshold, or both.
        """
        circuit = self.search.circuit(size, threshold, greedy)
        return replace(circuit, metadata={**circuit.metadata, "trained_on": self.trained_on})

    def top(self, n: int = 20) -> Listing:
        """The n best of all edges, best first."""
        return self.circuit(size=1.0).top(n)

    def __repr__(self) -> str:
        search, number = self.search, self.trained_on["prompts"]["number"]
        return (
            f"Scores(of {search.layout.n_edges:,} edges by {type(search).__name__}, {number} prompts, {search.layout})"
        )


def score(
    model: LanguageModel,
    prompts: Prompts,
    method: str | type[Attribution] = "eap-ig",
    *,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 8,
    answer_tokens: AnswerTokens = "one",
    **options: Any,
) -> Scores:
    """Score every edge of a model in one pass over some prompts.

    Args:
        model: a Hugging Face id, a folder, ``tiny-ioi``, or a model in memory, on whatever device it is;
            it is put in eval mode and frozen.
        prompts: what the behaviour is; see `prompt_batches`.
        method: one that learns nothing, by its class or its name, of which case, hyphens and underscores do not matter.
        tokenizer: see `prompt_batches`.
        batch_size: pairs run together. It changes no number.
        answer_tokens: see `prompt_batches`.
        options: the method's own, such as ``steps=10``, ``ablation="mean"`` (whose means are then over these prompts),
            ``objective="KL"``, ``kv="group"``, ``spans=True``.

    Raises:
        ValueError: an unknown method, or one that is trained; prompts that the model or its tokenizer cannot read.
        TypeError: an option that the method does not have.
        FileNotFoundError: no such model or file.
    """
    cls = _attribution(method)
    require_options(cls, options)
    read = prompt_batches(prompts, model, tokenizer, batch_size, answer_tokens, bool(options.get("spans")))
    search = cls(str(model) if isinstance(model, Path) else model, **options)
    require_fit(read.pairs, search.circuit_model)
    if search.spans:
        search.take_spans(live_spans(read.batches, search.ablation))
    search.scores_over(lambda: read.batches)
    number, found = hash_of_prompts(read.batches)
    file = {"file": str(prompts)} if isinstance(prompts, (str, Path)) else None
    return Scores(search, {"prompts": {"number": number, "hash": found}, "data": file})


def _attribution(method: Any) -> type[Attribution]:
    cls: Any = METHODS[method] if isinstance(method, str) else method
    if not isinstance(cls, type):
        raise TypeError(
            f'method takes a name or a class, got {shortened(method)}: give its options to score, as method="eap-ig", '
            "steps=10"
        )
    if not issubclass(cls, Attribution):
        ways = ", ".join(name for name in METHODS if issubclass(METHODS[name], Attribution))
        raise ValueError(
            f"score() makes one pass over the prompts, and {cls.__name__} takes more than that, a Trainer:\n"
            f"    search = {cls.__name__}(model)\n"
            "    pl.Trainer(max_steps=300).fit(search, data)  # pl: lightning_circuits.namespace; data: a data module\n"
            "    circuit = search.circuit(size=0.01)\n"
            f"In one pass go {ways} {see_page('choosing-a-method', 'Choosing a method')}"
        )
    return cls
