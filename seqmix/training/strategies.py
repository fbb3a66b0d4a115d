"""`--trainer.strategy fully_shard`: parameters, gradients and optimizer state split over all processes, by block."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

__all__ = ["FullyShard", "register"]


class FullyShard(ModelParallelStrategy):
    """`ModelParallelStrategy` with every process in the data-parallel group, and whole checkpoints in one file."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("tensor_parallel_size", 1)
        kwargs.setdefault("save_distributed_checkpoint", False)
        super().__init__(**kwargs)

    def setup_environment(self) -> None:
        if self._data_parallel_size == "auto":
            assert self.cluster_environment is not None
            self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()


def register() -> None:
    """Make the strategy known to Lightning as `fully_shard`."""
    if "fully_shard" not in StrategyRegistry:
        StrategyRegistry.register("fully_shard", FullyShard, description="FSDP2 at every block")
