"""Every architecture of the installed transformers is read exactly, refused by name, or cannot be built small."""

from __future__ import annotations

import re
from copy import deepcopy
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lightning_circuits import ExtractedModel, extract
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.open_attention import mlp_gradient
from lightning_circuits.models.refused import REASONS
from lightning_circuits.models.registry import refuse_family
from lightning_circuits.models.relevance import by_relevance
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks
from lightning_circuits.scoring.gradients import gradient_scores
from tests.support.architectures_page import LIMITS, PAGE, page, row_of
from tests.support.every_architecture import ARCHITECTURES, build, config_of
from tests.support.extracted import fitted, judged, random_circuit
from tests.support.gated import assert_close, compute, gradient, random_gates, references, second_opinion
from tests.support.oracle import ALL_OPEN, Pairs, oracle, pairs, stock_logits

UNBUILT = {
    *("blt", "dots3_note", "dots3_note_text", "gemma3n", "gemma4_assistant", "gemma4_unified_assistant", "musicgen"),
    *("musicgen_melody", "zamba2"),
}
"""What no small model is made of; each has a reason of its own, besides."""

SHOWN_BY = {
    "state-space": r"\.(mamba|mixer)(:|\.)",
    "linear or recurrent": r"linear_attn|forget_gate|rg_lru|:\w*(LightningAttention|LinearAttention|Rwkv|xLSTM)",
    "convolutions": r":\w*(ShortConv|Conv1d)\w*$",
    "cross-attention": r"\.(encoder_attn|cross_attn)(:|\.)",
    "norms stand on the sums": r"attention\.output\.LayerNorm|:OpenAIGPT|layer_norm1|rel_attn\.layer_norm",
    "within the modules that write": r"attention\.output\.dense",
    "latent": r"kv_a_proj|kv_a_layernorm|kv_norm",
    "norms after": r"post_norm2:",
    "sink": r"\.sinks:",
    "gate that reads": r"self_attn\.(gate_proj|g_proj):",
    "differential": r"lambda_q1:",
    "hangs on the values": r"self_attn\.(dt_proj|indexer):",
    "before the output": r"attn_sub_norm:",
    "experts, each": r"self_attention\.experts:",
    "two modules": r"shared_mlp:",
    "give back more": r"feed_forward\.router:",
    "wrapped": r"q_proj\.linear:",
    "inside of one": r"model\.language_model:",
    "bytes": r"patcher:",
}
"""Of reasons, by words that they have, what is found of it among ``name:class`` of modules and parameters."""


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_it_is_read_exactly_or_refused_by_name_or_cannot_be_built(model_type: str) -> None:
    status = row_of(model_type).status
    assert (status == "unbuilt") == (model_type in UNBUILT)
    if status == "read":
        refuse_family(config_of(model_type).model_type)  # by which `load_model` refuses: it does not
        _is_lively(model_type)
        _is_read_exactly(model_type)
    if status == "refused":
        _is_refused_with_its_reason_in_one_line(model_type)


def _is_read_exactly(model_type: str) -> None:
    """Open edges are the stock model, closed ones the corrupt run, a random circuit what its own modules make of it."""
    stock = build(model_type)
    for kv in ("head", "group") if row_of(model_type).grouped else ("head",):
        model = wrap(stock, kv)
        n_edges = model.layout.n_edges
        for padding in ("left", "right", "ragged"):
            batch = pairs(padding)
            reference = references(model, batch)["interchange"]
            for gates, ids in ((torch.ones(n_edges), batch.clean_ids), (torch.zeros(n_edges), batch.corrupt_ids)):
                assert_close(compute(model, gates, batch, reference), stock_logits(stock, ids, batch), 1e-4)
        gates = random_gates(model, "mixed")  # on the last batch, whose prompts are padded on either side
        logits, dgates = gradient(model, gates, batch, reference)
        expected, dexpected = second_opinion(model, gates, batch, None)
        assert_close(logits, expected, 1e-4)
        assert_close(dgates, dexpected, 1e-4 * max(1.0, float(dexpected.abs().max())))
    _is_scored(model, batch)
    _is_extracted(model, vars(batch))
    _goes_by_relevance(model, batch)
    half = wrap(deepcopy(stock).bfloat16())
    rounded = compute(half, torch.ones(half.layout.n_edges), batch, references(half, batch)["interchange"])
    assert rounded.dtype == torch.bfloat16 and rounded.isfinite().all()


