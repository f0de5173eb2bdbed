"""A circuit as a model of its own: extracted once, then run on any prompt, saved and loaded without the model.

from lightning_circuits import ExtractedModel, extract

small = extract(model, circuit, judged.ablation)
logits = small(input_ids, attention_mask)
small.save("runs/small")
small = ExtractedModel.load("runs/small")            # on another machine, without the model's checkpoint
"""

from lightning_circuits.extracted.extracted_model import ExtractedModel
from lightning_circuits.extracted.extraction import extract

__all__ = ["ExtractedModel", "extract"]
