"""A circuit as a model: the masked computation over what is alive of it, with constants for all the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.blocks import Blocks
from lightning_circuits.circuit import Circuit
from lightning_circuits.extracted import folder as files
from lightning_circuits.extracted.live_blocks import live_blocks, parts_of
from lightning_circuits.masked import masked_stream, new_stack
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.context import position_ids
from lightning_circuits.models.live_heads import LiveHeads
from lightning_circuits.models.prompts import refuse_prompts
from lightning_circuits.models.registry import family_of
from lightning_circuits.models.remade import config_of, remade, tensors_of, versions
from lightning_circuits.models.stripped import with_heads
from lightning_circuits.places import Places

LENGTH = 5
"""Tokens of the prompt by which a model that was loaded is compared with the one that was saved."""


class ExtractedModel(nn.Module):
    """A circuit that runs by itself; made by `extract`, or by `load`.

    Smaller than the model are attentions and MLPs, on disk and in memory: heads and MLPs that are dead have no weights
    here, and are not computed. The token embedding, the last norm and the head stay whole, and so does an MLP that is
    alive, whatever it reads and whoever reads it. Live heads cost more than in the model where readers see streams of
    their own: a sum over edges for each, and keys and values for every query head that the circuit counts by itself.

    It is frozen and stays in eval mode, gives no gradients, and does not generate text.

    Args:
        reader: a model `stripped` to what is alive.
        circuit: of the model's layout.
        constants: ``[n_live_writers, 1 or n_positions, d]``, what cut edges carry.
        streams: ``[n_streams, 1 or n_positions, d]``, the residual streams that constants alone make, in float32 at
            least, without learned positions.
        ablation: what the ablation was, as `Ablation.describe` says it.
    """

    constants: Tensor
    streams: Tensor
    members: Tensor

    def __init__(
        self, reader: CircuitModel, circuit: Circuit, constants: Tensor, streams: Tensor, ablation: dict[str, Any]
    ) -> None:
        super().__init__()
        assert reader.live_heads is not None
        self.circuit, self.ablation, self._reader = circuit, ablation, reader
        self.language_model = reader.model
        self.heads = nn.ModuleDict({str(layer): heads for layer, heads in reader.live_heads.items()})
        self.register_buffer("constants", constants)
        self.register_buffer("streams", streams)
        self.register_buffer("members", circuit.members.to(constants.device), persistent=False)
        self._blocks = live_blocks(circuit, constants.device)
        self.eval()

    # ---- what is in it -----------------------------------------------------------------------------------------

    @property
    def n_weights(self) -> int:
        """How many numbers it has, constants among them; of the full model, ``model.num_parameters()``."""
        return sum(each.numel() for each in (*tensors_of(self.language_model)[0].values(), *self._own().values()))

    def __repr__(self) -> str:
        parts = parts_of(self._blocks)
        heads = sum(part.writers.stop - part.writers.start for part in parts if part.component.kind == "attention")
        mlps, layout = sum(part.component.kind == "mlp" for part in parts), self.circuit.layout
        return (
            f"ExtractedModel({self.circuit.n_edges:,} of {layout.n_edges:,} edges, {heads} of "
            f"{layout.n_layers * layout.n_heads} heads, {mlps} of {layout.n_layers} MLPs, {self.n_weights:,} weights, "
            f"{self.ablation['name']} ablation)"
        )

    def train(self, mode: bool = True) -> ExtractedModel:
        """It stays in eval mode, also as a part of something that is trained."""
        return super().train(False)

    # ---- running it --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits at every token.

        Args:
            input_ids: int64 ``[B, T]``.
            attention_mask: ``[B, T]``, 0 at padding, on either side. Default: there is none.

        Returns:
            ``[B, T, V]``; those at padding mean nothing.

        Raises:
            TypeError: ids that are no whole numbers.
            ValueError: another shape; a prompt longer than the model, or the constants, reach; token ids that the model
                does not have.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._require_prompts(input_ids, mask)
        mask = mask.long()
        reader, places = self._reader, Places.everywhere(mask)
        context = reader.context(mask)
        bases = _at_tokens(self.streams, mask)
        positions = reader.position_embedding(context)
        bases = (bases if positions is None else bases + positions).to(reader.dtype)
        reference = places.take(_at_tokens(self.constants, mask))
        blocks = self._blocks_on(mask.device)
        stack = new_stack(blocks, reference)
        embedding = reader.embed(input_ids)
        stream = masked_stream(self.members, reader, context, embedding, places, bases, reference, stack, blocks)
        return reader.unembed(places.spread(stream[None])[0])

    def probe(self) -> Tensor:
        """``[V]``, the logits after a few tokens: which a model that is loaded has in common with the one saved."""
        limit, reach = self._reader.prompt_limit, self.streams.shape[1]
        length = min(LENGTH, LENGTH if limit is None else limit.tokens, LENGTH if reach == 1 else reach)
        ids = torch.arange(length, device=self.streams.device) * self._reader.vocabulary // length
        return self(ids[None])[0, -1]

    def _require_prompts(self, ids: Tensor, mask: Tensor) -> None:
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"input_ids are token ids, whole numbers, got {ids.dtype}")
        if ids.ndim != 2 or 0 in ids.shape or mask.shape != ids.shape:
            raise ValueError(
                "input_ids and attention_mask are [prompts, tokens] both, at least one of each, got "
                f"{list(ids.shape)} and {list(mask.shape)}"
            )
        if mask.device.type == "cpu" and ((mask != 0) & (mask != 1)).any():
            raise ValueError("attention_mask has other numbers than 0 and 1")
        refuse_prompts(self._reader, ids, mask)
        reach = self.streams.shape[1]
        if reach > 1 and ids.shape[1] > reach and (longest := int(mask.sum(-1).max())) > reach:
            raise ValueError(
                f"a prompt of {longest} tokens, and the {self.ablation['name']} ablation has constants for {reach} "
                "positions: fit it to prompts as long, and extract again"
            )

    def _blocks_on(self, device: torch.device) -> Blocks:
        """The blocks, with what says where gates stand on the device that the model has been moved to."""
        if self._blocks.place.device != device:
            self._blocks = live_blocks(self.circuit, device)
        return self._blocks

    # ---- files -------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it as a folder that needs nothing else to be loaded, the model's checkpoint least of all.

        The weights and constants are ``weights.safetensors``, the circuit is ``circuit.safetensors``, a circuit file
        like any other, and ``extracted.json`` says what they are of. The tokenizer is not in it.

        Args:
            folder: made if it is not there. One that holds such a model already holds this one then.

        Raises:
            ValueError: a model that is none of transformers; other files in the folder.
            NotADirectoryError: a file is called so.
            OSError: it cannot be written, a full disk.
        """
        weights, also = tensors_of(self.language_model)
        said = {
            "model": config_of(self.language_model),
            "source": getattr(self.language_model, "name_or_path", ""),
            "ablation": self.ablation,
            "tied": also,
            "versions": versions(),
        }
        tensors = {**{f"model.{name}": each for name, each in weights.items()}, **self._own(), "probe": self.probe()}
        return files.write(Path(folder), said, self.circuit, tensors)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ExtractedModel:
        """Read what `save` has written, on the CPU; nothing else is looked for, in a cache or elsewhere.

        A prompt of a few tokens is run, and has to come out as where it was saved.

        Raises:
            FileNotFoundError: no such folder, or a file that is missing in it.
            ValueError: files that are damaged, of several models, or of a later version; a model that the installed
                transformers has not, or that computes something else there.
        """
        folder = Path(folder)
        with files.refused(folder):
            said, circuit, tensors = files.read(folder)
            probe = tensors.pop("probe")
            model = cls._of(said, circuit, tensors)
            off = (model.probe() - probe).abs().max() / probe.abs().max().clamp(min=1e-30)
            if not off < (1e-3 if torch.finfo(probe.dtype).bits >= 32 else 2e-2):
                there, here = (
                    " and ".join(f"{name} {number}" for name, number in each.items())
                    for each in (said["versions"], versions())
                )
                raise ValueError(f"it computes something else than where it was saved: by {there} there, {here} here")
        return model

    @classmethod
    def _of(cls, said: dict[str, Any], circuit: Circuit, tensors: dict[str, Tensor]) -> ExtractedModel:
        """What a folder says, as a model."""
        weights = {name.removeprefix("model."): each for name, each in tensors.items() if name.startswith("model.")}
        language_model = remade(said["model"], weights, said["tied"])
        family = family_of(language_model)
        if family is None:
            raise ValueError(f"{type(language_model).__name__} is of no family that is read here")
        reader = family(language_model, circuit.layout.kv)
        circuit = circuit.of_model(reader.layout, "its circuit")
        heads = {}
        for part in parts_of(live_blocks(circuit, torch.device("cpu"))):
            if part.component.kind == "attention":
                start = f"heads.{part.component.layer}."
                own = {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
                heads[part.component.layer] = LiveHeads(own, reader.readers(part.units))
        return cls(with_heads(reader, heads), circuit, tensors["constants"], tensors["streams"], said["ablation"])

    def _own(self) -> dict[str, Tensor]:
        """What it has beside the language model, by name."""
        return {name: each for name, each in self.state_dict().items() if not name.startswith("language_model.")}


def _at_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Constants ``[n, 1, d]``, or ``[n, n_positions, d]`` by position, at the tokens of prompts: ``[n, B, T, d]``."""
    if values.shape[1] == 1:
        return values[:, None].expand(-1, *mask.shape, -1)
    return values[:, position_ids(mask)]
