"""What `ioi_variants.py` has measured, in numbers, tables and figures; nothing here runs a model.

Everything is made of the logit difference of each circuit on each prompt. The *verdict* on a circuit is read from the
interval of F(C) - F(M): all of it above `LEAST` is ``inflation``, all of it below is ``none``, and else it is
``undecided``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from stages import markdown, with_interval
from torch import Tensor

from lightning_circuits.drawing.style import COLOURS, RC
from lightning_circuits.evaluation.attention_by_role import HeadAttention
from lightning_circuits.evaluation.metrics.bootstrap import Estimate, estimate, mean_estimate, resampled_means
from lightning_circuits.evaluation.metrics.ratio import beside_the_model

LEAST = 0.01
"""Of logits: no more than that is no inflation, however sure it is."""

Measured = Mapping[str, Mapping[str, Sequence[float]]]
"""By ablation and circuit, the logit difference on every prompt; prompts with IO first make the first half."""


class Judged(NamedTuple):
    """A circuit under one ablation: means of the logit difference, and what they are beside the model's."""

    full: float
    value: float
    ratio: Estimate
    difference: Estimate
    faithfulness: Estimate
    accuracy: float
    full_accuracy: float
    prompts: int

    @property
    def verdict(self) -> str:
        return verdict(self.difference)


def verdict(difference: Estimate) -> str:
    """What the interval of F(C) - F(M) says."""
    if difference.low > LEAST:
        return "inflation"
    return "none" if difference.high <= LEAST else "undecided"


def judge(of_ablation: Mapping[str, Sequence[float]], circuit: str, order: str = "both") -> Judged:
    """A circuit on the prompts of both orders, or of one.

    Args:
        of_ablation: by circuit, the logit difference on every prompt.
        circuit: its name.
        order: ``both``, ``io-first`` or ``s-first``.
    """
    half = len(of_ablation["full"]) // 2
    part = {"both": slice(None), "io-first": slice(half), "s-first": slice(half, None)}[order]
    values, full, empty = (torch.tensor(of_ablation[name]).double()[part] for name in (circuit, "full", "empty"))
    found = {name: float(number) for name, number in beside_the_model(values, full).items()}
    resampled = resampled_means(torch.stack([values, full, empty], dim=1))
    return Judged(
        full=float(full.mean()),
        value=float(values.mean()),
        ratio=Estimate(found["ratio"], found["ratio_low"], found["ratio_high"]),
        difference=Estimate(found["difference"], found["difference_low"], found["difference_high"]),
        faithfulness=estimate(_share(torch.stack([values, full, empty]).mean(1)), _share(resampled)),
        accuracy=float((values > 0).double().mean()),
        full_accuracy=float((full > 0).double().mean()),
        prompts=len(values),
    )


def _share(means: Tensor) -> Tensor:
    """f of means ``[..., 3]`` of circuit, full and empty."""
    value, full, empty = means.unbind(-1)
    return (value - empty) / (full - empty)


def against(of_ablation: Mapping[str, Sequence[float]], circuit: str, other: str) -> Estimate:
    """F of one circuit less F of another, on the same prompts."""
    mine, others = (torch.tensor(of_ablation[name], dtype=torch.float64) for name in (circuit, other))
    return mean_estimate(mine - others)


# ---- tables ----------------------------------------------------------------------------------------------------------


def faithfulness_table(
    measured: Mapping[tuple[str, str], Measured], orders: Sequence[str], ablations: Sequence[str]
) -> str:
    """A row for each variant, order, ablation and circuit."""
    rows = []
    for (method, variant), of_variant in measured.items():
        for order in orders:
            for ablation in ablations:
                for circuit in ("base circuit", "from scratch"):
                    if circuit not in of_variant[ablation]:
                        continue
                    found = judge(of_variant[ablation], circuit, order)
                    rows.append(
                        {
                            "prompts": variant if order == "both" else f"{variant}, {order}",
                            "circuit": f"{method}, {'Base' if circuit == 'base circuit' else circuit}",
                            "ablation": ablation,
                            "F(M)": f"{found.full:.2f}",
                            "F(C)": f"{found.value:.2f}",
                            "F(C)/F(M)": with_interval(*found.ratio),
                            "F(C) - F(M)": with_interval(*found.difference),
                            "f": with_interval(*found.faithfulness),
                            "accuracy M, C": f"{found.full_accuracy:.0%}, {found.accuracy:.0%}",
                            "verdict": found.verdict,
                        }
                    )
    return markdown(rows)


