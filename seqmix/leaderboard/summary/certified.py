"""What certificates add to tables of runs: columns that are there where runs have been certified or refuted."""

from collections.abc import Sequence
from typing import Any

from seqmix.leaderboard.records.schema import Record

__all__ = ["LEGEND", "answer", "any_asked", "certificate_of", "count"]

LEGEND = (
    "Certified: with every row of gates replaced by its largest the network is proved right for words of every length; "
    "soft gates are proved right up to the length that stands there. "
)


def certificate_of(run: Record) -> dict[str, Any] | None:
    """The summary of its certificate; None where none was asked for, as in a run that failed."""
    return run["result"]["certificate"] if run["status"] == "ok" else None


def any_asked(runs: Sequence[Record]) -> bool:
    """Whether an exact check was made of one of them."""
    return any(certificate_of(run) is not None for run in runs)


def answer(run: Record) -> str:
    """One run's cell: `no`, or `yes` with the length up to which soft gates are proved."""
    certificate = certificate_of(run)
    if certificate is None:
        return ""
    if not certificate["certified"]:
        return "no"
    length = certificate.get("safe_length")
    return "yes" if length is None else f"yes; {length:,}" if isinstance(length, int) else f"yes; {length}"


def count(runs: Sequence[Record]) -> str:
    """`8 of 10`, of all runs; one that failed or diverged is not certified."""
    found = [certificate_of(run) for run in runs]
    return f"{sum(bool(certificate and certificate['certified']) for certificate in found)} of {len(runs)}"
