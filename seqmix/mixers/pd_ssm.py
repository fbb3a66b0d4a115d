"""PD-SSM: a token sends every state somewhere and turns it (Terzic et al. 2025, 2509.22284).

    s_t = softmax(W_s x_t)                           (K,), weights of a dictionary
    M_t = sum over k of s_t[k] M_k                   (N, N), real
    P_t[i, j] = 1 where i = argmax over i of M_t[i, j], else 0      columns are one-hot
    D_t = sigmoid(f(x_t)) exp(2 pi i sigmoid(g(x_t)))               (N,), f and g maps of two layers with GELU
    h_t = P_t (D_t * h_{t-1}) + B x_t                (N,), complex;  h_0 = (1, 0, ..., 0)
    y_t = C [Re h_t, Im h_t] + F * x_t

N states are any automaton of N states: P is its step, and since |D| < 1 nothing grows. Eigenvalues are roots of the
products of D along the cycles of P, and zeros. Parallel form: maps compose as functions, in O(N), which is how a GPU
takes chunks; on a CPU the recurrence itself. State: h, N complex numbers.

The gradient of W_s and of the dictionary is the published one, that of the softmax of each column of M_t in place of
its one-hot vector (`gradient="straight-through"`), so that it is not the derivative of what the layer computes, which
is zero (`gradient="exact"`). The released code for state tracking has one-hot rows, which reads words backwards; here
columns, as in the paper. h_0, the hidden width of f and g of 2 N and the dictionary's size are that code's.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels.gather_scan.selected import select, selected_gather_scan
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, complex_dtype, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class PDSSMState(NamedTuple):
    h: Tensor  # (S, N) complex


@register_mixer("pd-ssm", description="Tokens send states to places: any automaton.", source="2509.22284")
class PDSSM(TokenMixer):
    """PD-SSM.

    Args:
        d_model: width of input and output.
        d_state: N, complex numbers in the state; d_model if None.
        n_transitions: K, matrices in the dictionary.
        gradient: of what selects places, `"straight-through"` or `"exact"`, which is none.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N) complex.

    Raises:
        ValueError: a size below one, or an unknown gradient.

    Example:
        >>> import torch
        >>> from seqmix import PDSSM
        >>> y, state = PDSSM(d_model=64, d_state=32)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 32]))
    """

    State = PDSSMState
    _no_weight_decay = ("F",)

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        n_transitions: int = 8,
        gradient: str = "straight-through",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("PDSSM", "d_state", d_model if d_state is None else d_state)
        self.n_transitions = positive("PDSSM", "n_transitions", n_transitions)
        self.gradient = one_of("PDSSM", "gradient", gradient, ("straight-through", "exact"))
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        states = self.d_state
        self.select_proj = WideLinear(d_model, n_transitions, bias=False, **where)
        self.dictionary = nn.Parameter(torch.empty(n_transitions, states, states, **where))
        self.magnitude, self.phase = (
            nn.Sequential(nn.Linear(d_model, 2 * states, **where), nn.GELU(), WideLinear(2 * states, states, **where))
            for _ in range(2)
        )
        self.in_proj = nn.Linear(d_model, 2 * states, bias=False, **where)  # B x, real and imaginary parts
        self.out_proj = nn.Linear(2 * states, d_model, bias=False, **where)
        self.F = nn.Parameter(torch.empty(d_model, **where))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The dictionary normal of variance 1/N, B of 1/(2 N), F of 1/d; other maps as in `nn.Linear`."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.normal_(self.dictionary, std=self.d_state**-0.5)
        nn.init.normal_(self.in_proj.weight, std=(2 * self.d_state) ** -0.5)
        nn.init.normal_(self.F, std=self.d_model**-0.5)

    def transitions(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, T, K) and the dictionary (K, N, N), real, and D (B, T, N), complex; in at least float32."""
        real = recurrent_dtype(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            weights, dictionary = self.select_proj(x).softmax(-1), self.dictionary.to(real)
        d = torch.polar(self.magnitude(x).sigmoid(), 2 * math.pi * self.phase(x).sigmoid())
        return weights, dictionary, d

    def _write(self, x: Tensor) -> Tensor:
        """B x (B, T, N), complex."""
        return torch.complex(*self.in_proj(x).to(recurrent_dtype(x.dtype)).chunk(2, -1))

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        return self.out_proj(torch.cat((h.real, h.imag), -1).to(x.dtype)) + self.F * x

    def mix(self, x: Tensor, state: PDSSMState, cu_seqlens: Tensor | None) -> tuple[Tensor, PDSSMState]:
        weights, dictionary, d = self.transitions(x)
        straight = self.gradient == "straight-through"
        h, final = selected_gather_scan(
            weights, dictionary, d, self._write(x), initial_state=state.h, cu_seqlens=cu_seqlens,
            straight_through=straight,
        )  # fmt: skip
        return self._output(h, x), PDSSMState(final)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> PDSSMState:
        """The first unit vector, where an automaton begins."""
        device, dtype = self._like(device, dtype)
        h = torch.zeros(batch_size, self.d_state, device=device, dtype=complex_dtype(dtype))
        return PDSSMState(h.index_fill(1, torch.zeros(1, dtype=torch.int64, device=device), 1))

    def state_size(self, sequence_length: int = 1) -> int:
        """2 N: a complex number counts two."""
        return 2 * self.d_state

    def _matrices(self, x: Tensor) -> Tensor:
        """P_t diag(D_t) (B, T, N, N), complex."""
        weights, dictionary, d = self.transitions(x)
        places = nn.functional.one_hot(select(weights, dictionary), self.d_state).mT  # row index[j] of column j
        return places * d.unsqueeze(-2)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, N) of P_t diag(D_t), and `places` (B, T, N), where each state goes."""
        places = select(*self.transitions(x)[:2])
        return {"eigenvalues": torch.linalg.eigvals(self._matrices(x)), "places": places}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values B x_t in C^N, the first with what h_0 becomes; M[t, s] = P_t D_t ... P_{s+1} D_{s+1}."""
        a, v = self._matrices(x), self._write(x)
        v = torch.cat((v[:, :1] + a[:, :1, :, 0], v[:, 1:]), 1)
        write = torch.eye(self.d_state, dtype=a.dtype, device=x.device).expand_as(a)
        return Recurrence(
            v[:, :, None, :, None],
            lambda o: self._output(o[:, :, 0, :, 0], x),
            a.unsqueeze(2),
            write.unsqueeze(2),
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, n_transitions={self.n_transitions}, gradient={self.gradient!r}"
