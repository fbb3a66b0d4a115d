"""`python -P -m seqmix.commands.worker`: the process that sweeps fork their runs from, each a `seqmix fit`."""

import os
import sys
from pathlib import Path
from typing import Any

from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.leaderboard.sweep import recorder  # noqa: F401  it takes seconds: before the first fork, not in every run
from seqmix.leaderboard.sweep.worker import ALONE, serve
from seqmix.training.request import Request
from seqmix.training.running import run

__all__ = ["fit", "main"]


@exits()
def fit(what: dict[str, Any]) -> int:
    """`seqmix fit` of settings that were planned, in the folder of their run; returns the exit status."""
    import_trusted(what["trust"])
    return run(Request.of("fit", what["settings"], name=what["name"], folder=Path(what["run"])))


def main(argv: list[str]) -> int:
    """Serve until standard input closes. Modules are also found in the folder one is in, unless with `--alone`."""
    if ALONE not in argv and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return serve(fit)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # nobody needs what an interpreter with torch in it takes a second to tidy up
