"""The process that runs `seqmix fit` for a sweep: what starts it imports everything once, and it forks into each run.

Lines of JSON come in, `{"start": n, "fit": {...}, "folder": path, "hold": [file, id], "facts": {...}}` and
`{"stop": n}`, and go out, `{"ended": n, "status": s}` with the exit status, or minus the signal. The folder of a run
then has `outcome.json`, should nobody live to read that line. When standard input closes, which it does however the
sweep ends, the runs that go on are killed: nobody would record what came of them.

Why not `multiprocessing`'s forkserver, which would be shorter: its runs keep the server alive, so that a sweep that is
killed leaves them running unless a thread in each run watches for it (tried: the tests of SIGKILL fail without such a
thread and pass with it). And there is one server in a process, with the thread pools and the path of its first start,
for whoever else in that process uses it, and it imports the script that called `sweep`.
"""

import ctypes
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from seqmix._files import write_text_whole
from seqmix.leaderboard.sweep.claims import hold

__all__ = ["ALONE", "die_with_parent", "serve"]

ALONE = "--alone"  # runs import nothing from the folder that they are in

Fit = Callable[[dict[str, Any]], int]  # settings, name and folder of a run and what it trusts, to its exit status

_POLL = 1.0  # seconds between looks at what has ended, should a signal be lost
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


def serve(fit: Fit) -> int:
    """Fork a run into `fit` for every order, until standard input closes; returns the exit status."""
    # What libraries print is no answer: standard output becomes the log that standard error is.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    runs: dict[int, _Forked] = {}
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(_wake_when_a_child_ends(), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(_POLL):
                read = os.read(key.fd, 1 << 16)
                if key.fd == 0 and not read:
                    _reap(runs, answers)
                    _kill_all(runs)
                    return 0
                if key.fd == 0:
                    *lines, buffer = (buffer + read).split(b"\n")
                    for line in lines:
                        _do(json.loads(line), runs, answers, fit)
            _reap(runs, answers)


def _wake_when_a_child_ends() -> int:
    """A descriptor that can be read when a child has ended."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reader


def _reap(runs: "dict[int, _Forked]", answers: TextIO) -> None:
    for number, run in list(runs.items()):
        ended, status = os.waitpid(run.process, os.WNOHANG)
        if ended:
            del runs[number]
            _tell(number, run, os.waitstatus_to_exitcode(status), answers)


def _tell(number: int, run: "_Forked", status: int, answers: TextIO) -> None:
    if not run.stopped:
        outcome = {"status": status, "seconds": time.monotonic() - run.began, "facts": run.order["facts"]}
        with suppress(FileNotFoundError):  # the sweep has given it up
            write_text_whole(Path(run.order["folder"], "outcome.json"), json.dumps(outcome))
    with suppress(BrokenPipeError):
        print(json.dumps({"ended": number, "status": status}), file=answers)


@dataclass
class _Forked:
    process: int
    order: dict[str, Any]
    began: float
    stopped: bool = False


def _do(order: dict[str, Any], runs: dict[int, _Forked], answers: TextIO, fit: Fit) -> None:
    if "stop" in order:
        if order["stop"] in runs:
            runs[order["stop"]].stopped = True
            _kill(runs[order["stop"]].process)
        return
    server, began = os.getpid(), time.monotonic()
    process = os.fork()
    if process == 0:
        answers.close()
        _become(order, server, fit)
    runs[order["start"]] = _Forked(process, order, began)


def _kill_all(runs: dict[int, _Forked]) -> None:
    for run in runs.values():
        _kill(run.process)
        os.waitpid(run.process, 0)


def _become(order: dict[str, Any], server: int, fit: Fit) -> NoReturn:
    """The run itself, in the forked process; never returns."""
    status = 1
    try:
        os.setsid()
        die_with_parent()
        if os.getppid() != server:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said = (f"{order['folder']}/{name}" for name in ("stdout", "stderr"))
        for descriptor, path in enumerate((os.devnull, *said)):
            opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
        hold(*order["hold"])
        status = fit(order["fit"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent has died; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _kill(process: int) -> None:
    # Between fork and setsid a run has no group of its own yet.
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
