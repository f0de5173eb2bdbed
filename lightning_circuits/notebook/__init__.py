"""Circuits in a notebook: no Trainer, no data module, no callback.

    from lightning_circuits import evaluate, load, score, show

    model = load("gpt2")
    scores = score(model, prompts, method="eap-ig")      # one pass over the prompts
    circuit = scores.circuit(size=0.01)
    circuit.top(20)                                      # a table
    evaluate(model, circuit, other_prompts)              # exact ablation, beside the full, empty and random circuits
    show(circuit)                                        # the interactive page

What is trained needs a Trainer (`lightning_circuits.search`).
"""

from lightning_circuits.models.loading import load_model as load
from lightning_circuits.notebook.inline import show
from lightning_circuits.notebook.judged import evaluate
from lightning_circuits.notebook.scores import score

__all__ = ["evaluate", "load", "score", "show"]
