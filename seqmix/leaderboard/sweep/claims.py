"""Which process does which run: two sweeps on one file share the work, and no run is done twice at once."""

import os
from pathlib import Path

from seqmix._posix import fcntl

__all__ = ["Claims", "hold"]


class Claims:
    """Locks on runs by their ids, one byte of a lock file each; the kernel drops those of a process that dies.

    Args:
        store: the file of records; the lock file `.NAME.claims` stands beside it.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(f".{store.name}.claims")
        self._descriptor = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, run: str) -> bool:
        """Claim the run with this id; False if another process has it."""
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(run))
            except (BlockingIOError, PermissionError):
                return False
            # A sweep that ended before this one claimed anything may have removed the file.
            if self.path.exists() and os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                return True
            os.close(self._descriptor)
            self._descriptor = self._open()

    def drop(self, run: str) -> None:
        """Let others have it."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _byte(run))

    def close(self) -> None:
        """Drop all claims, and the file if no other process holds any."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.unlink(missing_ok=True)
        except (BlockingIOError, PermissionError):
            pass
        os.close(self._descriptor)


def hold(path: str, run: str) -> None:
    """Hold the run with this id until this process ends; first wait until the one that holds it has.

    A sweep's claim ends with the sweep, and its runs a moment later.
    """
    fcntl.lockf(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), fcntl.LOCK_EX, 1, _byte(run))


def _byte(run: str) -> int:
    return int(run[:15], 16)  # offsets have 63 bits
