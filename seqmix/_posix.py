"""What Windows does not have, imported everywhere alike: it is missed where it is used, by a sentence."""

from typing import Any

__all__ = ["NotHereError", "fcntl", "resource"]


class NotHereError(NotImplementedError):
    """This system cannot do what was asked."""


class _Missing:
    def __getattr__(self, name: str) -> Any:
        raise NotHereError(
            "sweeps and what adds to files of records need locks and forks, which Linux and macOS have and this system "
            "does not; layers, seqmix fit and test, reports and pages run here"
        )


fcntl: Any
resource: Any
try:
    import fcntl  # type: ignore[no-redef]
    import resource  # type: ignore[no-redef]
except ImportError:
    fcntl = resource = _Missing()
