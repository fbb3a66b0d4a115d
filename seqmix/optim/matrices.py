"""What our optimizers of matrices share: checks, fused row blocks, row slices that stay in cache, Adam on vectors."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from seqmix._checks import is_whole
from seqmix.optim.base import SLICE, BaseOptimizer, local, never_zero
from seqmix.optim.orthogonal import check_method, orthogonalize

__all__ = ["MatrixOptimizer", "adam_direction", "block_sizes", "row_slices"]


class MatrixOptimizer(BaseOptimizer):
    """Takes parameters with two axes; `row_blocks` of a group says which rows are matrices of their own.

    `row_blocks` is a number of equal blocks (3 for fused query, key and value) or their sizes.
    """

    def _takes_matrices(self, group: dict[str, Any]) -> bool:
        """Whether the parameters of this group must have two axes."""
        return True

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        owner = type(self).__name__
        check_method(owner, group["method"], group["precision"], group["steps"])
        names = group.get("param_names", [""] * len(group["params"]))
        if not self._takes_matrices(group):
            return
        for name, p in zip(names, group["params"], strict=True):
            if p.dim() != 2:
                raise ValueError(
                    f"{owner}: parameters must have two axes, got {name or 'one'} of shape {tuple(p.shape)}; "
                    "create_optimizer gives the rest to AdamW"
                )
            block_sizes(owner, p, group["row_blocks"])

    def _orthogonal(self, directions: Tensor, group: dict[str, Any], scale: Callable[[torch.Size], float]) -> Tensor:
        """U V^T of every block times its scale, in place of `directions` or sharded like them.

        Each rank of a sharded matrix gathers it, computes all of it and keeps its rows.
        """
        whole, start = local(directions), 0
        for size in block_sizes(type(self).__name__, whole, group["row_blocks"]):
            block = whole[start : start + size]
            factor = orthogonalize(block, group["method"], steps=group["steps"], precision=group["precision"])
            block.copy_(factor.mul_(scale(factor.shape)))
            start += size
        if whole is directions:
            return whole
        from torch.distributed.tensor import DTensor, Replicate

        mesh, placements = directions.device_mesh, directions.placements  # type: ignore[attr-defined]
        return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim).redistribute(placements=placements)


def block_sizes(owner: str, matrix: Tensor, row_blocks: Any) -> list[int]:
    """Rows of every block; `ValueError` unless they add up to the matrix's."""
    rows = matrix.size(0)
    if is_whole(row_blocks) and rows % row_blocks == 0:
        return [rows // row_blocks] * row_blocks
    sizes = list(row_blocks) if isinstance(row_blocks, list | tuple) else []
    if sizes and all(isinstance(n, int) and n > 0 for n in sizes) and sum(sizes) == rows:
        return sizes
    raise ValueError(
        f"{owner}: row_blocks must be a divisor of {rows} rows or sizes that add up to it, got {row_blocks!r}"
    )


def row_slices(matrix: Tensor) -> Iterator[Any]:
    """Slices of rows: on a CPU of a size that keeps temporaries in cache, elsewhere all."""
    rows, columns = matrix.shape
    if matrix.device.type != "cpu" or hasattr(matrix, "full_tensor"):
        yield ...
        return
    step = max(1, SLICE // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def adam_direction(state: dict[str, Any], key: str, grad: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's bias-corrected m / (sqrt(v) + eps) for a vector; moments in `state[key_mean]`, `state[key_square]`."""
    count = int(state["step"])
    mean, square = state[f"{key}_mean"], state[f"{key}_square"]
    mean.lerp_(grad, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    root = (square / (1 - betas[1] ** count)).sqrt_().add_(never_zero(eps, grad.dtype))
    return mean / (1 - betas[0] ** count) / root
