"""`check_mixer` passes a layer that keeps the contract and names what a layer breaks: mistakes are planted."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from seqmix.kernels import diagonal_scan, gated_linear_attention
from seqmix.mixers import TokenMixer, list_mixers
from seqmix.mixers.base import recurrent_dtype
from seqmix.mixers.state import mixer_state
from seqmix.testing import MIXER_CHECKS, check_mixer


@mixer_state
class DecayState(NamedTuple):
    h: Tensor  # (S, d_model)


class Decay(TokenMixer):
    """h_t = sigmoid(W_a x_t) h_{t-1} + W_v x_t, y = h: nothing more than the contract asks for."""

    State = DecayState

    def __init__(self, d_model: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(d_model)
        self.proj = nn.Linear(d_model, 2 * d_model, device=device, dtype=dtype)

    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        a, v = self.proj(x).chunk(2, -1)
        a = a.to(recurrent_dtype(a.dtype)).sigmoid()
        h, final = diagonal_scan(a, v, initial_state=state.h, cu_seqlens=cu_seqlens)
        return h.to(x.dtype), DecayState(final)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> DecayState:
        device, dtype = self._like(device, dtype)
        return DecayState(torch.zeros(batch_size, self.d_model, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        return self.d_model


class Forgets(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(x, DecayState(torch.zeros_like(state.h)), cu_seqlens)


class LooksAhead(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(x + x.mean(1, keepdim=True), state, cu_seqlens)


class RunsOverBounds(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        if cu_seqlens is None:
            return super().mix(x, state, None)
        y, _ = super().mix(x, DecayState(state.h[:1]), None)
        return y, super().mix(x, state, cu_seqlens)[1]


class WritesIntoItsState(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        y, final = super().mix(x, state, cu_seqlens)
        with torch.no_grad():
            state.h.copy_(final.h)
        return y, final


class CutsTheGradient(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(x, DecayState(state.h.detach()), cu_seqlens)


class MixesTheBatch(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(x - x.mean(0, keepdim=True), state, cu_seqlens)


class MiscountsItsState(Decay):
    def state_size(self, sequence_length: int = 1) -> int:
        return self.d_model + sequence_length


class TakesAnything(Decay):
    def forward(
        self, x: Tensor, state: DecayState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, DecayState]:
        return self.mix(x, self.init_state(len(x)) if state is None else state, cu_seqlens)


class DecaysInHalf(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        y, final = super().mix(x, DecayState(state.h.bfloat16().to(state.h.dtype)), cu_seqlens)
        return y, DecayState(final.h)


class DividesByTheLength(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(nn.functional.normalize(x, dim=-1), state, cu_seqlens)


class GrowsOverZeros(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        zero = (x == 0).all(-1, keepdim=True)
        h, final = diagonal_scan(torch.where(zero, 1.3, 0.5).expand_as(x).to(state.h.dtype), x, initial_state=state.h)
        return h.to(x.dtype), DecayState(final)


class SpreadsPoison(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        return super().mix(x + 0 * x.sum((0, 1)), state, cu_seqlens)


class ReadsItsStateTwice(Decay):
    def mix(self, x: Tensor, state: DecayState, cu_seqlens: Tensor | None) -> tuple[Tensor, DecayState]:
        one, S = x.new_ones(*x.shape[:2], 1, 1), state.h[:, None, None]
        for _ in range(2):
            y, final = gated_linear_attention(one, one, x[:, :, None], initial_state=S, cu_seqlens=cu_seqlens)
        return y[:, :, 0].to(x.dtype), DecayState(final[:, 0, 0])


def test_a_layer_that_keeps_the_contract_passes_all_of_it() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert check_mixer(Decay) == len(MIXER_CHECKS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (Forgets, "whole-equals*", "differs by"),
        (LooksAhead, "causality", "Tensor-likes are not close"),
        (RunsOverBounds, "packed-equals-separate*", "packed: y differs by"),
        (WritesIntoItsState, "states-are-values", "a state was changed in place"),
        (CutsTheGradient, "gradients-agree-with-finite-differences", "not close"),
        (MixesTheBatch, "sequences-of-a-batch*", "not close"),
        (MiscountsItsState, "state-size*", "state_size(6) is 22, the state holds 16"),
        (TakesAnything, "bad-input*", "bad-input-is-named[T = 0]: AssertionError: expected a ValueError"),
        (DecaysInHalf, "whole-equals*", "y differs by"),
        (DividesByTheLength, "zeros-are-harmless*", "with normal tokens"),
        (GrowsOverZeros, "zeros-are-harmless*", "they grow with the zeros"),
        (ReadsItsStateTwice, "steps-in-place*", "not close"),
        (SpreadsPoison, "a-poisoned-sequence*", "inf in x reaches y of other sequences"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_broken_promise_is_named(broken: type[TokenMixer], check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=r"^check_mixer: \d+ of \d+ checks failed\n") as failure:
        check_mixer(broken, only=check)
    text = str(failure.value)
    assert message in text and check.removesuffix("*") in text
    assert failure.value.__cause__ is not None


def test_a_check_is_a_test_by_itself_and_takes_registered_names() -> None:
    (causality,) = [check for check in MIXER_CHECKS if str(check) == "causality"]
    causality(list_mixers()[0])
    causality(Decay, d_model=5)
    with pytest.raises(AssertionError):
        causality(LooksAhead)
    assert len({str(check) for check in MIXER_CHECKS}) == len(MIXER_CHECKS)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="unknown check 'causalty'; did you mean 'causality'"):
        check_mixer(Decay, only="causalty")
    with pytest.raises(ValueError, match="factory must build a TokenMixer, got a Linear"):
        check_mixer(lambda d_model, dtype: nn.Linear(d_model, d_model, dtype=dtype))
    with pytest.raises(ValueError, match="unknown mixer"):
        check_mixer("mambo")
    with pytest.raises(ValueError, match="factory must be the name of a mixer or take"):
        check_mixer(3)  # type: ignore[arg-type]
