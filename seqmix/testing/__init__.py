"""The contract of `TokenMixer` as checks that run on any layer, one of your own too.

`check_mixer(MyMixer)` runs them all. Under pytest each can be a test:

    @pytest.mark.parametrize("check", MIXER_CHECKS, ids=str)
    def test_my_mixer(check):
        check(MyMixer)

The same checks hold every mixer of the registry to the contract. They run on the CPU.
"""

import fnmatch

import torch

from seqmix._suggest import unknown_name
from seqmix.testing import agreement, mistakes, precision, robustness, values
from seqmix.testing.subject import Check, Factory, Subject

__all__ = ["MIXER_CHECKS", "Check", "check_mixer"]

MIXER_CHECKS: tuple[Check, ...] = (
    *agreement.CHECKS,
    *values.CHECKS,
    *precision.CHECKS,
    *robustness.CHECKS,
    *mistakes.CHECKS,
)
"""Every check of the contract."""


def check_mixer(factory: Factory, d_model: int = 16, *, only: str = "*") -> int:
    """Hold a mixer to the contract; returns how many checks it passed.

    Whole sequence, chunks, single tokens, packed and padded sequences give the same outputs, states and gradients,
    and single tokens also with states in place; causality; independent sequences, also where one is not finite;
    states that are values; linear maps that are called; float64, float32, bfloat16, float16 and autocast to both;
    zero tokens; one graph for all lengths under `torch.compile`; copies; bad input told by name.

    Args:
        factory: called as `factory(d_model, dtype=...)`: a class, a `functools.partial` of one, or a registered name.
        d_model: width to build it with.
        only: shell pattern of the names of checks (`str(check)`), such as `"packed*"`.

    Raises:
        AssertionError: with a line for each check that failed; its cause is the first failure.
        ValueError: no check has such a name, or the factory builds no `TokenMixer`.

    Example:
        >>> from functools import partial
        >>> from seqmix import BDLRU
        >>> from seqmix.testing import check_mixer
        >>> check_mixer(partial(BDLRU, block_size=2), only="causality")
        1
    """
    chosen = [check for check in MIXER_CHECKS if fnmatch.fnmatchcase(check.name, only)]
    if not chosen:
        raise unknown_name("check", only, [check.name for check in MIXER_CHECKS])
    with torch.random.fork_rng(devices=[]):
        Subject.of(factory, d_model).build()
    failures: list[tuple[Check, Exception]] = []
    for check in chosen:
        try:
            check(factory, d_model)
        except Exception as error:  # whatever a layer raises is a finding, and the others are still of interest
            failures.append((check, error))
    if failures:
        lines = [f"{check}: {type(error).__name__}: {_one_line(error)}" for check, error in failures]
        text = f"check_mixer: {len(failures)} of {len(chosen)} checks failed\n  " + "\n  ".join(lines)
        raise AssertionError(text) from failures[0][1]
    return len(chosen)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
