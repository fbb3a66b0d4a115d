"""What would take more memory than there is, refused by name before any of it is taken."""

import os
from pathlib import Path

__all__ = ["fits", "memory_limit"]

# Of the group of processes that a container is, in its versions 2 and 1.
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> float:
    """Bytes that this process may take: those of the machine, or of its container or its own limit if they are less."""
    known = [float("inf")]
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _GROUPS:
        try:
            known.append(float(Path(name).read_text()))
        except (OSError, ValueError):  # none, or the word for no limit
            continue
    try:
        import resource
    except ImportError:  # Windows
        return min(known)
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(known) if most == resource.RLIM_INFINITY else min(*known, most)


def fits(owner: str, what: str, size: float) -> None:
    """`ValueError` if `what` of so many bytes does not fit into the memory that there is."""
    most = memory_limit()
    if size > most:
        raise ValueError(
            f"{owner}: {what} takes {size / 1e9:.3g} GB, more than the {most / 1e9:.3g} GB of this machine"
        )
