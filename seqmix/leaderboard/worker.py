"""The process of one run: `seqmix fit` that ends when the sweep that started it does.

The sweep keeps the other end of standard input open. When the sweep dies, however that happens, the pipe closes, and
a run whose result nobody would record stops.
"""

import os
import sys
import threading

__all__ = ["main"]


def main(options: list[str]) -> int:
    """Run `seqmix fit` with these options; returns its exit status."""
    threading.Thread(target=_end_with_sweep, daemon=True).start()
    from seqmix.__main__ import main as seqmix

    return seqmix(["fit", *options])


def _end_with_sweep() -> None:
    # Not sys.stdin: its lock, held by a thread that waits, is an error when the interpreter ends.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
