"""What of a model is computed for one circuit, whatever the prompt."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_circuits.alive import Alive
from lightning_circuits.blocks import Block, Blocks, Part, block_size, filled_to
from lightning_circuits.circuit import Circuit


def live_blocks(circuit: Circuit, device: torch.device) -> Blocks:
    """The blocks of what lies on a way to the logits, for references of these writers alone.

    Args:
        circuit: without spans.
        device: that it is run on.
    """
    layout, members = circuit.layout, circuit.members
    # Products with few open edges are sparse ones on a CPU: more layers at once would only hold more streams.
    size = block_size(layout) if device.type == "cuda" else 1
    blocks = Blocks.of(Alive.of(layout, members), members, size, filled_to(device), device)
    return replace(blocks, blocks=[_of_alive(block) for block in blocks.blocks])


def parts_of(blocks: Blocks) -> list[Part]:
    """The attentions and MLPs that are computed."""
    return [part for block in blocks.blocks for part in block.parts if part.component.kind != "logits"]


def _of_alive(block: Block) -> Block:
    return block._replace(parts=[part._replace(sources=part.writers) for part in block.parts])
