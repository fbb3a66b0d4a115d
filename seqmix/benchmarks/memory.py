"""Where results are written: the C library maps fresh pages for every large tensor, unless it is told to keep them."""

import ctypes
import sys

MODES = ("system", "kept")

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def use(mode: str) -> None:
    """`"kept"`: freed memory stays with the process and is reused, for all contestants alike; not undone.

    Mapping and clearing pages takes as long as the arithmetic of an elementwise op, or longer. With `"system"` times
    are what users get by default; with `"kept"` they are those of the code alone.
    """
    if mode not in MODES:
        raise ValueError(f"--memory must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "system":
        return
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        raise ValueError(f"--memory kept needs the GNU C library, got {sys.platform}")
    largest = 2**31 - 1
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, largest), (_TOP_PAD, 2**28)):
        library.mallopt(parameter, value)
