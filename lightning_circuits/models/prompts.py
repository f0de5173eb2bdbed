"""Whether a model can read some prompts at all, before they are run."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def refuse_prompts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> None:
    """See that prompts are such as a model computes something sensible on.

    Args:
        model: a `CircuitModel`.
        input_ids: ``[B, T]``; or what stands in their place, ``[B, T, d]``.
        attention_mask: ``[B, T]``.

    Raises:
        ValueError: a prompt that is too long for the model, padding on the left of one that reads no mask, or (looked
            for on the CPU alone, where it costs nothing) token ids that it does not have.
    """
    owner, limit = type(model.model).__name__, model.prompt_limit
    if limit is not None and attention_mask.shape[1] > limit.tokens:
        lengths = attention_mask.sum(-1)
        if (longest := int(lengths.max())) > limit.tokens:
            raise ValueError(
                f"prompt {int(lengths.argmax())} of a batch has {longest} tokens, more than the {limit.tokens} "
                f"that this {owner} takes: {limit.reason}"
            )
    if not model.pads_left and not attention_mask[:, 0].all():
        raise ValueError(
            f"prompts are padded on the left, and this {owner} computes something else on them: it does not read "
            "the attention mask. Pad on the right"
        )
    if not input_ids.is_floating_point() and input_ids.device.type == "cpu":
        outside = (input_ids < 0) | (input_ids >= model.vocabulary)
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise ValueError(
                f"token {column} of prompt {row} of a batch has the id {int(input_ids[row, column])}, and this "
                f"{owner} knows ids from 0 to {model.vocabulary - 1}: give the data the tokenizer of the model"
            )
