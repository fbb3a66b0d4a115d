"""States that travel from one rank to the next, and their gradients back.

A message is the state's leaves, one after the other, behind a line of numbers that says their shapes: some states grow.
Sends do not wait; a message is kept until the one after it is begun.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Neighbours", "gather", "of_all", "receive", "send"]


class Neighbours:
    """The ranks before and after this one in a group, and what is on its way to them."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        rank = group.rank()
        self.group = group
        self.before, self.after = rank - 1, rank + 1
        self.first, self.last = rank == 0, rank + 1 == group.size()
        self._going: dict[int, list[tuple[Any, Tensor]]] = {}

    def send(self, leaves: Sequence[Tensor], to: int) -> None:
        for work, _ in self._going.pop(to, ()):
            work.wait()
        kept = [_real(leaf.detach()).contiguous() for leaf in leaves if leaf.numel()]
        self._going[to] = [(dist.isend(leaf, group=self.group, group_dst=to), leaf) for leaf in kept]

    def receive(self, like: Sequence[Tensor], source: int) -> list[Tensor]:
        """Leaves of the shapes and types of `like`."""
        found = []
        for leaf in like:
            part = torch.empty_like(_real(leaf), memory_format=torch.contiguous_format)
            if part.numel():
                dist.recv(part, group=self.group, group_src=source)
            found.append(torch.view_as_complex(part) if leaf.is_complex() else part)
        return found

    def send_shaped(self, leaves: Sequence[Tensor], to: int) -> None:
        sizes = [size for leaf in leaves for size in leaf.shape]
        self.send([torch.tensor(sizes, dtype=torch.int64, device=leaves[0].device), *leaves], to)

    def receive_shaped(self, like: Sequence[Tensor], source: int) -> list[Tensor]:
        """Leaves of the dimensions, types and device of `like`, in the shapes that come."""
        count = sum(leaf.ndim for leaf in like)
        (sizes,) = self.receive([torch.empty(count, dtype=torch.int64, device=like[0].device)], source)
        left = sizes.tolist()
        return self.receive([leaf.new_empty([left.pop(0) for _ in range(leaf.ndim)]) for leaf in like], source)


def _real(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf) if leaf.is_complex() else leaf


def _differentiable(leaves: Sequence[Tensor]) -> list[int]:
    return [n for n, leaf in enumerate(leaves) if leaf.is_floating_point() or leaf.is_complex()]


class _Receive(torch.autograd.Function):
    """x as it is, and the leaves from the rank before; backward their gradients go there.

    x passes through, so that the backward pass comes by whether the state is used or not; `always` requires a gradient.
    """

    @staticmethod
    def forward(ctx: Any, always: Tensor, x: Tensor, neighbours: Neighbours, *like: Tensor) -> Any:
        ctx.neighbours = neighbours
        leaves = neighbours.receive_shaped(like, neighbours.before)
        ctx.moving = _differentiable(leaves)
        ctx.mark_non_differentiable(*(leaf for n, leaf in enumerate(leaves) if n not in ctx.moving))
        return (x.view_as(x), *leaves)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor, *gradients: Tensor) -> Any:
        ctx.neighbours.send([gradients[n] for n in ctx.moving], ctx.neighbours.before)
        return (None, dx if ctx.needs_input_grad[1] else None, None, *(None for _ in gradients))


class _Send(torch.autograd.Function):
    """y as it is; the leaves go to the rank after, whose gradients for them come back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, neighbours: Neighbours, *leaves: Tensor) -> Tensor:
        ctx.neighbours, ctx.moving, ctx.count = neighbours, _differentiable(leaves), len(leaves)
        neighbours.send_shaped(leaves, neighbours.after)
        ctx.save_for_backward(*(leaves[n] for n in ctx.moving))
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        found = ctx.neighbours.receive(ctx.saved_tensors, ctx.neighbours.after)
        gradients: list[Tensor | None] = [None] * ctx.count
        for n, gradient in zip(ctx.moving, found, strict=True):
            gradients[n] = gradient
        return (dy, None, *gradients)


def receive(x: Tensor, like: Sequence[Tensor], neighbours: Neighbours) -> tuple[Tensor, list[Tensor]]:
    """x, and the state's leaves from the rank before, of the types of `like`."""
    always = torch.zeros((), device=x.device, requires_grad=torch.is_grad_enabled())
    x, *leaves = _Receive.apply(always, x, neighbours, *like)
    return x, leaves


def send(y: Tensor, leaves: Sequence[Tensor], neighbours: Neighbours) -> Tensor:
    """y, when the state's leaves are on their way to the rank after."""
    return _Send.apply(y, neighbours, *leaves)


def of_all(message: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The messages (n,) of all ranks, (R, n), without gradients."""
    parts = [torch.empty_like(message) for _ in range(group.size())]
    dist.all_gather(parts, message.contiguous(), group=group)
    return torch.stack(parts)


class _Gather(torch.autograd.Function):
    """`carried` as it is, and the messages (n,) of all ranks, (R, n).

    What is carried goes on to the loss on every rank, so that all come by in the backward pass, in one order.
    """

    @staticmethod
    def forward(ctx: Any, always: Tensor, carried: Tensor, message: Tensor, group: dist.ProcessGroup) -> Any:
        ctx.group = group
        return carried.view_as(carried), of_all(message, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_carried: Tensor, d_messages: Tensor) -> Any:
        d_messages = d_messages.contiguous()
        dist.all_reduce(d_messages, group=ctx.group)
        return None, d_carried, d_messages[ctx.group.rank()], None


def gather(carried: Tensor, message: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """`carried`, which must go on to the loss, and the messages (n,) of all ranks, (R, n), with gradients."""
    always = torch.zeros((), device=message.device, requires_grad=torch.is_grad_enabled())
    return _Gather.apply(always, carried, message, group)
