"""What a cut edge carries instead of its writer's output: the ``ref`` of the masked computation.

| name              | reference of a writer                                                                       |
|-------------------|---------------------------------------------------------------------------------------------|
| `interchange`     | its output on the corrupt prompt of the pair                                                |
| `zero`            | nothing                                                                                     |
| `mean`            | its mean output over all prompts of a loader, one vector                                    |
| `mean-positional` | the same for each token position, counted from the first real token                         |
| `mean-group`      | the same for each position of each group of prompts, such as those of one template          |
| `mean-span`       | the same for each named span of the prompts                                                 |
| `optimal`         | the one vector that costs the circuit at hand least, fitted to it (`ablation.optimal`)      |

    >>> ABLATIONS.make("zero").name
    'zero'

How a circuit scores depends on which: write it beside every number. The means need one pass over a loader, `fit`,
before they are used, and so do optimal constants, which are then fitted to every circuit that is judged; the others
ignore it. In a run that is over the prompts that are trained on; means may be taken over those of data of their own, as
over prompts of three unrelated names (Wang et al. 2022):

    GroupMeanAblation("corrupt", data=IOIDataModule("gpt2", corruption="abc"))

An ablation of one's own is a subclass of `Ablation` that says `reference`; registered, configs know it by its name:

    @ABLATIONS.register
    class NoiseAblation(Ablation):
        name = "noise"

        def reference(self, batch, corrupt):
            return corrupt + 0.1 * torch.randn_like(corrupt)
"""

from lightning_circuits.ablation.base import (
    ABLATIONS,
    Ablation,
    InterchangeAblation,
    Side,
    ZeroAblation,
)
from lightning_circuits.ablation.mean import (
    GroupMeanAblation,
    MeanAblation,
    MeanPositionalAblation,
    MeanSpanAblation,
)
from lightning_circuits.ablation.optimal import OptimalAblation

__all__ = [
    "ABLATIONS",
    "Ablation",
    "GroupMeanAblation",
    "InterchangeAblation",
    "MeanAblation",
    "MeanPositionalAblation",
    "MeanSpanAblation",
    "OptimalAblation",
    "Side",
    "ZeroAblation",
]
