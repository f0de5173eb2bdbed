"""The pictures of README and docs: a circuit, one in spans, and faithfulness and KL against size.

    python benchmarks/readme_pictures.py --write

Indirect object identification with SmolLM2-135M: EAP-IG and EAP from 16 training pairs, judged by exact ablation on
16 held-out prompts, beside random edges. The circuit drawn is EAP-IG's, grown from the logits downwards, and pruned;
the one in spans is EAP's, of twice as many edges before pruning. ``--write`` puts the pictures into docs/, else they
are left here.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import quiet_trainer
from options import parse, parser
from smollm2 import NAME, located

from lightning_circuits import EAP, EAPIG
from lightning_circuits.callbacks import FaithfulnessCurve
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.drawing.curves import curve_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch

METHODS = {"EAP-IG": EAPIG, "EAP": EAP}
QUICK = {"model": "tiny-ioi", "pairs": 8, "edges": 20}
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    args = parse(parser(__doc__, model=NAME, pairs=16, edges=40), QUICK)
    name = located(args.model)
    data = IOIDataModule(name, n_train=args.pairs, n_val=args.pairs, n_test=8, batch_size=8, spans="roles")
    model = load_model(name)
    searches = {method: make(model) for method, make in METHODS.items()}
    curves = {method: measure(search, data, random=method == "EAP-IG") for method, search in searches.items()}
    circuit = searches["EAP-IG"].circuit(size=args.edges, greedy=True).prune()
    placed = attribute(EAP(model, spans=True), data).circuit(size=2 * args.edges).prune()
    folder = DOCS if args.write else Path()
    pictures = [*save(curve_figure(curves, ("faithfulness", "kl")), folder / "curves", (".png",))]
    pictures += [save_figure(circuit, folder / "circuit.png"), save_figure(placed, folder / "spans.png")]
    print("Written:", *pictures)


def measure(search: CircuitSearch, data: IOIDataModule, random: bool) -> Curve:
    """Attribute, and judge circuits of all sizes by |score|; beside them, once, random edges."""
    with TemporaryDirectory() as folder:
        curve = FaithfulnessCurve(rankings=["absolute"], random=random, dirpath=folder)
        attribute(search, data, curve)
    assert curve.curve is not None
    return curve.curve


def attribute(search: CircuitSearch, data: IOIDataModule, *callbacks: pl.Callback) -> CircuitSearch:
    """Once over the training pairs."""
    quiet_trainer(*callbacks).fit(search, data)
    return search


if __name__ == "__main__":
    main()
