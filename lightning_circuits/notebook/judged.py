"""What circuits are worth on some prompts, as a notebook shows it.

>>> evaluate(model, circuit, prompts)                                                              # doctest: +SKIP
>>> evaluate(model, {"small": small, "large": large}, prompts).per_prompt()                        # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import called, options_of, shortened
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules.fitting import require_fit
from lightning_circuits.datamodules.tokenising import AnswerTokens
from lightning_circuits.evaluation import rows as judging
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.listing import Listing
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.notebook.given import LanguageModel, Prompts, Tokenizer, prompt_batches
from lightning_circuits.printable import interval
from lightning_circuits.search.identity import hash_of_prompts

if TYPE_CHECKING:
    import pandas

FOUND_ON = "train"
"""What prompts are called in the rows that a circuit was found on; others are ``given``."""


@dataclass(frozen=True, repr=False)
class Evaluation(Sequence[Row]):
    """What circuits are worth on some prompts. ``rows``: one for each circuit and control (see `evaluation.rows`).
    ``ablation``: what cut edges carried."""

    rows: list[Row]
    ablation: Ablation
    _circuits: Mapping[str, Circuit]
    _texts: Sequence[str]
    _measured: Callable[[Sequence[Circuit]], Tensor] = field(compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def row(self, circuit: str = "circuit") -> Row:
        """The row of this name: ``full``, ``empty``, ``circuit``, ``circuit random``, ``circuit complement``, ...

        Raises:
            ValueError: there is none.
        """
        for row in self.rows:
            if row.circuit == circuit:
                return row
        raise ValueError(f"there is no row {circuit!r}, but {', '.join(row.circuit for row in self.rows)}")

    def per_prompt(self) -> Listing:
        """What the full model, the empty circuit and each circuit come to on every prompt, in the measure's unit.

        They are run once more.
        """
        layout = next(iter(self._circuits.values())).layout
        circuits = {"full": Circuit.full(layout), "empty": Circuit.empty(layout), **self._circuits}
        values = self._measured(list(circuits.values()))
        prompts = self._texts or [f"prompt {index}" for index in range(values.shape[1])]
        columns = {"prompt": prompts, **dict(zip(circuits, values.tolist(), strict=True))}
        return Listing(f"{self.rows[0].measure}, prompt by prompt", columns, dict.fromkeys(circuits, ".3f"))

    def to_frame(self) -> pandas.DataFrame:
        """Every number of every row, as a pandas DataFrame; ImportError without pandas."""
        return Listing("", _columns([asdict(row) for row in self.rows])).to_frame()

    def listing(self) -> Listing:
        """What is shown of it."""
        first, cut = self.rows[0], self.ablation
        over = f" over {cut.fitted_over:,} prompts" if cut.fitted_over else ""
        on = f"{first.prompts:,} prompts" + (" that a circuit was found on" if first.split == FOUND_ON else "")
        title = (
            f"Exact ablation, {called(cut)}{over}, on {on}; f: faithfulness of the {first.measure}, KL from the full "
            "model in nats"
        )
        shown = [
            {
                "circuit": row.circuit,
                "edges": row.edges,
                "pruned": row.edges_pruned,
                "f": row.faithfulness,
                "95 % of f": interval(row.faithfulness_low, row.faithfulness_high),
                "KL": row.kl,
                "accuracy": row.accuracy,
            }
            for row in self.rows
        ]
        formats = {"edges": ",d", "pruned": ",d", "f": ".2f", "KL": ".3f", "accuracy": ".1%"}
        return Listing(title, _columns(shown), formats)

    def __repr__(self) -> str:
        return repr(self.listing())

    def _repr_html_(self) -> str:
        return self.listing()._repr_html_()


def evaluate(
    model: LanguageModel,
    circuit: Circuit | Mapping[str, Circuit],
    prompts: Prompts,
    *,
    ablation: str | Ablation | None = None,
    measure: AnyMeasure = DEFAULT,
    controls: bool = True,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 8,
    answer_tokens: AnswerTokens = "one",
) -> Evaluation:
    """Judge circuits by exact ablation, beside the full model, the empty circuit and random ones.

    Args:
        model: the one that the circuits are of; see `score`.
        circuit: one, or several by name.
        prompts: other ones than the circuit was found on; see `prompt_batches`.
        ablation: what cut edges carry. Default: what the circuits were found with, or interchange if they do not say
            it. Means are taken over these prompts, unless an ablation is given that is fitted: `Scores.ablation`.
        measure: what faithfulness is of.
        controls: whether each circuit comes with a random one and its complement, which take most of the time.
        seed: of the random circuits.
        tokenizer: see `prompt_batches`.
        batch_size: pairs run together.
        answer_tokens: see `prompt_batches`.

    Raises:
        ValueError: a circuit of another model; circuits of several layouts, or found with several ablations; an
            unknown ablation or measure; prompts that the model or its tokenizer cannot read.
        TypeError: what is no circuit.
        FileNotFoundError: no such model or file.
    """
    circuits = dict(circuit) if isinstance(circuit, Mapping) else {"circuit": circuit}
    for name, each in circuits.items():
        if not isinstance(each, Circuit):
            raise TypeError(f"{name} has to be a Circuit, such as scores.circuit(size=0.01), got {shortened(each)}")
    if not circuits:
        raise ValueError("there are no circuits to evaluate")
    cut = _ablation(circuits) if ablation is None else ABLATIONS.make(ablation)
    measure_name(measure := MEASURES.make(measure, "measure"))
    layout = next(iter(circuits.values())).layout
    for name, each in circuits.items():
        layout.require(each.layout, name)
    read = prompt_batches(prompts, model, tokenizer, batch_size, answer_tokens, bool(layout.spans))
    language_model = model if isinstance(model, nn.Module) else load_model(model)
    circuit_model = wrap(language_model, layout.kv).in_spans(layout.spans)
    require_fit(read.pairs, circuit_model)
    circuits = {name: each.of_model(circuit_model.layout, name) for name, each in circuits.items()}
    if not cut.fitted_over:
        cut.fit(circuit_model, read.batches)
    split = _split(circuits, hash_of_prompts(read.batches)[1])
    rows = judging.evaluate(
        circuit_model, read.batches, circuits, [cut], split, seed=seed, controls=controls, measure=measure
    )

    def again(given: Sequence[Circuit]) -> Tensor:
        """float64 ``[n_circuits, n_prompts]``."""
        return measured(circuit_model, read.batches, given, cut, measure)

    return Evaluation(rows, cut, circuits, read.texts, again)


def _ablation(circuits: Mapping[str, Circuit]) -> Ablation:
    """What circuits were found with, if that can be told by its name."""
    found = {
        (str(each.metadata.get("ablation", "interchange")), repr(each.metadata.get("ablation_options", {})))
        for each in circuits.values()
    }
    name, options = next(iter(found))
    if len(found) == 1 and name in ABLATIONS:
        made = ABLATIONS.make(name)
        if options == repr(options_of(made)):
            return made
    raise ValueError(
        f"the circuits were found with {' and '.join(sorted(name for name, _ in found))} ablation, with options or "
        "several: say by which to judge them, as ablation='interchange'"
    )


def _split(circuits: Mapping[str, Circuit], prompts: str) -> str:
    """What prompts are called in the rows: a number of those that a circuit was found on says little of others."""
    for each in circuits.values():
        match each.metadata.get("trained_on"):
            case {"prompts": {"hash": found}} if found == prompts:
                return FOUND_ON
    return "given"


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
