"""Path patching against the algorithm of Wang et al. (2022), done with hooks on the stock model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.evaluation.path_patching import path_patching
from lightning_circuits.measures import logit_difference
from lightning_circuits.models import CircuitModel, wrap
from tests.support.oracle import pairs, stock_logits
from tests.support.tiny_models import tiny_model

N_HEADS, D_HEAD = 3, 8
SENDERS = ["input", "a0.h1", "m0", "a1.h2"]
RECEIVERS = ["a1.h0<q>", "a2.h1<k>", "a2.h2<v>", "m2", "logits"]


def model(family: str = "gpt2") -> CircuitModel:
    return wrap(tiny_model(family, torch.float64))


def batch_of(padding: str, spans: bool = False, seed: int = 0) -> dict[str, Any]:
    prompts = pairs(padding, seed)
    n, tokens = prompts.clean_ids.shape
    answers = {"answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}
    placed: dict[str, Any] = {}
    if spans:
        places = torch.tensor([[0, 1, 1, 0, 2]]).expand(n, tokens).clone()
        places[prompts.attention_mask == 0] = -1
        placed = {"spans": places, "span_names": ("rest", "S2", "END")}
    return {**vars(prompts), **answers, **placed}


class Hooks:
    """The stock model with some of what its modules put out written down, or replaced."""

    def __init__(self, stock: Any, batch: dict[str, Any]) -> None:
        self.stock, self.batch = stock, batch
        self.modules: dict[str, Any] = {"input": stock.get_input_embeddings()}
        self.kind_first = stock.config.model_type == "gpt2"  # all queries, all keys, all values; else head by head
        for layer, block in enumerate(stock.transformer.h if self.kind_first else stock.gpt_neox.layers):
            if self.kind_first:
                fused, output = block.attn.c_attn, block.attn.c_proj
            else:
                fused, output = block.attention.query_key_value, block.attention.dense
            self.modules |= {f"qkv{layer}": fused, f"z{layer}": output, f"m{layer}": block.mlp}

    def run(self, ids: Tensor, replace: dict[str, Callable[[Tensor], Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and by name: queries, keys and values side by side, heads' values side by side, MLPs' outputs."""
        seen: dict[str, Tensor] = {}
        handles = []

        def noting(name: str) -> Any:
            def hook(value: Tensor) -> Tensor:
                seen[name] = replace[name](value) if name in replace else value
                return seen[name]

            return hook

        for name, module in self.modules.items():
            note = noting(name)
            if name.startswith("z"):
                handles.append(module.register_forward_pre_hook(lambda _, args, note=note: (note(args[0]),)))
            else:
                handles.append(module.register_forward_hook(lambda _, args, out, note=note: note(out)))
        logits = stock_logits(self.stock, ids, type("P", (), self.batch)())
        for handle in handles:
            handle.remove()
        return logits, seen


