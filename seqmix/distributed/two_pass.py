"""Scans over ranks in two passes: every rank scans its part at once, transitions are exchanged, and it scans again.

A scan is linear in its state, over part r of the sequence

    s_r = P_r s_{r-1} + z_r

with z_r the state from zero and P_r the product of the part's transitions, which the same scan gives for unit states
and values of zero. All ranks exchange (P_r, z_r), each forms s_{r-1} from those before it, and its second pass begins
there. A rank scans twice, and for P_r once more: diagonal transitions as a scan of one value, an m x m one as m of
them, one of K keys as a scan of K values. Nothing waits for the rank before, whatever the number of layers and ranks.

The window of a convolution is the last tokens of the part before, an angle adds up, and attention sees the keys and
values of all ranks before (`gathered`). Where sequences are packed, the first of a part begins with s_{r-1}, and a part
that holds the end of one hands on the state of its last.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from seqmix.distributed import gathered
from seqmix.distributed.messages import gather
from seqmix.distributed.split import refuse
from seqmix.kernels._handing import handing
from seqmix.mixers import TokenMixer

__all__ = ["ScanTwice", "Scanning"]

Op = Callable[..., Any]


class Exchange(NamedTuple):
    """What an op's parts have to do with one another: P = `transition(run, args, state)`, and `apply(P, s)`.

    `shape` is that of P, by that of the state.
    """

    transition: Callable[[Op, tuple[Any, ...], Tensor], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]
    shape: Callable[[torch.Size], tuple[int, ...]] = tuple


def _with(args: tuple[Any, ...], place: int, value: Tensor) -> tuple[Any, ...]:
    return (*args[:place], value, *args[place + 1 :])


def _elementwise(values: int) -> Exchange:
    """Every number of the state by itself."""

    def transition(run: Op, args: tuple[Any, ...], state: Tensor) -> Tensor:
        return run(*_with(args, values, torch.zeros_like(args[values])), initial_state=torch.ones_like(state))[1]

    return Exchange(transition, torch.mul)


def _by_key(run: Op, args: tuple[Any, ...], state: Tensor) -> Tensor:
    """Of gated linear attention: P (B, H, K, 1), the same for every value."""
    one = torch.zeros_like(args[2][..., :1])
    return run(*_with(args, 2, one), initial_state=torch.ones_like(state[..., :1]))[1]


def _over_keys(run: Op, args: tuple[Any, ...], state: Tensor) -> Tensor:
    """Of the delta rules: P (B, H, K, K), as many values as keys from the unit matrix."""
    keys = state.shape[-2]
    values = args[2].new_zeros(*args[2].shape[:-1], keys)
    unit = torch.eye(keys, dtype=state.dtype, device=state.device).expand(*state.shape[:-1], keys)
    return run(*_with(args, 2, values), initial_state=unit)[1]


def _by_block(run: Op, args: tuple[Any, ...], state: Tensor) -> Tensor:
    """Of blocks and orders: P (B, N, m, m), m unit states as so many batches."""
    m = state.shape[-1]
    gates, values = (x.expand(m, *x.shape).flatten(0, 1) for x in (args[0], torch.zeros_like(args[1])))
    unit = torch.eye(m, dtype=state.dtype, device=state.device)  # (m, m): row j is unit j
    units = unit[:, None, None].expand(m, *state.shape).flatten(0, 1)
    found: Tensor = run(gates, values, *args[2:], initial_state=units)[1]
    return found.unflatten(0, (m, -1)).movedim(0, -1)


def _adding_up(run: Op, args: tuple[Any, ...], state: Tensor) -> Tensor:
    """Of angles."""
    return torch.ones_like(state)


def _of_block(p: Tensor, state: Tensor) -> Tensor:
    return (p @ state[..., None])[..., 0]


EXCHANGES = {
    "diagonal_scan": _elementwise(1),
    "selective_scan": _elementwise(0),
    "gated_linear_attention": Exchange(_by_key, torch.mul, lambda s: (*s[:-1], 1)),
    **dict.fromkeys(("delta_rule", "dplr_delta_rule"), Exchange(_over_keys, torch.matmul, lambda s: (*s[:-1], s[-2]))),
    **dict.fromkeys(
        ("block_scan", "gated_block_scan", "higher_order_scan", "gated_higher_order_scan"),
        Exchange(_by_block, _of_block, lambda s: (*s, s[-1])),
    ),
    "selective_rotary": Exchange(_adding_up, torch.mul),
}


class ScanTwice:
    """The handler of scans (`seqmix.kernels._handing`) of one rank."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.rank, self.ranks = group, group.rank(), group.size()

    def __call__(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (other := gathered.OPS.get(op.__name__)) is not None:
            return other(self.group, self.rank, op, args, kwargs)
        if op.__name__ not in EXCHANGES or kwargs.get("initial_state") is None:
            raise ValueError(
                f"sequence_parallel: {op.__name__} without a state that it can hand on, in a layer of scans"
            )
        exchange, cu_seqlens = EXCHANGES[op.__name__], kwargs.get("cu_seqlens")
        begin = kwargs.pop("initial_state")
        kwargs.setdefault("cu_seqlens", None)
        run = partial(op, **kwargs)
        with handing(None):
            # The first sequence goes on from the rank before: so far from nothing.
            first = begin if self.rank == 0 else torch.cat((torch.zeros_like(begin[:1]), begin[1:]))
            if cu_seqlens is None and self.rank:
                first = torch.zeros_like(begin)
            out, final = run(*args, initial_state=first)
            ends = final if cu_seqlens is None else final[-1:]
            goes_on = cu_seqlens is None or len(cu_seqlens) == 2  # one sequence from end to end
            product = self._product(exchange, op, args, kwargs, ends) if goes_on else None
            alone = self.rank == 0
            carried = _first(out) if alone else args[0]
            carried, before = self._before(exchange, carried, product, ends)
            if alone:
                return _with_first(out, carried), final
            state = before if cu_seqlens is None else torch.cat((before, begin[1:]))
            return run(carried, *args[1:], initial_state=state)

    def _product(
        self, exchange: Exchange, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor
    ) -> Tensor | None:
        # Before the first rank is nothing, and the last hands nothing on.
        if self.rank in (0, self.ranks - 1):
            return None
        rest = {key: value for key, value in kwargs.items() if key != "cu_seqlens"}
        return exchange.transition(partial(op, **rest), args, state)

    def _before(
        self, exchange: Exchange, carried: Tensor, product: Tensor | None, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`carried`, and the state that this rank begins with."""
        if product is None:  # a sequence that begins here keeps nothing of the one before
            product = ends.new_zeros(exchange.shape(ends.shape))
        message = torch.cat([_real(product).flatten(), _real(ends).flatten()])
        carried, messages = gather(carried, message, self.group)
        size = _real(product).numel()
        state = torch.zeros_like(ends)
        for message in messages[: self.rank]:
            p, z = _like(message[:size], product), _like(message[size:], ends)
            state = exchange.apply(p, state) + z
        return carried, state


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _with_first(out: Any, first: Tensor) -> Any:
    return (first, *out[1:]) if isinstance(out, tuple) else first


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _like(flat: Tensor, like: Tensor) -> Tensor:
    if like.is_complex():
        return torch.view_as_complex(flat.view(*like.shape, 2))
    return flat.view(like.shape)


class Scanning:
    """The forward method of a mixer whose scans go over all ranks."""

    def __init__(self, mixer: TokenMixer, twice: ScanTwice) -> None:
        self.plain, self.twice = mixer.forward, twice

    @torch.compiler.disable
    def __call__(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        refuse(state, lengths)
        with handing(self.twice):
            y, end = self.plain(x, cu_seqlens=cu_seqlens)
        return y, end if cu_seqlens is None else end.select(-1)
