"""One small file for each family of models, or for a few that differ little: where its parts are, and what is odd.

Everything is said with what `models.parts` and `models.base` ask for; what families have in common stands there, and in
the files beside them that are named by what they do (`rotary`, `heads`, `head_norms`, `head_outputs`, `norms`).
"""

from lightning_circuits.models.families.apertus import ApertusCircuitModel
from lightning_circuits.models.families.biogpt import BioGptCircuitModel
from lightning_circuits.models.families.codegen import CodeGenCircuitModel
from lightning_circuits.models.families.cohere import CohereCircuitModel
from lightning_circuits.models.families.cohere2_moe import Cohere2MoeCircuitModel
from lightning_circuits.models.families.ctrl import CTRLCircuitModel
from lightning_circuits.models.families.dbrx import DbrxCircuitModel
from lightning_circuits.models.families.exaone4 import Exaone4CircuitModel
from lightning_circuits.models.families.exaone_moe import ExaoneMoeCircuitModel
from lightning_circuits.models.families.fairseq import XGLMCircuitModel
from lightning_circuits.models.families.falcon import FalconCircuitModel
from lightning_circuits.models.families.gemma import GemmaCircuitModel
from lightning_circuits.models.families.gemma2 import Gemma2CircuitModel
from lightning_circuits.models.families.gemma3 import Gemma3CircuitModel
from lightning_circuits.models.families.glm import Glm4CircuitModel, GlmCircuitModel
from lightning_circuits.models.families.gpt2 import GPT2CircuitModel
from lightning_circuits.models.families.gpt_bigcode import GPTBigCodeCircuitModel
from lightning_circuits.models.families.gpt_neo import GPTNeoCircuitModel
from lightning_circuits.models.families.gpt_neox import GPTNeoXCircuitModel
from lightning_circuits.models.families.gpt_neox_japanese import GPTNeoXJapaneseCircuitModel
from lightning_circuits.models.families.gpt_oss import GptOssCircuitModel
from lightning_circuits.models.families.gptj import GPTJCircuitModel
from lightning_circuits.models.families.granite import GraniteCircuitModel
from lightning_circuits.models.families.granite_moe import GraniteMoeCircuitModel
from lightning_circuits.models.families.hunyuan import HunYuanCircuitModel
from lightning_circuits.models.families.kolibri1 import Kolibri1CircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel
from lightning_circuits.models.families.mellum import MellumCircuitModel
from lightning_circuits.models.families.minimax_m2 import MiniMaxM2CircuitModel
from lightning_circuits.models.families.ministral3 import Ministral3CircuitModel
from lightning_circuits.models.families.modernbert_decoder import ModernBertDecoderCircuitModel
from lightning_circuits.models.families.multimodal import MultimodalCircuitModel, MultimodalGemma3CircuitModel
from lightning_circuits.models.families.nanochat import NanoChatCircuitModel
from lightning_circuits.models.families.nemotron import NemotronCircuitModel
from lightning_circuits.models.families.olmo import OlmoCircuitModel
from lightning_circuits.models.families.olmo2 import Olmo2CircuitModel, Olmo3CircuitModel
from lightning_circuits.models.families.olmoe import OlmoeCircuitModel
from lightning_circuits.models.families.opt import OPTCircuitModel
from lightning_circuits.models.families.persimmon import PersimmonCircuitModel
from lightning_circuits.models.families.phi import PhiCircuitModel
from lightning_circuits.models.families.phi3 import Phi3CircuitModel
from lightning_circuits.models.families.smollm3 import SmolLM3CircuitModel
from lightning_circuits.models.families.stablelm import StableLmCircuitModel
from lightning_circuits.models.families.vaultgemma import VaultGemmaCircuitModel

BUILT_IN = (
    GPT2CircuitModel,
    LlamaCircuitModel,
    ApertusCircuitModel,
    DbrxCircuitModel,
    ExaoneMoeCircuitModel,
    Kolibri1CircuitModel,
    GlmCircuitModel,
    Glm4CircuitModel,
    HunYuanCircuitModel,
    MellumCircuitModel,
    Ministral3CircuitModel,
    MultimodalCircuitModel,
    MultimodalGemma3CircuitModel,
    Phi3CircuitModel,
    SmolLM3CircuitModel,
    StableLmCircuitModel,
    GemmaCircuitModel,
    VaultGemmaCircuitModel,
    Gemma2CircuitModel,
    Gemma3CircuitModel,
    Olmo2CircuitModel,
    Olmo3CircuitModel,
    OlmoeCircuitModel,
    MiniMaxM2CircuitModel,
    Exaone4CircuitModel,
    GptOssCircuitModel,
    GraniteCircuitModel,
    GraniteMoeCircuitModel,
    CohereCircuitModel,
    Cohere2MoeCircuitModel,
    GPTNeoXCircuitModel,
    GPTNeoXJapaneseCircuitModel,
    GPTJCircuitModel,
    GPTNeoCircuitModel,
    GPTBigCodeCircuitModel,
    FalconCircuitModel,
    PhiCircuitModel,
    PersimmonCircuitModel,
    NemotronCircuitModel,
    OlmoCircuitModel,
    CodeGenCircuitModel,
    CTRLCircuitModel,
    XGLMCircuitModel,
    BioGptCircuitModel,
    OPTCircuitModel,
    NanoChatCircuitModel,
    ModernBertDecoderCircuitModel,
)
"""Every family that the package reads."""
