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
    # On a CPU single layers would do, and a little faster; in blocks, sums are rounded as where circuits are evaluated.
    size, multiple = block_size(layout), filled_to(device)
    blocks = Blocks.of(Alive.of(layout, members), members, size, multiple, device)
    return replace(blocks, blocks=[_of_alive(block) for block in blocks.blocks])


def parts_of(blocks: Blocks) -> list[Part]:
    """The attentions and MLPs that are computed."""
    return [part for block in blocks.blocks for part in block.parts if part.component.kind != "logits"]


def _of_alive(block: Block) -> Block:
    return block._replace(parts=[part._replace(sources=part.writers) for part in block.parts])
