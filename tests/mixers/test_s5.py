"""S5: the conjugate pairs of a real system, and HiPPO's spectrum."""

import pytest
import torch

from seqmix import S5
from seqmix.mixers.s5 import hippo_spectrum


def test_half_of_the_pairs_is_the_whole_real_system():
    """The diagonal system in N/2 complex numbers is the N x N real one that it was made from."""
    torch.manual_seed(0)
    layer, x = S5(6, d_state=8, dt_min=0.05, dt_max=0.05, dtype=torch.float64), torch.randn(1, 7, 6).double()
    spectrum, vectors = hippo_spectrum(8)
    A = 2 * (vectors * spectrum @ vectors.mH).real  # both halves
    B = 2 * (vectors @ torch.view_as_complex(layer.B.detach())).real
    C = 2 * (torch.view_as_complex(layer.C.detach()) @ vectors.mH).real
    step = torch.linalg.matrix_exp(0.05 * A)
    h, rows = torch.zeros(8).double(), []
    for x_t in x[0]:
        h = step @ h + torch.linalg.solve(A, (step - torch.eye(8)) @ (B @ x_t))
        rows.append(C @ h + layer.D * x_t)
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-10)


def test_spectrum_is_that_of_hippos_normal_part():
    i = torch.arange(8, dtype=torch.float64)
    root = (2 * i + 1).sqrt()
    hippo = -torch.tril(root[:, None] * root) + torch.diag(i)
    normal = hippo + root[:, None] * root / 2
    expected = torch.linalg.eigvals(normal)
    expected = expected[expected.imag > 0]
    found, _ = hippo_spectrum(8)
    torch.testing.assert_close(found, expected[expected.imag.argsort()], rtol=1e-9, atol=1e-9)


def test_no_training_takes_it_out_of_the_circle():
    layer = S5(8)
    with torch.no_grad():
        layer.Lambda_re.fill_(3.0)
    assert layer.diagnostics(torch.zeros(1, 1, 8))["eigenvalues"].abs().max() < 1


@pytest.mark.parametrize(("arguments", "match"), [({"d_state": 3}, "even"), ({"lr_factor": 0}, "lr_factor")])
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        S5(4, **arguments)
