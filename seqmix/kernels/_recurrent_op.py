"""The one register of recurrent ops: what differs between them is the names and the shapes of their tensors.

Every op takes its tensors, offsets of packed sequences, and options; every backward pass takes the gradients of what
the op returns, what it keeps, the same offsets and the same options.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqmix.kernels._backend import load_kernels
from seqmix.kernels._operator import Operator

__all__ = ["recurrent_op", "recurrent_op_of_kernels", "same", "with_borders"]


def same(*names: str) -> Callable[[dict[str, Any]], list[Tensor]]:
    """Shapes and types as those of the arguments `names`."""
    return lambda given: [torch.empty_like(given[n], memory_format=torch.contiguous_format) for n in names]


def with_borders(
    package: str, values: str, transposed: bool = False, state: str = "initial_state"
) -> Callable[[dict[str, Any]], list[Tensor]]:
    """An output like `values`, the final state, and the states between chunks that the kernels of `package` keep."""

    def fakes(given: dict[str, Any]) -> list[Tensor]:
        inputs, start = given[values].shape, given[state]
        shape = (start.mT if transposed else start).shape[1:]
        room = load_kernels(package, given["backend"]).border_shape(inputs, len(start), shape)
        return [*same(values, state)(given), start.new_empty(room)]

    return fakes


def recurrent_op(
    name: str,
    owner: str,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *,
    inputs: str,
    outputs: str,
    fakes: Callable[[dict[str, Any]], list[Tensor]],
    extra: str = "",
    fixed: str = "",
    kept: str,
    gradients: str | None = None,
    options: str = "",
    values: str | None = None,
    in_place: str | None = None,
) -> Operator:
    """Register `seqmix::<name>` and its backward pass; all arguments are positional and in their final types.

    Args:
        name: without the namespace.
        owner: what messages call it.
        forward: `forward(*inputs, cu_seqlens, *options)` returns outputs and extra.
        backward: `backward(*gradients of outputs, *kept, cu_seqlens, *options)` returns the gradients of the inputs.
        inputs, outputs: names of tensors, separated by spaces.
        fakes: from all arguments by name to tensors like outputs and extra.
        extra: names of what comes behind the outputs and has no gradient.
        fixed: inputs of whole numbers, which have no gradient; the backward pass returns none for them.
        kept: names of what the backward pass needs, among inputs, outputs and extra.
        gradients: which of the backward pass's arguments have the shapes of the inputs, in their order; the inputs.
        options: as in torch's schemas, `"bool gated, str backend"`.
        values: an input (B, T, ...), the first one if None.
        in_place: the input for which kernels on a CPU take `final_like`, a state; see `seqmix.kernels.states_in_place`.
    """
    tensors, results, more, keeps = (names.split() for names in (inputs, outputs, extra, kept))
    differentiable = [tensor for tensor in tensors if tensor not in fixed.split()]
    upstream = [f"d{result}" for result in results]
    chosen = [option.split()[1] for option in options.split(", ") if option]
    tail = ["Tensor? cu_seqlens", *filter(None, options.split(", "))]

    def schema(arguments: list[str], returned: int) -> str:
        typed = ", ".join([f"Tensor {argument}" for argument in arguments] + tail)
        return f"({typed}) -> ({', '.join(['Tensor'] * returned)})"

    place = 0 if values is None else tensors.index(values)
    state = None if in_place is None else tensors.index(in_place)
    op = Operator(name, owner, forward, place, schema(tensors, len(results + more)), state)
    back = Operator(f"{name}_backward", owner, backward, 0, schema(upstream + keeps, len(differentiable)))
    names = [*tensors, "cu_seqlens", *chosen]
    names_back = [*upstream, *keeps, "cu_seqlens", *chosen]
    fake_gradients = same(*(differentiable if gradients is None else gradients.split()))

    op.register_fake(lambda *args: tuple(fakes(dict(zip(names, args, strict=True)))))
    back.register_fake(lambda *args: tuple(fake_gradients(dict(zip(names_back, args, strict=True)))))

    count, named = len(tensors), [*tensors, *results, *more]
    places = [named.index(name) for name in keeps]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        everything = (*inputs[:count], *output)
        ctx.save_for_backward(*[everything[place] for place in places], inputs[count])
        ctx.options = inputs[count + 1 :]
        if more:
            ctx.mark_non_differentiable(*output[len(results) :])

    def run_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = back(*grads[: len(results)], *ctx.saved_tensors, *ctx.options)
        by_name = dict(zip(differentiable, found, strict=True))
        return *(by_name.get(tensor) for tensor in tensors), *[None] * (1 + len(ctx.options))

    op.register_autograd(run_backward, setup_context=setup_context)
    back.once()
    op.backward = back
    return op


def recurrent_op_of_kernels(name: str, package: str, *, owner: str | None = None, **names: Any) -> Operator:
    """`recurrent_op` with the kernels of `package`, whose last option is the backend."""
    options = ", ".join(filter(None, (names.pop("options", ""), "str backend")))

    def forward(*args: Any) -> Any:
        return load_kernels(package, args[-1]).forward(*args[:-1])

    def backward(*args: Any) -> Any:
        return load_kernels(package, args[-1]).backward(*args[:-1])

    return recurrent_op(name, owner or name, forward, backward, options=options, **names)
