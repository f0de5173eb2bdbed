"""Ways of finding circuits, each a LightningModule in a file of its own. A new one is a file here, and a line here."""

from lightning_circuits.search.activation_patching import ActivationPatching as ActivationPatching
from lightning_circuits.search.base import METHODS as METHODS
from lightning_circuits.search.base import CircuitSearch as CircuitSearch
from lightning_circuits.search.clean_corrupted import CleanCorrupted as CleanCorrupted
from lightning_circuits.search.eap import EAP as EAP
from lightning_circuits.search.eap_ig import EAPIG as EAPIG
from lightning_circuits.search.eap_ig_activations import EAPIGActivations as EAPIGActivations
from lightning_circuits.search.edge_pruning import EdgePruning as EdgePruning
from lightning_circuits.search.ensemble import Ensemble as Ensemble
from lightning_circuits.search.expected_gradients import ExpectedGradients as ExpectedGradients
from lightning_circuits.search.information_flow import InformationFlowRoutes as InformationFlowRoutes
from lightning_circuits.search.masked_gradients import MaskedGradients as MaskedGradients
from lightning_circuits.search.node_pruning import NodePruning as NodePruning
from lightning_circuits.search.one_pass import Attribution as Attribution
from lightning_circuits.search.plug_in import from_lightning_module as from_lightning_module
from lightning_circuits.search.random_scores import RandomScores as RandomScores
from lightning_circuits.search.relp import RelP as RelP
from lightning_circuits.search.saved import SavedCircuit as SavedCircuit
from lightning_circuits.search.saved_weights import SavedWeightCircuit as SavedWeightCircuit
from lightning_circuits.search.weight_pruning import WeightPruning as WeightPruning
from lightning_circuits.search.weight_search import WeightSearch as WeightSearch
