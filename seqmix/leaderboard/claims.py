"""Which process does which run: two sweeps on one file share the work."""

import fcntl
import os
from pathlib import Path

__all__ = ["Claims"]


class Claims:
    """Locks on runs by their ids, one byte of a lock file each; the kernel drops those of a process that dies.

    Args:
        store: the file of records; the lock file `.NAME.claims` stands beside it.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(f".{store.name}.claims")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, run: str) -> bool:
        """Claim the run with this id; False if another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(run))
        except (BlockingIOError, PermissionError):
            return False
        return True

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


def _byte(run: str) -> int:
    return int(run[:15], 16)  # offsets have 63 bits
