"""Where a language model has the parts that circuits are made of."""

from __future__ import annotations

from typing import NamedTuple


class Where(NamedTuple):
    """Names of modules, dotted where one is inside of another; an empty one is the module itself.

    In the model: ``decoder``, which is all but the head. In the decoder: ``token_embedding``, ``blocks``,
    ``final_norm``. In a block: ``attention_norm``, ``attention``, ``mlp_norm``, ``mlp``. In the attention: ``output``,
    whose input is all heads' values side by side.
    """

    decoder: str
    token_embedding: str
    blocks: str
    final_norm: str
    attention_norm: str
    attention: str
    output: str
    mlp_norm: str
    mlp: str
