"""What a model goes on to say with a circuit's edges alone, or without them.

A number says how much of a behaviour is gone, a text says what has come in its place. `generate` has a circuit write,
token by token, the most probable next: give it a `circuit.complement()` to see what the model says without it.

Each token is exact: the whole prompt so far is run anew with all other edges cut, nothing is kept from token to token,
since a cached key would be of another run than the one that reads it.

    >>> zero, prompt = ABLATIONS.make("zero"), "One, two, three,"                                      # doctest: +SKIP
    >>> generate(model, circuit.complement(), zero, tokenizer, prompt, max_new_tokens=8)               # doctest: +SKIP
    ' three, three, three, three,'
"""

from __future__ import annotations

import torch

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.batch import NO_TOKEN, Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import PreTrainedTokenizerBase


@torch.no_grad()
def generate(
    model: CircuitModel,
    circuit: Circuit,
    ablation: Ablation,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 20,
    corrupt: str | None = None,
) -> str:
    """The text that a circuit goes on with, greedily; it ends early where the tokenizer's end-of-sequence token comes.

    Args:
        model: the frozen model.
        circuit: whose edges are open, in no spans: what is written stands in none.
        ablation: what the others carry; a mean ablation already fitted.
        tokenizer: that of the model.
        prompt: the text so far.
        max_new_tokens: at most so many, at least 1.
        corrupt: a prompt of as many tokens, for interchange ablation. It is gone on with, too, by the same tokens.

    Raises:
        ValueError: no new tokens; a prompt without a token, or longer than the model takes with what is written; no
            corrupt prompt where the ablation needs one, or one of another length; a circuit of another layout, or in
            spans.
    """
    require_whole_numbers(max_new_tokens=max_new_tokens)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}: it has to be at least 1")
    model.layout.require(circuit.layout, "the circuit")
    circuit.layout.require_plain("a text that goes on")
    if corrupt is None and ablation.starts_at_corrupt:
        raise ValueError(f"{ablation.name} ablation takes what cut edges carry from a corrupt prompt: give one")
    clean_ids = tokenizer(prompt)["input_ids"]
    corrupt_ids = clean_ids if corrupt is None else tokenizer(corrupt)["input_ids"]
    if not clean_ids or len(clean_ids) != len(corrupt_ids):
        raise ValueError(
            f"the prompt has {len(clean_ids)} tokens and the corrupt one {len(corrupt_ids)}: both have as many, and "
            "one at least"
        )
    limit = model.prompt_limit
    if limit is not None and len(clean_ids) + max_new_tokens - 1 > limit.tokens:
        raise ValueError(
            f"a prompt of {len(clean_ids)} tokens and {max_new_tokens} new ones are more than the {limit.tokens} that "
            f"the model takes: {limit.reason}"
        )
    ablation = ablation.of_circuit(model, circuit.members)
    new: list[int] = []
    while len(new) < max_new_tokens and (not new or new[-1] != tokenizer.eos_token_id):
        batch = model.receive(_one_prompt(clean_ids + new, corrupt_ids + new))
        full_logits, writers = model.run_pair(batch)
        run = ExactAblation(model, batch, full_logits, ablation, writers)
        new.append(int(run.logits(circuit.members).argmax()))
    said: str = tokenizer.decode(clean_ids + new, skip_special_tokens=True)
    return said[len(tokenizer.decode(clean_ids, skip_special_tokens=True)) :]


def _one_prompt(clean_ids: list[int], corrupt_ids: list[int]) -> Batch:
    """A batch of which nothing is asked but to be run."""
    nothing = torch.tensor([[NO_TOKEN]])
    return {
        "clean_ids": torch.tensor([clean_ids]),
        "corrupt_ids": torch.tensor([corrupt_ids]),
        "attention_mask": torch.ones(1, len(clean_ids), dtype=torch.int64),
        "positions": torch.tensor([len(clean_ids) - 1]),
        "answers": nothing,
        "distractors": nothing,
    }
