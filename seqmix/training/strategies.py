"""Several processes: how many a machine takes, and two strategies for them.

`--trainer.strategy fully_shard` splits parameters, gradients and optimizer state over all of them, by block,
`fully_shard_dcp` writes checkpoints in parts, too, and `sequence_parallel` splits the sequences as well.
"""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from seqmix._checks import positive
from seqmix.distributed import sequence_parallel
from seqmix.distributed.parallel import check_form
from seqmix.tasks.asked import asked_of
from seqmix.training.checkpoint_files import read_checkpoint
from seqmix.training.cut import CutSequences
from seqmix.training.sharded_files import read_rest, read_sharded, remove_sharded, write_sharded

__all__ = ["FullyShard", "SequenceParallel", "check_devices", "register"]


class FullyShard(ModelParallelStrategy):
    """`ModelParallelStrategy` with every process in the data-parallel group, and whole checkpoints in one file.

    The file is that of any number of processes, one included: a run goes on with another number. With
    `save_distributed_checkpoint` every process writes its part, and checkpoints are folders that any number of
    processes goes on from under this strategy (`sharded_files`).
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
        path, module = Path(self.broadcast(checkpoint_path)), self.lightning_module
        assert module is not None
        if path.is_dir():
            return self._load_sharded(path)
        content = read_checkpoint(path)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=module.strict_loading)
        set_model_state_dict(module, content.pop("state_dict"), options=options)
        names = {id(p): name for name, p in module.named_parameters()}
        # Optimizers are there to train alone.
        for optimizer, saved in zip(self.optimizers, content.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(module, optimizer, by_name(saved, optimizer, names), options=options)
        return content

    def _load_sharded(self, path: Path) -> dict[str, Any]:
        module = self.lightning_module
        assert module is not None
        rest = read_rest(path)
        weights = get_model_state_dict(module)
        read_sharded(path, {"state_dict": weights})
        set_model_state_dict(module, weights, options=StateDictOptions(strict=module.strict_loading))
        for number, optimizer in enumerate(self.optimizers):
            state = get_optimizer_state_dict(module, optimizer)
            read_sharded(path, {f"optimizer_{number}": state})
            set_optimizer_state_dict(module, optimizer, state)
        # They are in place; what looks for them finds that they were there.
        return rest | {"state_dict": {}, "optimizer_states": []}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """One file, or with `save_distributed_checkpoint` a folder that each process writes its part of."""
        if not self._save_distributed_checkpoint:
            if self.global_rank == 0:  # Lightning's every process would, at once
                remove_sharded(Path(filepath))
            self.barrier()
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        states = checkpoint.pop("optimizer_states", [])
        tensors = {"state_dict": checkpoint.pop("state_dict")}
        tensors |= {f"optimizer_{number}": state for number, state in enumerate(states)}
        write_sharded(Path(self.broadcast(filepath)), tensors, checkpoint)


class SequenceParallel(FullyShard):
    """`FullyShard` whose processes hold parts of the sequences (`seqmix.distributed.sequence_parallel`).

    Processes in groups of `sequence_ranks` get the same batches, of which each takes its part; parameters are sharded
    over all processes.

    Args:
        sequence_ranks: into how many parts a sequence is cut; a divisor of the number of processes, or all of them.
        form: `"two-pass"` or `"pipeline"`.
        kwargs: of Lightning's `ModelParallelStrategy`.

    Raises:
        ValueError: an unknown form; when it starts, `sequence_ranks` that does not divide the number of processes, and
            what `sequence_parallel` refuses of a model.
    """

    def __init__(self, sequence_ranks: int | None = None, form: str = "two-pass", **kwargs: Any) -> None:
        self.sequence_ranks = (
            None if sequence_ranks is None else positive("SequenceParallel", "sequence_ranks", sequence_ranks)
        )
        self.form = check_form(form)
        super().__init__(**kwargs)

    def setup_environment(self) -> None:
        processes = self.num_processes * self.num_nodes
        ranks = self.sequence_ranks or processes
        if processes % ranks:
            raise ValueError(
                f"SequenceParallel: sequence_ranks must divide the {processes} processes of trainer.devices and "
                f"trainer.num_nodes, got {ranks}"
            )
        self._data_parallel_size, self._tensor_parallel_size = processes // ranks, ranks
        super().setup_environment()

    def check_task(self, task: Any, stage: str) -> None:
        """`ValueError` for answers that need a model whose sequences are whole."""
        if stage == "predict":
            raise ValueError("trainer.strategy: sequence_parallel has no predict, use another strategy")
        if asked_of(task).free_running:
            raise ValueError(
                f"trainer.strategy: {type(task).__name__} also measures answers that feed on themselves, which need a "
                "state, and sequence_parallel has none"
            )


def shard(model: nn.Module, strategy: ModelParallelStrategy) -> CutSequences | None:
    """Share out the parameters of a `SequenceModel`, and its sequences where the strategy says so."""
    from torch.distributed.fsdp import fully_shard

    mesh: DeviceMesh = strategy.device_mesh["data_parallel"]
    cut = None
    if isinstance(strategy, SequenceParallel):
        over = strategy.device_mesh["tensor_parallel"]
        sequence_parallel(model, over, strategy.form)  # type: ignore[arg-type]
        cut, mesh = CutSequences(over.get_group()), init_device_mesh(mesh.device_type, (strategy.world_size,))
    for block in model.blocks:  # type: ignore[union-attr]
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return cut


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
    """Make the strategies known to Lightning by their names."""
    if "fully_shard" not in StrategyRegistry:
        register_one = StrategyRegistry.register
        register_one("fully_shard", FullyShard, "FSDP2 at every block")
        register_one("fully_shard_dcp", FullyShard, "its checkpoints in parts", save_distributed_checkpoint=True)
        register_one("sequence_parallel", SequenceParallel, "sequences cut over processes, FSDP2 at every block")


def check_devices(accelerator: Any, devices: Any) -> None:
    """`ValueError` for more processes on a CPU than it has cores (or two): each has all of the library in memory."""
    cores = max(2, os.cpu_count() or 1)
    on_cpu = accelerator == "cpu" or (accelerator in (None, "auto") and not torch.accelerator.is_available())
    if on_cpu and str(devices).isdecimal() and int(devices) > cores:
        raise ValueError(f"trainer.devices: expected at most {cores} processes on this CPU, got {devices}")
