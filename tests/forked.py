"""Commands in a process of their own, forked from one that has imported everything: watched, limited, and cheap.

What a command runs, imports, or writes outside of its folder is noted by an audit hook, in the process and in every run
that it starts. Its memory is the most that was resident at one time, with all that was imported before.
"""

import faulthandler
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import seqmix

ROOT = Path(seqmix.__file__).resolve().parents[1]
ROOM = 3 << 30  # bytes of addresses beyond those that are there, so that a bomb is an error and not the machine's end
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class")
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname")
_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")

_OF_NUMBA = {("builtins", "object"), ("copyreg", "_reconstructor")}


class Ended(NamedTuple):
    """What came of a command: status (minus the signal), what it said, what it must not have done, time and memory."""

    status: int
    said: str
    events: list[str]
    seconds: float  # of a processor: a busy machine takes longer by the clock
    peak: int  # bytes


def forked(
    command: Callable[[], int], folder: Path, *, allowed: Sequence[Path] = (), seconds: float = 120, read: bool = True
) -> Ended:
    """Run `command` with `folder` as the working directory, and kill it after so many seconds by the clock.

    Args:
        command: returns an exit status.
        folder: it may write there.
        allowed: other places where it may write.
        read: whether anybody reads its standard output; else that is a pipe whose other end is closed.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as noted:
        process = os.fork()
        if process == 0:
            _child(command, folder, allowed, said.fileno(), noted.fileno(), seconds, read)
        watch = os.pidfd_open(process)
        late = not select.select([watch], [], [], seconds)[0]
        if late:
            os.killpg(process, signal.SIGKILL)
        os.close(watch)
        _, status, used = os.wait4(process, 0)
        said.seek(0), noted.seek(0)
        events = noted.read().decode(errors="replace").splitlines() + [f"no end after {seconds} s"] * late
        text = said.read().decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), text, events, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def _child(
    command: Callable[[], int],
    folder: Path,
    allowed: Sequence[Path],
    said: int,
    noted: int,
    seconds: float,
    read: bool,
) -> None:
    status = 70
    try:
        os.setsid()
        os.chdir(folder)
        other, closed = os.pipe()
        os.close(other)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (said if read else closed, 1), (said, 2)):
            os.dup2(descriptor, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        faulthandler.dump_traceback_later(0.9 * seconds, file=2)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        import seqmix.leaderboard.sweep.local as local

        local.subprocess = _Subprocess()  # type: ignore[assignment]
        sys.addaudithook(_hook(folder.resolve(), [*map(str, allowed)], noted))
        status = command()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # the failure that is looked for
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        # Anything but a number would raise here, and the child unwind what is its parent's: its temporary folder.
        os._exit(status if isinstance(status, int) else 70)


def _hook(folder: Path, allowed: list[str], noted: int) -> Callable[[str, tuple[Any, ...]], None]:
    places = (f"{folder}/", f"{os.devnull}", "/dev/shm/", *(f"{place}/" for place in allowed))
    planted = str(folder)

    def outside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        # The link itself is made or removed, not what it leads to.
        name = os.fsdecode(path)
        return not f"{os.path.realpath(name)}/".startswith(places) and not _is_cache(os.path.realpath(name))

    def note(event: str, what: Any) -> None:
        os.write(noted, f"{event} {what!r:.200}\n".encode(errors="replace"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and outside(path):
                note(event, path)
        elif event in _WRITES:
            for path in arguments[event == "os.symlink" : 1 + (event in ("os.rename", "os.link", "os.symlink"))]:
                where = path if event in ("os.truncate", "os.chmod") else _beside(path)
                if outside(where):
                    note(event, path)
        elif event in _RUNS and not _is_ours(event, arguments):
            note(event, arguments[:2])
        elif event in _NETWORK:
            note(event, arguments[1:])
        elif event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(planted):
            note(event, arguments[0].co_filename)
        elif event == "ctypes.dlopen" and str(arguments[0]).startswith(planted):
            note(event, arguments[0])

    return hook


def _beside(path: Any) -> Any:
    """The place of a name, links on the way followed but not the last."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    head, tail = os.path.split(os.fsdecode(path).rstrip("/"))
    return os.path.join(os.path.realpath(head), tail) if tail not in ("", ".", "..") else path


def _is_cache(name: str) -> bool:
    """A kernel that Numba keeps beside its source."""
    return name.startswith(f"{ROOT}/seqmix/") and "/__pycache__" in name


def _is_ours(event: str, arguments: tuple[Any, ...]) -> bool:
    """What Numba's cache unpickles, and what `seqmix._machine.commit` asks of the checkout that seqmix lies in."""
    if event == "pickle.find_class":
        module, name = arguments
        return module.startswith("numba.") or (module, name) in _OF_NUMBA
    words = list(arguments[1])[:3] if event == "subprocess.Popen" and not isinstance(arguments[1], str | bytes) else []
    return words == ["git", "-C", str(ROOT)] and arguments[0] == "git"


class _Subprocess:
    """`subprocess` as sweeps see it: their server is a fork of this process, with its audit hook and its limits."""

    PIPE = subprocess.PIPE

    class Popen:
        def __init__(self, command: Sequence[str], *, stderr: Any, env: dict[str, str], **ignored: Any) -> None:
            asked, self._in = os.pipe()
            self._out, answered = os.pipe()
            sys.stdout.flush(), sys.stderr.flush()
            self.pid = os.fork()
            if self.pid == 0:
                for descriptor, target in ((asked, 0), (answered, 1), (stderr.fileno(), 2)):
                    os.dup2(descriptor, target)
                for descriptor in (asked, answered, self._in, self._out):
                    os.close(descriptor)
                os.environ.clear(), os.environ.update(env)
                from seqmix.commands.worker import main

                os._exit(main(list(command)[4:]))
            os.close(asked), os.close(answered)
            self.stdin, self.stdout = os.fdopen(self._in, "wb"), os.fdopen(self._out, "rb")
            self._status: int | None = None

        def poll(self) -> int | None:
            if self._status is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if ended else None
            return self._status

        def wait(self) -> int:
            if self._status is None:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status
