"""Several processes: how many a machine takes, and `--trainer.strategy fully_shard`, which splits parameters, gradients
and optimizer state over all of them, by block.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from seqmix.training.checkpoint_files import read_checkpoint

__all__ = ["FullyShard", "check_devices", "register"]


class FullyShard(ModelParallelStrategy):
    """`ModelParallelStrategy` with every process in the data-parallel group, and whole checkpoints in one file.

    The file is that of any number of processes, one included: a run goes on with another number.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("tensor_parallel_size", 1)
        kwargs.setdefault("save_distributed_checkpoint", False)
        super().__init__(**kwargs)

    def setup_environment(self) -> None:
        if self._data_parallel_size == "auto":
            assert self.cluster_environment is not None
            self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Weights and states of optimizers into their shards; returns the rest.

        Lightning counts the parameters of a state in the order of the module, a plain optimizer in that of its groups.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_file():
            return super().load_checkpoint(checkpoint_path, weights_only)
        content, module = read_checkpoint(path), self.lightning_module
        assert module is not None
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=module.strict_loading)
        set_model_state_dict(module, content.pop("state_dict"), options=options)
        names = {id(p): name for name, p in module.named_parameters()}
        # Optimizers are there to train alone.
        for optimizer, saved in zip(self.optimizers, content.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(module, optimizer, by_name(saved, optimizer, names), options=options)
        return content


def by_name(saved: dict[str, Any], optimizer: Optimizer, names: dict[int, str]) -> dict[str, Any]:
    """The state of an optimizer by the names of its parameters, which stand in its groups in the order of these."""
    sizes = [[len(group["params"]) for group in each["param_groups"]] for each in (saved, optimizer.state_dict())]
    if sizes[0] != sizes[1]:
        raise ValueError(f"optimizer: expected groups of {sizes[1]} parameters in the checkpoint, got {sizes[0]}")
    known: dict[Any, str] = {}
    groups = []
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        called = [names[id(p)] for p in own["params"]]
        known |= dict(zip(group["params"], called, strict=True))
        groups.append({**group, "params": called})
    return {"state": {known[key]: value for key, value in saved["state"].items()}, "param_groups": groups}


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
