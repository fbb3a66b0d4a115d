"""What every mixer promises, checked for whatever is registered: a mixer added later is tested by being registered.

The checks are those of `seqmix.testing`, which hold for layers outside of this repository as well.
"""

import pytest

from seqmix.mixers import create_mixer, list_mixers
from seqmix.testing import MIXER_CHECKS, Check

MIXERS = list_mixers()


@pytest.mark.parametrize("check", MIXER_CHECKS, ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_contract(name: str, check: Check) -> None:
    check(name)


@pytest.mark.parametrize("name", MIXERS)
def test_an_unknown_argument_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="d_modle"):
        create_mixer(name, 16, d_modle=3)