def by_hooks(
    stock: Any, batch: dict[str, Any], sender: str, receiver: str, through_mlps: bool, tokens: Tensor
) -> Tensor:
    """``[B]``: the logit difference with a path patched, less that without."""
    hooks = Hooks(stock, batch)
    clean_logits, clean = hooks.run(batch["clean_ids"], {})
    _, corrupt = hooks.run(batch["corrupt_ids"], {})

    def frozen(name: str) -> Callable[[Tensor], Tensor]:
        return lambda _: clean[name]

    # The first run: all heads as on the clean prompt, the sender as on the corrupt one.
    mlps = [] if through_mlps else [name for name in clean if name[0] == "m" and name != receiver]
    replace = {name: frozen(name) for name in [*mlps, *(name for name in clean if name[0] == "z")]}
    here = tokens[..., None]
    if sender.startswith("a"):
        layer, head = int(sender[1]), int(sender[-1])
        own = torch.zeros(N_HEADS * D_HEAD, dtype=torch.bool)
        own[head * D_HEAD : (head + 1) * D_HEAD] = True
        replace[f"z{layer}"] = lambda _: torch.where(here & own, corrupt[f"z{layer}"], clean[f"z{layer}"])
    else:
        replace[sender] = lambda now: torch.where(here, corrupt[sender], clean[sender])
    logits, first = hooks.run(batch["clean_ids"], replace)
    if receiver != "logits":
        # The second: the clean one, and what the receiver made of it in the first.
        if receiver.startswith("m"):
            patch = {receiver: lambda _: first[receiver]}
        else:
            layer, head, kind = int(receiver[1]), int(receiver[4]), "qkv".index(receiver[-2])
            start = (kind * N_HEADS + head if hooks.kind_first else 3 * head + kind) * D_HEAD

            def patched(now: Tensor) -> Tensor:
                now = now.clone()
                now[..., start : start + D_HEAD] = first[f"qkv{layer}"][..., start : start + D_HEAD]
                return now

            patch = {f"qkv{layer}": patched}
        logits, _ = hooks.run(batch["clean_ids"], patch)
    return logit_difference(logits, batch) - logit_difference(clean_logits, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("through_mlps", [False, True])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("family", ["gpt2", "gpt-neox"])
def test_an_effect_is_that_of_hooks_on_the_stock_model(family: str, padding: str, through_mlps: bool) -> None:
    ours, batch = model(family), batch_of(padding)
    rows = path_patching(ours, [batch], SENDERS, RECEIVERS, through_mlps=through_mlps)  # type: ignore[list-item]
    assert len(rows) == len(SENDERS) * len(RECEIVERS) - 1, "a1.h2 does not come before a1.h0"
    everywhere = torch.ones_like(batch["clean_ids"], dtype=torch.bool)
    for row in rows:
        expected = by_hooks(ours.model, batch, row.sender, row.receiver, through_mlps, everywhere)
        assert row.effect.value == pytest.approx(float(expected.mean()), abs=1e-9), (row.sender, row.receiver)
    assert max(abs(row.effect.value) for row in rows) > 0.05


@pytest.mark.parametrize("through_mlps", [False, True])
def test_at_a_role_only_its_tokens_carry_the_corrupt_output(through_mlps: bool) -> None:
    ours, batch = model(), batch_of("none", spans=True)
    rows = path_patching(
        ours, [batch], SENDERS[:3], RECEIVERS, roles=["S2", "END"], through_mlps=through_mlps  # type: ignore[list-item]
    )  # fmt: skip
    assert [row.role for row in rows] == ["S2"] * 15 + ["END"] * 15
    for row in rows:
        tokens = batch["spans"] == batch["span_names"].index(row.role)
        expected = by_hooks(ours.model, batch, row.sender, row.receiver, through_mlps, tokens)
        assert row.effect.value == pytest.approx(float(expected.mean()), abs=1e-9), (row.sender, row.receiver)


def test_batches_make_one_mean_with_an_interval_around_it() -> None:
    ours, batches = model(), [batch_of("none", seed=seed) for seed in range(4)]
    kept: Any = {"ablation": ABLATIONS.make("zero"), "measure": "probability_difference"}
    [row] = path_patching(ours, batches, ["a0.h1"], ["logits"], **kept)  # type: ignore[arg-type]
    each = [path_patching(ours, [b], ["a0.h1"], ["logits"], **kept)[0] for b in batches]  # type: ignore[list-item]
    assert row.effect.value == pytest.approx(sum(one.effect.value for one in each) / 4)
    assert row.full == pytest.approx(sum(one.full for one in each) / 4)
    assert row.effect.low < row.effect.value < row.effect.high
    assert (row.ablation, row.measure, row.prompts, row.split) == ("zero", "probability_difference", 8, "val")
    assert row.to_dict()["effect_low"] == row.effect.low


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["a9.h0"], ["logits"]), "no sender 'a9.h0'"),
        ((["a0.h0"], ["a1.h0"]), "no receiver 'a1.h0'"),
        ((["m2"], ["a1.h0<q>"]), "none of the senders m2 comes before"),
        ((["m0"], ["logits"], ["S2"]), "no span 'S2': they have none"),
    ],
)
def test_what_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        path_patching(model(), [batch_of("none")], *arguments)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no batches"):
        path_patching(model(), [], ["m0"], ["logits"])