def restoration_table(measured: Mapping[tuple[str, str], Measured], ablation: str = "mean-group") -> str:
    """A row for each variant, circuit, and set of places at which the heads that see repetition are open."""
    rows = []
    for (method, variant), of_variant in measured.items():
        for at in places_of(of_variant[ablation]):
            circuit = "base circuit" if at == "S2" else at
            found = judge(of_variant[ablation], circuit)
            change = "" if at == "S2" else with_interval(*against(of_variant[ablation], circuit, "base circuit"))
            rows.append(
                {
                    "prompts": variant,
                    "circuit": method,
                    "open at": at,
                    "F(M)": f"{found.full:.2f}",
                    "F(C)": f"{found.value:.2f}",
                    "F(C)/F(M)": with_interval(*found.ratio),
                    "F(C) - F(M)": with_interval(*found.difference),
                    "F(C) - F(S2 alone)": change,
                    "accuracy": f"{found.accuracy:.0%}",
                    "verdict": found.verdict,
                }
            )
    return markdown(rows)


def places_of(of_ablation: Mapping[str, Sequence[float]]) -> list[str]:
    """The sets of places of a sweep, S2 alone, as the circuit was found, behind none; nothing if there was no sweep."""
    swept = [name for name in of_ablation if name not in ("full", "empty", "base circuit", "from scratch")]
    return [*swept[:1], "S2", *swept[1:]] if swept else []


def sides_table(rows: Sequence[tuple[str, HeadAttention]]) -> str:
    """The heads that change sides between model and circuit, of (method, head); those that turn to S2 first."""
    table = [
        {
            "circuit": method,
            "head": row.head,
            "END to": f"{row.right} / {row.wrong}",
            "ratio in the model": with_interval(*row.model_ratio),
            "in the circuit": with_interval(*row.circuit_ratio),
            f"circuit / model, {row.right}": with_interval(*row.faithfulness_right),
            f"circuit / model, {row.wrong}": with_interval(*row.faithfulness_wrong),
        }
        for method, row in sorted(rows, key=lambda each: (each[0], each[1].model_ratio.value > 1))
        if row.changes_sides
    ]
    return markdown(table) if table else "No head changes sides."


def head_of(row: Mapping[str, Any]) -> HeadAttention:
    """A row of `attention_by_role` from its JSON data."""

    def number(name: str) -> float:
        return math.nan if row[name] is None else row[name]

    kept: dict[str, Any] = {}
    for name, kind in HeadAttention.__annotations__.items():
        ends = [name, f"{name}_low", f"{name}_high"]
        kept[name] = Estimate(*map(number, ends)) if kind == "Estimate" else row[name]
    return HeadAttention(**kept)


def heads_table(found: Mapping[str, Mapping[str, float]], inside: Mapping[str, Sequence[str]]) -> str:
    """The heads that see repetition: of what kind, how much they look so, and in which circuits they are."""
    return markdown(
        [
            {
                "kind": kind,
                "head": head,
                "attention": f"{mean:.2f}",
                "in the circuit of": ", ".join(name for name, nodes in inside.items() if head in nodes) or "-",
            }
            for kind, heads in found.items()
            for head, mean in sorted(heads.items(), key=lambda item: -item[1])
        ]
    )


def overlap_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What circuits found from scratch share with that of Base, beside what chance would."""
    return markdown(
        [
            {
                "prompts": row["variant"],
                "shared": row["of"],
                "null": row["null"],
                "Base, own, both": f"{row['in_a']:,}, {row['in_b']:,}, {row['both']:,}",
                "IoU": f"{row['iou']:.2f}",
                "by chance": f"{row['expected']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                "log10 p": f"{row['log10_p']:.0f}",
            }
            for row in rows
        ]
    )


# ---- a figure --------------------------------------------------------------------------------------------------------


def restoration_figure(measured: Mapping[tuple[str, str], Measured], ablation: str = "mean-group") -> Figure:
    """A panel for each variant: F(C) with the heads that see repetition open at each set of places; a line at F(M)."""
    import matplotlib

    methods, variants = (list(dict.fromkeys(key)) for key in zip(*measured, strict=True))
    variants = [variant for variant in variants if places_of(measured[methods[0], variant][ablation])]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.6 * len(variants), 3.0), layout="constrained")
        panels = figure.subplots(1, len(variants), squeeze=False, sharey=False)[0]
        for axes, variant in zip(panels, variants, strict=True):
            for number, method in enumerate(methods):
                values = measured[method, variant][ablation]
                places = places_of(values)
                for y, at in enumerate(places):
                    each = values["base circuit" if at == "S2" else at]
                    mean = mean_estimate(torch.tensor(each, dtype=torch.float64))
                    here = y + 0.16 * (2 * number - len(methods) + 1)
                    axes.plot([mean.low, mean.high], [here, here], color=COLOURS[number], linewidth=1.1)
                    name = method if y == 0 else None
                    axes.plot([mean.value], [here], "os"[number], color=COLOURS[number], linestyle="none", label=name)
                full = judge(values, "full").full
            axes.axvline(full, color="#444444", linewidth=0.8, label="the model")
            axes.axvline(0, color="#cccccc", linewidth=0.6, zorder=0)
            axes.set_yticks(range(len(places)), places)
            axes.invert_yaxis()
            axes.set_title(variant, loc="left")
            axes.set_xlabel("F(C): logit difference, 95 % interval")
        panels[0].set_ylabel("heads that see repetition are open at")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure
