"""Whether a model computes what is read from its weights: a few tokens through both, compared layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.models.base import CircuitModel


@torch.no_grad()
def verify(model: CircuitModel) -> None:
    """Run a few tokens and compare, layer by layer, what is computed from the weights with what the stock model does.

    Raises:
        ValueError: a layer whose writers come out differently, by name. The module is then not what its family's
            file takes it for: changed weights layout, an adapter in front of a projection, a hook. Or a norm that
            does not do what `CircuitModel.read_norm` says.
    """
    layout = model.layout
    ids = torch.arange(8, device=model.device).view(2, 4) % len(model.token_embedding.weight)
    mask, last = torch.ones_like(ids), torch.full((2,), 3, device=model.device)
    writers = model.new_stack(ids.shape)
    logits = model.run(ids, mask, last, writers)
    context = model.context(mask)
    tolerance = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.1

    def compare(name: str, here: Tensor, stock: Tensor) -> None:
        error = ((here - stock).float().norm() / stock.float().norm().clamp(min=1e-30)).item()
        if not error < tolerance:
            raise ValueError(
                f"{name} of this {type(model.model).__name__} does not compute what {type(model).__name__} reads "
                f"from its weights (relative error {error:.2g}): a modified module, an unmerged adapter, a hook?"
            )

    positions = model.position_embedding(context)
    stream = writers[0] if positions is None else writers[0] + positions
    for layer in range(layout.n_layers):
        heads, mlp = layout.own_writers(layer)
        norm = model.attention_norm(layer)
        compare(f"the norm before the attention of layer {layer}", model.read_norm(norm)(stream), norm(stream))
        readers = stream.expand(layout.n_attention_readers, *stream.shape)
        compare(f"the attention of layer {layer}", model.attention(layer, readers, context), writers[heads])
        stream = stream + writers[heads].sum(0)
        bias = model.output_bias(layer)
        stream = stream if bias is None else stream + bias
        compare(f"the MLP of layer {layer}", model.mlp(layer, stream), writers[mlp])
        stream = stream + writers[mlp]
    compare("the output", model.unembed(stream[:, -1]), logits)
