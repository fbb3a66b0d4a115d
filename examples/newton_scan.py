# %% [markdown]
# # A non-linear cell for all tokens at once
# `newton_scan` takes any cell from (h, x) to the next h. Here a GRU whose channels see themselves only, as in ParaRNN.

# %%
import torch

from seqmix.kernels import newton_scan

D = 32


class ParaGRU(torch.nn.Module):
    """z, r = sigmoid(a h + B x), n = tanh(a (r h) + B x), h' = (1 - z) h + z n, with a channel's own a."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(scale * torch.randn(3, D))
        self.B = torch.nn.Parameter(torch.randn(3 * D, D) / D**0.5)

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z, r, n = (x @ self.B.T).chunk(3, -1)
        z, r = (z + self.a[0] * h).sigmoid(), (r + self.a[1] * h).sigmoid()
        return (1 - z) * h + z * (n + self.a[2] * (r * h)).tanh()


torch.manual_seed(0)
cell, x, h0 = ParaGRU(0.5), torch.randn(2, 1000, D), torch.zeros(2, D)
solved = newton_scan(cell, x, h0)
print(f"{solved.iterations} iterations, residual {solved.residual:.0e}, looped: {solved.looped}")

# %% [markdown]
# The gradient is that of a loop, and does not go through the iterations.

# %%
h, states = h0, []
for x_t in x.unbind(1):
    h = cell(h, x_t)
    states.append(h)
by_loop = torch.autograd.grad(torch.stack(states, 1).sin().sum(), list(cell.parameters()))
by_newton = torch.autograd.grad(solved.h.sin().sum(), list(cell.parameters()))
print("gradients apart by", max(float((a - b).norm() / b.norm()) for a, b in zip(by_newton, by_loop, strict=True)))

# %% [markdown]
# Iterations to a residual of 1e-12 in double precision, over length and over how much a cell does with its state. Where
# the state of a cell forgets where it began, T does not matter; where it does not, a loop is as good.

# %%


class Dense(torch.nn.Module):
    """h' = tanh(W h + x) with W of a given spectral radius."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        W = torch.randn(8, 8)
        self.W = torch.nn.Parameter(W * radius / torch.linalg.eigvals(W).abs().max())

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (h @ self.W.T + x).tanh()


def parity(h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A sign that a token of 1 turns and one of 0 keeps."""
    return (3 * (1 - 2 * x) * h).tanh()


def iterations(cell, x: torch.Tensor, h0: torch.Tensor, **options) -> str:
    with torch.no_grad():
        solved = newton_scan(cell, x, h0, max_iterations=64, **options)
    return "-" if solved.looped else str(solved.iterations)


LENGTHS = (64, 512, 4096)
torch.set_default_dtype(torch.float64)
rows = {}
for scale in (0.5, 1.0, 2.0, 4.0):
    for name, bound in (("", None), (", bound 1", 1.0)):
        torch.manual_seed(0)
        cell = ParaGRU(scale)
        rows[f"ParaGRU, a of size {scale}{name}"] = [
            iterations(cell, torch.randn(1, T, D), torch.zeros(1, D), bound=bound) for T in LENGTHS
        ]
for name, bound in (("", None), (", bound 1", 1.0)):
    torch.manual_seed(0)
    rows[f"parity{name}"] = [
        iterations(parity, torch.randint(2, (1, T, 1)).double(), torch.ones(1, 1), bound=bound) for T in LENGTHS
    ]
for radius in (0.5, 0.9, 1.3):
    for name, options in (("full", {}), ("diagonal", {"quasi": True})):
        torch.manual_seed(0)
        cell = Dense(radius)
        rows[f"tanh RNN of 8, radius {radius}, {name}"] = [
            iterations(cell, 0.3 * torch.randn(1, T, 8), torch.zeros(1, 8), block_size=8, **options) for T in LENGTHS
        ]
print("| cell |", " | ".join(f"T = {T}" for T in LENGTHS), "|")
print("|---|" + "---|" * len(LENGTHS))
for row, found in rows.items():
    print(f"| {row} |", " | ".join(found), "|")
