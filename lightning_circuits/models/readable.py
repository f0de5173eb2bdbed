"""Whether the weights of a model can be read at all, before anything is read from them.

What is read are plain tensors of numbers, all in one memory. Wrappers of all kinds stand in a model where those would
be: adapters that are not merged, quantised layers, layers that are compiled by themselves, weights that have not been
loaded. Each is refused here, with the module's name and with the way on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.pages import see_page

PLAIN_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refuse_unreadable(model: nn.Module) -> None:
    """All checks of this file.

    Args:
        model: a language model, or anything with one inside.

    Raises:
        ValueError: what stands in the way, where it is, and what to do.
    """
    refuse_adapters(model)
    refuse_compiled_parts(model)
    refuse_packed_weights(model)
    refuse_absent_weights(model)


def refuse_adapters(model: nn.Module) -> None:
    """An adapter that is not merged is part of the model, but in none of the weights that are read.

    Args:
        model: the model; adapters that are untrained, and so change nothing yet, are found too.

    Raises:
        ValueError: there is one.
    """
    page, owner = see_page("own-model", "From Hugging Face"), type(model).__name__
    for name, module in model.named_modules():
        # How peft wraps layers. Its wrapper of whole models is none, but passes on what the layers within have.
        if "base_layer" in module._modules or "modules_to_save" in module._modules:
            merge = (
                "model = model.merge_and_unload()"
                if hasattr(model, "merge_and_unload")
                else "PeftModel.from_pretrained(the model without it, the adapter's folder).merge_and_unload()"
            )
            raise ValueError(
                f"{owner} holds an adapter (such as LoRA) that is not merged into its weights, at "
                f"{name or 'the top'}: merge it first, with peft by {merge} {page}"
            )
    configs: Any = getattr(model, "peft_config", None)
    if configs is not None and hasattr(model, "get_base_model"):
        kinds = " and ".join(each.peft_type.value for each in configs.values())
        raise ValueError(
            f"{owner} has learned prompts or prefixes beside its weights ({kinds}). No weight can take them in, so "
            f"they cannot be merged and no circuit has them; the model without is model.get_base_model() {page}"
        )


def refuse_compiled_parts(model: nn.Module) -> None:
    """A layer that is compiled by itself cannot be looked into: what it does is fixed before hooks are in it.

    Args:
        model: the model; that it is compiled as a whole does not matter.

    Raises:
        ValueError: a part of it is compiled.
    """
    for name, module in model.named_modules():
        if name and (hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None):
            raise ValueError(
                f"{name} of this {type(model).__name__} is compiled by itself, so that nothing in it can be recorded: "
                "give the model as it was before torch.compile, or compile all of it by torch.compile(model)"
            )


def refuse_packed_weights(model: nn.Module) -> None:
    """Quantised weights are no numbers that can be multiplied with, and give no exact gradients.

    Args:
        model: the model.

    Raises:
        ValueError: a module whose weights are in another form than a plain floating-point tensor.
    """
    for name, module in model.named_modules():
        form = _packed_form(module)
        if form is not None:
            raise ValueError(
                f"the weights of {name} ({type(module).__name__}) are {form}, and a circuit is read from plain "
                "tensors in float32, float64, bfloat16 or float16: load the model without quantisation, or dequantise "
                "it (transformers: model.dequantize()) and give that"
            )


def _packed_form(module: nn.Module) -> str | None:
    """In which form the weights of one module are, if it is not a plain one."""
    if callable(getattr(module, "weight", None)):  # the quantised layers of torch itself
        return "packed away behind a method, as in torch's quantised layers"
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"of the class {type(tensor).__name__}"
        # Masks and positions are buffers too, in bool and int64; packed weights are narrower.
        if tensor.ndim > 1 and tensor.dtype not in (*PLAIN_DTYPES, torch.bool, torch.int64):
            return f"in {str(tensor.dtype).removeprefix('torch.')}"
    return None


def refuse_absent_weights(model: nn.Module) -> None:
    """Weights that are not there, or are spread out.

    Args:
        model: the model.

    Raises:
        ValueError: weights on the device ``meta``, which holds none; weights on several devices.
    """
    found = {parameter.device: name for name, parameter in model.named_parameters()}
    if torch.device("meta") in found:
        raise ValueError(
            f"{found[torch.device('meta')]} of this {type(model).__name__} has a shape but no numbers (device 'meta'): "
            "load its weights first, all of them into memory"
        )
    if len(found) > 1:
        places = " and ".join(f"{name} on {device}" for device, name in found.items())
        raise ValueError(
            f"this {type(model).__name__} is spread over several devices ({places}): put it on one, by model.to(...), "
            "or load it without device_map"
        )
