"""The process that runs `seqmix fit` for a sweep: it imports everything once and forks into each run.

Lines of JSON come in, `{"start": n, "options": [...], "stdout": path, "stderr": path}` and `{"stop": n}`, and go out,
`{"ended": n, "status": s}` with the exit status, or minus the signal. When standard input closes, which it does however
the sweep ends, the runs that go on are killed: nobody would record what came of them.
"""

import ctypes
import json
import os
import selectors
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn, TextIO

__all__ = ["main"]

_POLL = 0.05  # seconds between looks at what has ended
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


def main() -> int:
    """Serve until standard input closes."""
    # What libraries print is no answer: standard output becomes the log that standard error is.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from seqmix.leaderboard import recorder  # noqa: F401  what takes seconds, before the first fork

    runs: dict[int, int] = {}  # process of each run
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            if selector.select(_POLL):
                read = os.read(0, 1 << 16)
                if not read:
                    break
                *lines, buffer = (buffer + read).split(b"\n")
                for line in lines:
                    _do(json.loads(line), runs, answers)
            for number, process in list(runs.items()):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    del runs[number]
                    with suppress(BrokenPipeError):
                        print(json.dumps({"ended": number, "status": os.waitstatus_to_exitcode(status)}), file=answers)
    for process in runs.values():
        _kill(process)
        os.waitpid(process, 0)
    return 0


def _do(order: dict[str, Any], runs: dict[int, int], answers: TextIO) -> None:
    if "stop" in order:
        if order["stop"] in runs:
            _kill(runs[order["stop"]])
        return
    server = os.getpid()
    process = os.fork()
    if process == 0:
        answers.close()
        _become(order, server)
    runs[order["start"]] = process


def _become(order: dict[str, Any], server: int) -> NoReturn:
    """The run itself, in the forked process; never returns."""
    status = 1
    try:
        os.setsid()
        if sys.platform == "linux":  # elsewhere a server that is killed outright leaves its runs behind
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != server:
                os._exit(1)
        for descriptor, path in ((0, os.devnull), (1, order["stdout"]), (2, order["stderr"])):
            opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
        from seqmix.__main__ import main as seqmix

        status = seqmix(["fit", *order["options"]])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _kill(process: int) -> None:
    # Between fork and setsid a run has no group of its own yet.
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
