"""`python -P -m seqmix.commands.worker`: the process that sweeps fork their runs from, each a `seqmix fit`."""

import os
import sys

from seqmix.commands.train import main as fit
from seqmix.leaderboard.sweep import recorder  # noqa: F401  it takes seconds: before the first fork, not in every run
from seqmix.leaderboard.sweep.worker import ALONE, serve

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Serve until standard input closes. Modules are also found in the folder one is in, unless with `--alone`."""
    if ALONE not in argv and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return serve(fit)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nobody needs what an interpreter with torch in it takes a second to tidy up