def _is_scored(model: CircuitModel, prompts: Pairs) -> None:
    """Attribution is minus the gradient of open gates, and exact patching what one closed gate does."""
    n = len(prompts.positions)
    answers = {"answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}
    batch, cut, objective = vars(prompts) | answers, ABLATIONS.make("interchange"), LogitDifference()
    reference, n_edges = references(model, prompts)["interchange"], model.layout.n_edges
    full = stock_logits(model.model, prompts.clean_ids, prompts)

    def loss(gates: Tensor) -> Tensor:
        return objective(compute(model, gates, prompts, reference), batch, full)

    gates = torch.ones(n_edges, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(gates).sum(), gates)
    found = gradient_scores(model, batch, cut, objective).edges
    assert_close(found, -slope.to(found.dtype), 1e-4 * max(1.0, float(slope.abs().max())))
    patching = ExactPatching(model, batch, cut, objective)
    for part in chunks(model.layout, 8)[:: n_edges // 16]:
        closed = torch.ones(n_edges).index_fill(0, part[:1], 0.0)
        with torch.no_grad():
            assert_close(patching.scores(part)[0].float(), (loss(closed) - loss(torch.ones(n_edges))).float(), 1e-4)


def _is_extracted(model: CircuitModel, batch: dict[str, Any]) -> None:
    """A circuit as a model of its own is what exact ablation makes of it, and comes out of its files as it went in."""
    circuit, ablation = random_circuit(model.layout, 0.1, seed=1), fitted("mean-positional", model)
    extracted = extract(model.model, circuit, ablation)
    logits = extracted(batch["clean_ids"], batch["attention_mask"])
    found = logits[torch.arange(len(logits)), batch["positions"]]
    assert_close(found, judged(model, batch, circuit, ablation), 1e-4)
    with TemporaryDirectory() as folder:
        loaded = ExtractedModel.load(extracted.save(folder))
    assert torch.equal(loaded(batch["clean_ids"], batch["attention_mask"]), logits)


def _goes_by_relevance(model: CircuitModel, prompts: Pairs) -> None:
    """There is a rule for all that it does; and without its biases no relevance is lost in an MLP."""
    n = len(prompts.positions)
    answers = {"answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}
    with by_relevance(model) as view:
        found = gradient_scores(view, vars(prompts) | answers, ABLATIONS.make("interchange"), LogitDifference()).edges
    assert found.isfinite().all() and found.abs().max() > 1e-3

    stock = deepcopy(model.model)
    for name, parameter in stock.named_parameters():
        if "bias" in name:
            parameter.data.zero_()
    bare = wrap(stock)
    x, above = torch.randn(2, 2, 5, model.layout.d_model, generator=torch.Generator().manual_seed(0))
    with by_relevance(bare) as view:
        for layer in range(model.layout.n_layers):
            written, below = bare.mlp(layer, x), mlp_gradient(view, layer, x, above)
            kept = ((x * below).sum() - (written * above).sum()).abs() < 1e-3 * (written * above).abs().sum()
            assert kept or model.model.config.model_type == "gpt_oss", "1 is added to a factor there, as a bias is"


def _is_lively(model_type: str) -> None:
    """Attention far from uniform, gains and biases that differ: what is read wrongly would show."""
    model, batch = build(model_type), pairs("none")
    attention = oracle(model, ALL_OPEN, batch.clean_ids, batch).attention
    largest = torch.stack([weights.max() for weights in attention if len(weights) == 3])
    assert largest.mean() > 0.5 and largest.std() > 0.1, "uniform attention would be a third everywhere"
    for name, parameter in wrap(model).blocks.named_parameters():
        assert parameter.numel() < 2 or parameter.std() > 0.05, name


def _is_refused_with_its_reason_in_one_line(model_type: str) -> None:
    model, reason = build(model_type), row_of(model_type).note
    assert reason, "nothing is said of what stands in its way: models/refused.py"
    with pytest.raises(
        ValueError, match=re.escape(f"model family {model.config.model_type!r} is not supported: {reason}")
    ) as refusal:
        wrap(model)
    with pytest.raises(ValueError, match=re.escape(f"is not supported: {reason}")):
        refuse_family(config_of(model_type).model_type)
    assert "\n" not in str(refusal.value)
    for words, shown_by in SHOWN_BY.items():
        if words in reason:
            assert any(re.search(shown_by, each) for each in everything_in(model)), shown_by


def everything_in(model: Any) -> list[str]:
    named = [*model.named_modules(), *model.named_parameters()]
    return [f"{name}:{type(each).__name__}" for name, each in named]


def of_status(status: str) -> list[str]:
    return [model_type for model_type in ARCHITECTURES if row_of(model_type).status == status]


def test_every_reason_is_of_an_architecture_that_is_not_read() -> None:
    named = [model_type for types in REASONS.values() for model_type in types]
    assert len(named) == len(set(named))
    assert {*UNBUILT} <= {*named}
    assert not {*of_status("read")} & {*named}
    assert set(LIMITS) <= set(of_status("read"))


def test_the_page_says_what_is_so() -> None:
    written = PAGE.read_text()
    if f"of transformers {transformers.__version__} " not in written:
        pytest.skip(f"the page is of another version of transformers than {transformers.__version__}")
    assert written == page(), "out of date: python -m tests.support.architectures_page --write"
