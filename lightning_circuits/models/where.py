"""Where a language model has the parts that circuits are made of."""

from __future__ import annotations

from typing import NamedTuple


class Where(NamedTuple):
    """Names of modules, dotted where one is inside of another; an empty one is the module itself.

    In the model: ``decoder``, which is all but the head. In the decoder: ``token_embedding``, ``blocks``,
    ``final_norm``. In a block: ``attention_norm``, ``attention``, ``mlp_norm``, ``mlp``, and the norms of what the two
    write, if there are any. In the attention: ``output``, whose input is all heads' values side by side. None stands
    for a norm that is not there.
    """

    decoder: str
    token_embedding: str
    blocks: str
    final_norm: str
    attention_norm: str | None
    attention: str
    output: str
    mlp_norm: str | None
    mlp: str
    norm_after_attention: str | None = None
    norm_after_mlp: str | None = None
