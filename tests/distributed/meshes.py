"""Sequences cut over one dimension of a mesh and batches over the other, beside one process.

    python -m tests.distributed.meshes

Three steps of AdamW with clipped gradients on 2 x 2 gloo processes, in float64: the weights afterwards.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from seqmix import SequenceModel
from seqmix.benchmarks.processes import spawn
from seqmix.distributed import sequence_parallel, split_sequences
from tests.distributed.ranks import far

HOW = ("ddp", "fully_shard", "fully_shard over data alone")
MIXERS = ("mamba-2", "attention", "lstm")  # two passes, keys, a pipeline
ROWS, LENGTH, CLIP = 4, 23, 0.5


def model_of() -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(list(MIXERS), vocab_size=7, d_model=16, n_layers=len(MIXERS), dtype=torch.float64)


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    tokens = torch.randint(7, (3, ROWS, LENGTH + 1))
    return [(each[:, :-1], each[:, 1:]) for each in tokens]


def alone() -> dict[str, Tensor]:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for tokens, targets in batches():
        loss = cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return model.state_dict()


def together(how: str) -> dict[str, Tensor]:
    """The same on all processes: gradients are means over some of them, so each loss counts as often as these are."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    every = init_device_mesh("cpu", (4,))
    model = sequence_parallel(model_of(), mesh["sequence"])
    called: nn.Module = model
    over = mesh["data"] if "alone" in how else every
    if how == "ddp":
        called = DistributedDataParallel(model, process_group=over.get_group())
    else:
        for block in model.blocks:
            fully_shard(block, mesh=over)
        fully_shard(model, mesh=over)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for tokens, targets in batches():
        rows = tokens.chunk(2)[mesh["data"].get_local_rank()], targets.chunk(2)[mesh["data"].get_local_rank()]
        x, part = (split_sequences(each, mesh["sequence"])[0] for each in rows)
        total = cross_entropy(called(x)[0].flatten(0, 1), part.flatten(), reduction="sum")
        optimizer.zero_grad()
        (total * over.size() / targets.numel()).backward()
        if "alone" in how:  # means over data are done, sums over the parts of sequences are not
            for p in model.parameters():
                dist.all_reduce(p.grad.to_local(), group=mesh["sequence"].get_group())
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return {name: getattr(p, "full_tensor", lambda p=p: p)() for name, p in model.state_dict().items()}


def work(rank: int) -> dict[str, float]:
    expected, found = alone(), {}
    for how in HOW:
        weights = together(how)
        assert weights.keys() == expected.keys()
        found[how] = max(far(weights[name], value) for name, value in expected.items())
        dist.barrier()
    gathered: list[dict[str, float]] = [{}] * 4
    dist.all_gather_object(gathered, found)
    return {how: max(each[how] for each in gathered) for how in HOW}


def run() -> dict[str, float]:
    """The largest differences of weights, by how they are shared out."""
    found: dict[str, float] = spawn(work, 4)
    return found


if __name__ == "__main__":
    for how, difference in run().items():
        print(f"{how:<28} {difference:.1e}")
