"""Several processes: how many a machine takes, and `--trainer.strategy fully_shard`, which splits parameters, gradients
and optimizer state over all of them, by block.
"""

import os
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

__all__ = ["FullyShard", "check_devices", "register"]


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


def check_devices(accelerator: Any, devices: Any) -> None:
    """`ValueError` for more processes on a CPU than it has cores (or two): each has all of the library in memory."""
    cores = max(2, os.cpu_count() or 1)
    on_cpu = accelerator == "cpu" or (accelerator in (None, "auto") and not torch.accelerator.is_available())
    if on_cpu and str(devices).isdecimal() and int(devices) > cores:
        raise ValueError(f"trainer.devices: expected at most {cores} processes on this CPU, got {devices}")
