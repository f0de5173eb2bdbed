"""What a training step is said to need, against what it takes; and what is said where that is too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, LlamaConfig

from lightning_circuits import blocks, tape
from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.measures import kl
from lightning_circuits.memory import USABLE, MemoryPlan, out_of_memory_explained
from lightning_circuits.models import wrap
from tests.support.peak import peak_bytes

NO_ENDS: dict[str, Any] = dict(vocab_size=500, bos_token_id=None, eos_token_id=None)
SHAPES = {
    "gpt2": lambda: GPT2Config(n_embd=96, n_layer=12, n_head=12, **NO_ENDS),
    "neox": lambda: GPTNeoXConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=16, num_attention_heads=8, **NO_ENDS
    ),
    "gemma2": lambda: Gemma2Config(
        hidden_size=128, intermediate_size=384, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
        head_dim=8, **NO_ENDS,
    ),
    "smollm2-135m": lambda: LlamaConfig(
        hidden_size=72, intermediate_size=192, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        **NO_ENDS,
    ),
}  # fmt: skip
"""Layers and heads of real models, narrower."""


@pytest.mark.parametrize(
    ("shape", "block", "dtype", "mlps"),
    [
        ("smollm2-135m by group", 4, torch.float32, "kept"),
        ("smollm2-135m by group", 2, torch.bfloat16, "made again"),
        ("gpt2", 2, torch.float32, "kept"),
        ("gpt2", 2, torch.float32, "made again"),
        ("gemma2", 2, torch.float32, "kept"),
        ("gemma2", 2, torch.float32, "made again"),
        ("gemma2", 1, torch.bfloat16, "kept"),
        ("neox", 2, torch.float32, "kept"),
        ("neox", 1, torch.float32, "made again"),
        ("smollm2-135m", 4, torch.float32, "kept"),
        ("smollm2-135m", 2, torch.bfloat16, "kept"),
    ],
)
def test_the_plan_is_what_a_step_takes(shape: str, block: int, dtype: torch.dtype, mlps: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(tape, "SMALL", 1 << 40 if mlps == "kept" else 0)
    name, *by_group = shape.split(" by ")
    model = wrap(AutoModelForCausalLM.from_config(SHAPES[name]()).to(dtype), *by_group)
    ids = torch.randint(0, 500, (32, 16))
    mask, positions = torch.ones_like(ids), torch.full((32,), 15)
    batch: Any = {"clean_ids": ids, "corrupt_ids": ids.flip(0), "attention_mask": mask, "positions": positions}
    learned = torch.full((model.layout.n_edges,), 2.0, requires_grad=True)
    optimizer = torch.optim.Adam([learned])

    def step() -> None:
        optimizer.zero_grad()
        full, corrupt = model.run_pair(batch)
        logits = masked_logits(model, learned.sigmoid(), ids, mask, positions, corrupt, skip_closed=True)
        del corrupt
        kl(logits, batch, full).mean().backward()
        optimizer.step()

    step()  # the first makes what stays: Adam's moments, and where gates stand in memory
    stays = 3 * learned.nbytes + 8 * len(learned)
    plan, peak = MemoryPlan.of(model, 32, 16), stays + peak_bytes(step)
    assert plan.keeps_mlps == (mlps == "kept")
    grow = plan.stacks + (plan.mlps if plan.keeps_mlps else 0)
    assert grow > 0.5 * peak, "stacks and MLPs hardly matter: a test of something else"
    assert 0.95 < plan.step / peak < 1.1, f"planned {plan.step / peak:.3f} of what was measured"


LLAMA = MemoryPlan(
    Layout(32, 32, 4096), 32, 64, itemsize=2, vocabulary=128_256, mlp_width=14_336, weights=16_060_522_496
)
"""Llama-3.1-8B in bfloat16, on a GPU."""


def test_llama_8b_needs_what_was_measured_on_a_gpu() -> None:
    """46.0 and 49.6 GB above the model, in blocks of 2 and of 4 layers (one H100)."""
    two = replace(LLAMA, block=2)
    assert two.step == pytest.approx(46.0e9, rel=0.03)
    assert LLAMA.step == pytest.approx(49.6e9, rel=0.03)
    # Two more layers: 97 readers each, filled up to 104, and two streams.
    assert LLAMA.step - two.step == 2 * (104 + 2) * 2048 * 4096 * 2
    assert not LLAMA.keeps_mlps


@pytest.mark.parametrize("free", [5e9, 20e9, 60e9, 600e9])
def test_the_largest_batch_is_the_largest_that_fits(free: float) -> None:
    fits = LLAMA.largest_batch(int(free))
    assert fits
    assert replace(LLAMA, batch=fits).step <= USABLE * free < replace(LLAMA, batch=fits + 1).step
    longest = LLAMA.largest_length(int(free))
    one = replace(LLAMA, batch=1)
    assert replace(one, length=longest).step <= USABLE * free < replace(one, length=longest + 1).step


def test_nothing_fits_where_the_gates_alone_do_not() -> None:
    assert LLAMA.largest_batch(LLAMA.gates) == LLAMA.largest_length(LLAMA.gates) == 0
    assert "no such prompts fit" in LLAMA.describe(LLAMA.gates)


@pytest.mark.parametrize(
    ("plan", "free", "said"),
    [
        (LLAMA, 30e9, "lower the batch size from 32 to 18 and accumulate"),
        (LLAMA, 60e9, "by this count it fits, .* lower the batch size from 32 to 24 and accumulate"),
        (replace(LLAMA, batch=1, length=512, block=8), 14e9, "lower the block from 8 layers to 6"),
        (replace(LLAMA, batch=2, length=512, block=8), 14e9, "the batch size to 1 and the block from 8 layers to 6"),
        (
            replace(LLAMA, batch=4, length=4096),
            30e9,
            "give prompts of at most 1,334 tokens, not 4,096, in batches of 1",
        ),
        (replace(LLAMA, batch=1, block=1), 60e9, "it fits, .* prompts of at most 48 tokens, not 64"),
        (LLAMA, 60e6, "not even one token fits"),
        (LLAMA, None, "lower the batch size and .* then the block .* then the length"),
    ],
)
def test_what_is_to_be_lowered(plan: MemoryPlan, free: float | None, said: str) -> None:
    def train() -> None:
        with out_of_memory_explained(lambda: plan, None if free is None else int(free)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")

    with pytest.raises(torch.OutOfMemoryError, match=said) as raised:
        train()
    message = str(raised.value)
    assert message.startswith("CUDA out of memory. Tried to allocate 2.00 GiB. A step on ")
    assert "large-models.md" in message and "GB  what 1,057 writers put out" in message
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^something else$"), out_of_memory_explained(lambda: LLAMA, None):
        raise RuntimeError("something else")
