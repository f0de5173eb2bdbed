"""From a model, a circuit and an ablation to the circuit as a model of its own."""

from __future__ import annotations

import os

import torch
from torch import nn

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.circuit import Circuit
from lightning_circuits.extracted.extracted_model import ExtractedModel
from lightning_circuits.extracted.live_blocks import live_blocks, parts_of
from lightning_circuits.masked import reference_streams
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.models.stripped import stripped
from lightning_circuits.pages import see_page


@torch.inference_mode(False)  # in which autograd could not say which weights are of which heads
@torch.no_grad()
def extract(
    model: str | os.PathLike[str] | nn.Module, circuit: Circuit | str | os.PathLike[str], ablation: str | Ablation
) -> ExtractedModel:
    """A circuit as a model of its own: it puts out what exact ablation of all other edges does, at every token.

    It has the weights of the heads and MLPs from which a way leads to the logits, in tensors of its own, and constants
    for all others. Those that no way from the input leads to are among them, for they write as well; the circuit is
    without them after ``circuit.prune()``, but under these ablations another one, to be judged by itself.

    Args:
        model: the one that the circuit is of: a Hugging Face id, a folder, ``tiny-ioi``, or a model in memory, which is
            put in eval mode and frozen.
        circuit: its edges, or the file that they are in.
        ablation: what cut edges carry: ``zero``; or a fitted ``mean``, ``mean-positional`` or ``optimal``, such as
            that of `score` (``scores.ablation``) or `evaluate` (``judged.ablation``). Optimal constants are fitted to
            the circuit now, if they are not yet.

    Raises:
        ValueError: a circuit of another model, or in spans; an ablation whose cut edges carry what is of the prompt, or
            one that is not fitted, or fitted to another circuit or model; a model of one's own that is read otherwise.
        FileNotFoundError: no such model, no such file.
    """
    if not isinstance(circuit, Circuit):
        circuit = Circuit.load(circuit)
    layout, cut = circuit.layout, ABLATIONS.make(ablation)
    layout.require_plain("an extracted model, which is run on any prompt,")
    _require_constants(cut)
    read = wrap(model if isinstance(model, nn.Module) else load_model(os.fspath(model)), layout.kv)
    circuit = circuit.of_model(read.layout)
    if not cut.fitted_over:
        cut.fit(read, ())  # to data of its own, if it has any
    cut = cut.of_circuit(read, circuit.members.to(read.device))
    cut.require_circuit(circuit.members)
    constants = cut.constants(read.layout).to(read.device)
    if (constants.shape[0], constants.shape[2]) != (read.layout.n_writers, read.layout.d_model):
        raise ValueError(f"the {cut.name} ablation was fitted to another model than the circuit's, {read.layout}")
    wide = constants.to(torch.promote_types(read.dtype, torch.float32))
    streams = reference_streams(read, wide[:, None], context=None)[:, 0]
    blocks = live_blocks(circuit, read.device)
    of_alive = constants if blocks.sources is None else constants[blocks.sources]
    own = stripped(read, parts_of(blocks))
    extracted = ExtractedModel(own, circuit, of_alive.to(read.dtype, copy=True), streams, cut.describe())
    try:
        extracted.probe()
    except (AttributeError, TypeError) as error:  # of a weight that is None
        raise ValueError(
            f"{type(read.model).__name__} cannot be extracted: {type(read).__name__} reads weights of heads elsewhere "
            f"than in its projections and in the output_weight of CircuitModel, and they are not there ({error})"
        ) from error
    return extracted


def _require_constants(cut: Ablation) -> None:
    """See that an ablation has constants, or will have them."""
    page = see_page("notebook", "As a model of its own")
    if not cut.has_constants:
        ways = ", ".join(name for name in ABLATIONS if ABLATIONS[name].has_constants)
        raise ValueError(
            f"under {cut.name} ablation cut edges carry what is of each prompt, and an extracted model is run on any: "
            f"extract under one whose cut edges carry constants, {ways} {page}"
        )
    if cut.needs_data and not cut.fitted_over:
        raise ValueError(
            f"{cut.name} ablation is not fitted: give the one that the circuit was found or judged with, "
            f"score(...).ablation or evaluate(...).ablation, or fit one, ablation.fit(wrap(model), loader) {page}"
        )
