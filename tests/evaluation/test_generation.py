"""Texts under a circuit, against transformers' own greedy generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.generation import generate
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model, load_tokenizer
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores

TOKENIZER = load_tokenizer("tiny-ioi")
MODEL = wrap(load_model("tiny-ioi"))
PROMPT = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Paul gave a drink to"
INTERCHANGE = ABLATIONS.make("interchange")


def greedy(prompt: str, n: int) -> list[int]:
    ids = TOKENIZER(prompt, return_tensors="pt")["input_ids"]
    said = MODEL.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return said[0, ids.shape[1] :].tolist()


def of(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_the_whole_model_says_what_it_says(ablation: str) -> None:
    said = generate(MODEL, Circuit.full(MODEL.layout), ABLATIONS.make(ablation), TOKENIZER, PROMPT, 8, CORRUPT)
    assert of(said) == greedy(PROMPT, 8)


def test_without_an_edge_it_says_what_it_says_of_the_corrupt_prompt() -> None:
    said = generate(MODEL, Circuit.empty(MODEL.layout), INTERCHANGE, TOKENIZER, PROMPT, 8, CORRUPT)
    # All that is written is written under both; the first token tells the two apart.
    assert of(said) == greedy(CORRUPT, 8)


def test_every_token_is_what_exact_ablation_of_the_text_so_far_gives() -> None:
    circuit = Circuit(MODEL.layout, torch.rand(MODEL.layout.n_edges, generator=torch.Generator().manual_seed(0)) > 0.3)
    said = of(generate(MODEL, circuit, INTERCHANGE, TOKENIZER, PROMPT, 4, CORRUPT))
    for n in range(4):
        texts = [f"{text} {TOKENIZER.decode(said[:n])}".rstrip() for text in (PROMPT, CORRUPT)]
        one = generate(MODEL, circuit, INTERCHANGE, TOKENIZER, texts[0], 1, texts[1])
        assert of(one) == said[n : n + 1]


def test_without_the_circuit_of_the_task_another_name_comes() -> None:
    """By attribution on the spot: the edges that tell who has acted, cut, leave the answer to the other prompt."""
    data = IOIDataModule("tiny-ioi", batch_size=64, corruption="s2-io-flip")
    batch = next(iter(data.train_dataloader()))
    scores = gradient_scores(MODEL, batch, INTERCHANGE, LogitDifference()).edges
    circuit = Circuit(MODEL.layout, scores >= scores.topk(30).values[-1])
    other = PROMPT.replace("John gave", "Mary gave")
    for kept, name in ((Circuit.full(MODEL.layout), "Mary"), (circuit.complement(), "John")):
        assert of(generate(MODEL, kept, INTERCHANGE, TOKENIZER, PROMPT, 1, other)) == of(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it has to be at least 1"),
        ({"corrupt": None}, "interchange ablation takes what cut edges carry from a corrupt prompt: give one"),
        ({"corrupt": "When Mary"}, "the prompt has 14 tokens and the corrupt one 2"),
        ({"prompt": "", "corrupt": ""}, "the prompt has 0 tokens"),
        ({"max_new_tokens": 60}, "a prompt of 14 tokens and 60 new ones are more than the 64 that"),
        ({"circuit": Circuit.full(MODEL.layout.in_spans(["S2"]))}, "of another layout"),
    ],
)
def test_what_cannot_be_written_is_refused(options: dict[str, Any], message: str) -> None:
    given = {"circuit": Circuit.full(MODEL.layout), "prompt": PROMPT, "max_new_tokens": 2, "corrupt": CORRUPT} | options
    with pytest.raises(ValueError, match=message):
        generate(MODEL, ablation=INTERCHANGE, tokenizer=TOKENIZER, **given)
