"""The strategy for models that do not fit one GPU: blocks are shared out among the processes, prompts are, too.

    >>> trainer = pl.Trainer(devices=8, strategy=FSDP2Strategy())                                  # doctest: +SKIP

It is Lightning's `ModelParallelStrategy`, PyTorch's FSDP2, but for what that takes for granted: that what is learned is
sharded. Here it is the frozen model that is. Gates are whole on every process, and so are checkpoints: one ordinary
file, which any other strategy reads.
"""

from __future__ import annotations

from typing import Any

from lightning_circuits.namespace import pl
from lightning_circuits.pages import see_page

_WHOLE = pl.strategies.ParallelStrategy


class FSDP2Strategy(pl.strategies.ModelParallelStrategy):
    """Each process keeps its part of every block of the frozen model, and works on prompts of its own.

    Args:
        options: ``process_group_backend`` and ``timeout``, see Lightning's `ModelParallelStrategy`. That itself will
            do as well, with ``data_parallel_size`` the number of processes and ``tensor_parallel_size=1``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        if self._data_parallel_size == "auto":  # Lightning's own choice is one for each machine
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    restore_checkpoint_after_setup = _WHOLE.restore_checkpoint_after_setup
    lightning_restore_optimizer = _WHOLE.lightning_restore_optimizer
    lightning_module_state_dict = _WHOLE.lightning_module_state_dict
    load_model_state_dict = _WHOLE.load_model_state_dict
    optimizer_state = _WHOLE.optimizer_state
    load_optimizer_state_dict = _WHOLE.load_optimizer_state_dict
    save_checkpoint = _WHOLE.save_checkpoint
    load_checkpoint = _WHOLE.load_checkpoint


def shards(trainer: pl.Trainer) -> bool:
    """Whether a Trainer is to share out the weights of the frozen model.

    Raises:
        ValueError: it is to do so in a way in which a layer's weights cannot be read.
    """
    strategy, name = trainer.strategy, type(trainer.strategy).__name__
    instead = f"give strategy=FSDP2Strategy() {see_page('multi-gpu', 'Models larger than one GPU')}"
    if isinstance(strategy, pl.strategies.ModelParallelStrategy):
        if (parts := strategy.device_mesh["tensor_parallel"].size()) > 1:
            raise ValueError(
                f"{name} is to split every matrix among {parts} processes that work on the same prompts "
                f"(tensor_parallel_size={parts}), and a circuit reads weights as a whole: {instead}, or "
                f"data_parallel_size={trainer.world_size}, tensor_parallel_size=1"
            )
        if type(strategy) is pl.strategies.ModelParallelStrategy:
            strategy.__class__ = FSDP2Strategy  # Lightning's own holds checkpoints for sharded, too
        return True
    if isinstance(strategy, (pl.strategies.FSDPStrategy, pl.strategies.DeepSpeedStrategy)):
        raise ValueError(f"{name} splits the model in a way in which no layer can be read by itself: {instead}")
    return False
