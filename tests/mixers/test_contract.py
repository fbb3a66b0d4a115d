"""What every mixer promises, checked for whatever is registered: a mixer added later is tested by being registered.

The checks are those of `seqmix.testing`, which hold for layers outside of this repository as well.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from seqmix.mixers import create_mixer, list_mixers
from seqmix.testing import MIXER_CHECKS, Check

MIXERS = list_mixers()


# Published layers that break a promise, and why.
KNOWN = {
    # With the published eps the norm brings y back to unit size at every zero token, and b, c and Q see that y, so a
    # run of zeros is a recurrence of its own that does not forget. With none of them it is harmless: test_zeros.py.
    ("fp-mamba", "zeros-are-harmless"): "published: y keeps its size over zeros, and b, c, Q see it",
    # With gradient="exact" it is the derivative, and nothing learns where states go: test_pd_ssm.py.
    ("pd-ssm", "gradients-agree-with-finite-differences"): "published: the straight-through gradient is no derivative",
}
# Compiling takes ten seconds: one layer of each op by default, the others among the slow tests.
COMPILED = ("lru", "bd-lru", "h-lru", "mamba", "gla", "deltanet", "kda", "pd-ssm", "fp-rnn", "fp-mamba", "attention")


def cases() -> Iterator[Any]:
    for name in MIXERS:
        for check in MIXER_CHECKS:
            reason = KNOWN.get((name, str(check).partition("[")[0]))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            marks += [pytest.mark.slow] if str(check).startswith("compiles") and name not in COMPILED else []
            yield pytest.param(name, check, id=f"{name}-{check}", marks=marks)


@pytest.mark.parametrize(("name", "check"), list(cases()))
def test_contract(name: str, check: Check) -> None:
    check(name)


@pytest.mark.parametrize("name", MIXERS)
def test_an_unknown_argument_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="d_modle"):
        create_mixer(name, 16, d_modle=3)
