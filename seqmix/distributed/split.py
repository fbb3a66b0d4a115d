"""Which tokens of a batch a rank holds."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Ranks", "part_of", "ranks_of", "refuse", "split_sequences"]

Ranks = dist.ProcessGroup | DeviceMesh | None


def ranks_of(mesh: Ranks) -> dist.ProcessGroup:
    """The group of processes over which sequences are cut; `ValueError` for a mesh of several dimensions."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError("mesh: expected processes that know each other: call torch.distributed.init_process_group")
    if isinstance(mesh, DeviceMesh):
        if mesh.ndim != 1:
            names = mesh.mesh_dim_names or ()
            one = f", such as mesh[{names[-1]!r}]" if names else ""
            raise ValueError(f"mesh: expected one dimension{one}, got {mesh.ndim} of sizes {tuple(mesh.shape)}")
        return mesh.get_group()
    if mesh is not None and not isinstance(mesh, dist.ProcessGroup):
        raise ValueError(f"mesh: expected a DeviceMesh or a ProcessGroup, got a {type(mesh).__name__}")
    return mesh or dist.distributed_c10d._get_default_group()


def split_sequences(x: Tensor, mesh: Ranks = None, *, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """This rank's part of x (B, T, ...), which every rank has whole, and the offsets of the sequences in it.

    Parts are consecutive and as equal as they can be. Where sequences are packed (B = 1, `cu_seqlens` int32 (S + 1,)),
    one may begin in one part and end in another: the first sequence of a part is always that which the part before
    ended with, without tokens where that one was complete.

    Args:
        x: tokens, targets, or anything with time second.
        mesh: of one dimension, or a group of processes; all of them unless given.
        cu_seqlens: offsets of packed sequences, over all of x.

    Returns:
        (B, T_r, ...) and None, or int32 offsets for the call of the model.

    Raises:
        ValueError: fewer tokens than ranks, offsets that do not end at T, or a mesh of several dimensions.

    Example:
        >>> from seqmix.distributed import split_sequences
        >>> def part(tokens, targets):
        ...     return split_sequences(tokens)[0], split_sequences(targets)[0]
    """
    group = ranks_of(mesh)
    return part_of(x, group.rank(), group.size(), cu_seqlens)


def part_of(x: Tensor, rank: int, ranks: int, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """`split_sequences` for one rank of so many."""
    if x.ndim < 2 or x.shape[1] < ranks:
        raise ValueError(f"x: expected a shape (B, T, ...) with T of at least the {ranks} ranks, got {tuple(x.shape)}")
    ends = [part * x.shape[1] // ranks for part in range(ranks + 1)]
    first, last = ends[rank], ends[rank + 1]
    part = x[:, first:last]
    if cu_seqlens is None:
        return part, None
    if len(x) != 1 or cu_seqlens.ndim != 1 or int(cu_seqlens[-1]) != x.shape[1]:
        raise ValueError(
            f"cu_seqlens: expected offsets that end at T = {x.shape[1]} of one row, got "
            f"{cu_seqlens.tolist()!s:.80} for {tuple(x.shape)}"
        )
    inside = cu_seqlens[(cu_seqlens > first) & (cu_seqlens < last)] - first
    edge = cu_seqlens.new_tensor([0, last - first])
    # On a border the sequence that ended there has no tokens here.
    complete = edge[:1] if rank and bool((cu_seqlens == first).any()) else edge[:0]
    return part, torch.cat((edge[:1], complete, inside, edge[1:]))


def refuse(state: object, lengths: Tensor | None) -> None:
    """`ValueError` for what a call over ranks cannot take."""
    if state is not None or lengths is not None:
        what = "a state" if state is not None else "lengths"
        raise ValueError(f"sequence_parallel: expected a part of whole or packed sequences, got {what}")
