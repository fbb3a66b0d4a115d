"""Folders of runs: `runs/CONFIG/NUMBER`, with config.yaml, checkpoints/, metrics, accuracy.csv and accuracy.png.

A word means the same to every command. A file is a config if it ends as YAML or JSON does, else a checkpoint; a folder
is a run, its last checkpoint or its config; `module:Class` is a class; any other word is a config that is shipped, or
the newest run of one where trained weights are asked for.
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from seqmix.training.config.files import list_configs

__all__ = ["checkpoint_named", "find_checkpoint", "new_run", "newest_run", "run_of"]

ROOT = Path("runs")
_VARIABLE = "SEQMIX_RUN_DIR"  # tells the other processes of a run on this machine where it writes


def new_run(name: str, run_dir: str | None = None) -> Path:
    """The folder for a new run: `run_dir`, or the next free number under `runs/NAME`."""
    if not is_main_process() and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    if run_dir is not None:
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        number = 1 + max((int(p.name) for p in (ROOT / name).glob("*") if p.name.isdigit()), default=0)
        while True:
            folder = ROOT / name / str(number)
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
    os.environ[_VARIABLE] = str(folder)
    return folder


def is_main_process() -> bool:
    """Whether this process is the one that prints and makes folders."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def find_checkpoint(which: str, name: str | None, run_dir: str | None, *, also: Sequence[str] = ()) -> Path:
    """The checkpoint that `--ckpt_path` means: `last` or `best` of the newest run, or what `checkpoint_named` takes.

    Looks in `run_dir` if given, else in the runs of the config `name`, else in all runs. A file called as one of `also`
    stands for the one that is missing in its run.

    Raises:
        ValueError: there is no such file.
    """
    if which not in ("last", "best"):
        return checkpoint_named(which, "ckpt_path: expected a checkpoint, 'last' or 'best'")
    folder = Path(run_dir) if run_dir else ROOT / name if name else ROOT
    place = ("" if run_dir else "*/" if name else "*/*/") + "checkpoints"
    found = [path for file in (which, *also) for path in folder.glob(f"{place}/{file}.ckpt")]
    found = [path for path in found if path.stem == which or not path.with_stem(which).exists()]
    if not found:
        raise ValueError(f"ckpt_path: no {which}.ckpt found as {folder / place / which}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime)


def checkpoint_named(name: str, expected: str = "expected a checkpoint, a run or the config of one") -> Path:
    """A checkpoint by its file, by the folder of its run (the last one there), or by a config (its newest run).

    Raises:
        ValueError: nothing of that name, said as what was `expected`, with the nearest names or what makes a run of it.
    """
    if Path(name).is_file() or (Path(name) / ".metadata").is_file():  # sharded ones are folders
        return Path(name)
    if Path(name).is_dir():
        return find_checkpoint("last", None, name)
    if (run := newest_run(name)) is not None:
        return find_checkpoint("last", None, str(run))
    if name in list_configs():
        raise ValueError(f"{expected}, got {name!r}, of which {ROOT}/ has no run; seqmix fit --config {name} makes one")
    made = {path.parents[2].name for path in ROOT.glob("*/*/checkpoints/last.ckpt")}
    near = [] if Path(name).name != name else difflib.get_close_matches(name, [*made, *list_configs()], n=3)
    hint = f"; did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    raise ValueError(f"{expected}, got {name!r}, which does not exist{hint}")


def newest_run(name: str) -> Path | None:
    """The newest run of a config under `runs/`, if there is one."""
    try:
        return run_of(find_checkpoint("last", name, None)) if Path(name).name == name else None
    except ValueError:
        return None


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in, if it lies in one."""
    run = checkpoint.resolve().parents[1]
    return Path(os.path.relpath(run)) if checkpoint.resolve().parent.name == "checkpoints" else None
