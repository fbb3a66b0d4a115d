"""The contract that every token mixer keeps."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels._invariant import is_batch_invariant
from seqmix.kernels.checks import check_cu_seqlens, describe, n_sequences
from seqmix.mixers._padding import check_lengths, in_one_row, out_of_the_row
from seqmix.mixers.forms import LinearForm
from seqmix.mixers.state import Device, DType

__all__ = ["TokenMixer"]


class TokenMixer(nn.Module):
    """Maps x (B, T, d_model) and a state to y (B, T, d_model) and the state after the last token.

    A subclass sets `State`, and defines `mix`, `init_state` and `state_size`. `mix` is the only code path: a whole
    sequence, a chunk of one, one token (`step`) and packed sequences all run through it, so they agree.

    Shapes: B >= 0 batch, T >= 1 time, S sequences (B, or the number of packed ones: `cu_seqlens` has S + 1 offsets and
    B must be 1). States have leading size S.
    """

    State: ClassVar[Any]
    # Whether nothing reads the state but scans of `seqmix.kernels`, linear in it, windows and keys of attention: then
    # sequences that are cut over ranks need not wait for one another (`seqmix.distributed.two_pass`).
    only_scans: ClassVar[bool] = False
    # Why a sequence has other bits in parts, or beside others, even in `seqmix.kernels.batch_invariant`.
    varies_when_cut: str = ""
    varies_in_batch: str = ""

    # Names of this module's own parameters that must not decay, and factors on the learning rate of others.
    # They are names because attributes set on tensors vanish under deepcopy and sharding.
    _no_weight_decay: tuple[str, ...] = ()
    _lr_scale: dict[str, float]

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = positive(type(self).__name__, "d_model", d_model)
        self._lr_scale = {}

    def mix(self, x: Tensor, state: Any, cu_seqlens: Tensor | None) -> tuple[Tensor, Any]:
        """y and the new state from checked arguments; `state` is never None."""
        raise NotImplementedError(f"{type(self).__name__} does not define mix(x, state, cu_seqlens)")

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> Any:
        """The state before the first token; `dtype` is the activations', defaults are the parameters' own."""
        raise NotImplementedError(f"{type(self).__name__} does not define init_state")

    def state_size(self, sequence_length: int = 1) -> int:
        """Real numbers kept per sequence after `sequence_length` tokens; a complex number counts two."""
        raise NotImplementedError(f"{type(self).__name__} does not define state_size")

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """What can be looked at inside the layer for x (B, T, d_model): `eigenvalues` where they exist."""
        return {}

    def linear_form(self, x: Tensor) -> LinearForm:
        """The linear map that the layer is on x (B, T, d_model), its gates given, for `seqmix.inspect`."""
        raise ValueError(
            f"linear_form: {type(self).__name__} has no mixing matrix: it is not linear in its values, or does not "
            "define linear_form(x)"
        )

    def mix_padded(self, x: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
        """`mix` for sequences that are padded at the end, with the state of the last token that is none.

        Each sequence and its padding are two packed ones.
        """
        row, offsets, twice = in_one_row(x, lengths)
        y, state = self.mix(row, state.select(twice), offsets)
        return out_of_the_row(y, len(x)), state.select(torch.arange(0, 2 * len(x), 2, device=x.device))

    def forward(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """y (B, T, d_model) and the state after the last token of each sequence.

        `cu_seqlens` are int32 offsets (S + 1,) of sequences packed along T, with B = 1; `lengths`, int64 (B,), are
        those of sequences that are padded at the end, where y means nothing.

        Raises `ValueError` for an x, a state, offsets or lengths that do not fit this layer.
        """
        name = type(self).__name__
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"{name}: x must have shape (B, T, d_model = {self.d_model}), got {describe(x)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: x must be real floating, got {describe(x)}")
        if x.shape[1] == 0:
            raise ValueError(f"{name}: x must hold at least one token, got T = 0")
        self._check_against_parameters(x)
        check_cu_seqlens(name, cu_seqlens, x.shape[0], x.device)
        check_lengths(name, lengths, x, cu_seqlens)
        sequences, given = n_sequences(x.shape[0], cu_seqlens), state
        if state is None:
            state = self.init_state(sequences, device=x.device, dtype=x.dtype)
        else:
            self._check_state(state, sequences, x.device)
        if is_batch_invariant():
            self._check_same_bits(given is None)
        return self.mix(x, state, cu_seqlens) if lengths is None or not len(x) else self.mix_padded(x, state, lengths)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token: x (B, d_model) to y (B, d_model); exactly `forward` with T = 1."""
        if not isinstance(x, Tensor) or x.ndim != 2:
            raise ValueError(
                f"{type(self).__name__}.step: x must have shape (B, d_model = {self.d_model}), got {describe(x)}"
            )
        y, state = self(x.unsqueeze(1), state)
        return y.squeeze(1), state

    def _check_against_parameters(self, x: Tensor) -> None:
        # Without those that are quantised: their types say nothing about x. A walk over all of them is a tenth of a
        # decoded token, so it ends where one agrees.
        parameters = (p for p in self.parameters() if p.is_floating_point())
        if (first := next(parameters, None)) is None:
            return
        name = type(self).__name__
        if first.device != x.device:
            raise ValueError(f"{name}: x must be on {first.device} like the parameters, got {x.device}")
        # Some mixers keep a few parameters in float32 beside low precision; autocast mixes types on purpose.
        if first.dtype == x.dtype or any(p.dtype == x.dtype for p in parameters):
            return
        if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
            raise ValueError(f"{name}: x must be {first.dtype} like the parameters, got {x.dtype}")

    def _check_same_bits(self, whole: bool) -> None:
        for module in self.modules():
            varies = getattr(module, "varies_in_batch", "")
            if reason := varies or ("" if whole else getattr(module, "varies_when_cut", "")):
                what = "is not for this layer" if varies else "takes whole sequences alone"
                raise NotImplementedError(f"{type(self).__name__}: batch_invariant {what}: {reason}")

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        name = type(self).__name__
        if not isinstance(state, self.State):
            raise ValueError(f"{name}: state must be a {self.State.__name__}, got a {type(state).__name__}")
        for field, leaf in zip(state._fields, state, strict=True):
            if not isinstance(leaf, Tensor) or leaf.ndim == 0:
                raise ValueError(f"{name}: state.{field} must be a tensor, sequences first, got {describe(leaf)}")
            if leaf.shape[0] != sequences:
                raise ValueError(
                    f"{name}: state.{field} must hold {sequences} sequences, got {leaf.shape[0]} "
                    f"(shape {tuple(leaf.shape)})"
                )
            if leaf.device != device:
                raise ValueError(f"{name}: state.{field} must be on {device} like x, got {leaf.device}")

    def _like(self, device: torch.device | str | None, dtype: torch.dtype | None) -> tuple[Any, torch.dtype]:
        """`device` and `dtype` with the parameters' own filled in; float32 on the CPU where all are quantised."""
        own = next((p for p in self.parameters() if p.is_floating_point()), None)
        if own is None:
            return device or "cpu", dtype or torch.float32
        return device or own.device, dtype or own.dtype


def one_of(owner: str, name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value` if it is among `choices`, else a `ValueError` that lists them."""
    if value not in choices:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def recurrent_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real type of a recurrent state beside activations of `dtype`: float32, or float64 for double."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def complex_dtype(dtype: torch.dtype) -> torch.dtype:
    """The complex type of a recurrent state beside activations of `dtype`: complex64, or complex128 for double."""
    # Not `.to_complex()`, which torch.compile cannot trace.
    return torch.complex128 if recurrent_dtype(dtype) == torch.float64 else torch.complex64


def check_steps(owner: str, dt_min: float, dt_max: float) -> None:
    """`ValueError` unless 0 < `dt_min` <= `dt_max`, the range of a continuous system's steps at initialisation."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"{owner}: dt_min and dt_max must obey 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
