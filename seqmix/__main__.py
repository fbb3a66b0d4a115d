"""The `seqmix` command."""

import os
import sys

from seqmix import __version__
from seqmix._signals import Interrupted, interruptible

__all__ = ["main"]

_COMMANDS = {
    "fit": "train a model, then test it; --config a5 takes a shipped config by name",
    "validate": "measure a checkpoint on validation data",
    "test": "measure a checkpoint at every evaluation length, with a table and a figure",
    "predict": "write a checkpoint's answers on the test data to files",
    "generate": "continue a prompt with a checkpoint of a language model",
    "train-tokenizer": "learn a byte-level BPE from text, for --data.tokenizer",
    "average": "make one checkpoint with the mean of the weights of several",
    "list": "what there is: mixers, tasks, configs, boards, grids, optimizers, and a model's parameters",
    "certify": "prove a checkpoint right for every length, or find a shortest word that it gets wrong",
    "inspect": "figures of what is inside a layer: eigenvalues, mixing matrices, gradients by lag",
    "bench": "time kernels and layers on this machine",
    "shift-k": "fit poles to a shift, against the lower bound, with a table and a figure",
    "block-law": "learn groups with blocks of every size, with a table and a figure beside the theory",
    "leaderboard": "run configs with many seeds and learning rates, and make tables of the records",
    "sensitivity": "loss against learning rate for several optimizers or mixers, with a table and a figure",
}
# These look at what others made: nothing of the folder one is in is imported unless they are told to trust it.
_LOOKING = {"average", "certify", "generate", *(f"leaderboard {it}" for it in ("page", "report", "rerun", "validate"))}
_LISTS = ("mixers", "tasks", "configs", "boards", "grids", "optimizers")

_HELP = f"""usage: seqmix COMMAND [options]

Token mixers for sequence models: train them, test them, time them.

commands:
{chr(10).join(f"  {name:<17}{text}" for name, text in _COMMANDS.items())}

  seqmix fit --config a5                        train and test; results in runs/a5/1
  seqmix fit --config parity --mixer lstm       the same with another mixer
  seqmix fit --config a5 --mixer.block_size 4 --optimizer.lr 1e-3 --data.group S4 --trainer.max_steps 500
  seqmix fit --config a5 --ckpt_path last       continue the newest run as if it had never stopped
  seqmix test --ckpt_path runs/a5/1/checkpoints/best.ckpt
  seqmix generate lm --prompt "The import statement" --temperature 0.7
  seqmix fit --help                             every option of trainer, model and data
  seqmix list mixers

options:
  -h, --help     this text
  --version      the version"""

_LIST_HELP = f"""usage: seqmix list {{{"|".join(_LISTS)}}} [PATTERN]
       seqmix list optimizers --docs FILE       write their table between the markers of FILE
       seqmix list parameters --help            which optimizer takes each parameter of a model

Names with one line each; PATTERN is a shell pattern such as 'a5*'."""


def main(argv: list[str] | None = None, *, here: bool = True) -> int:
    """Run the command line; returns the exit status.

    A mistake in the arguments and a file that cannot be read or written are told in one line (2), and so is a signal
    that ended the command (130).

    Modules are also found in the folder one is in, unless `here` is false or the command looks at what others made.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    looks = " ".join(argv[: 1 + (argv[:1] == ["leaderboard"])]) in _LOOKING
    trusts = any(word.partition("=")[0] == "--trust" for word in argv)
    # What a user names as module:Class may lie there; nothing that is installed is hidden by that.
    if here and (trusts or not looks) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with interruptible():
            return _run(argv)
    except Interrupted as stop:
        print(f"seqmix: {stop}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, ImportError) and "pip install" not in str(error):
            raise
        if isinstance(error, OSError) and error.errno is None:
            raise
        print(f"seqmix: error: {error}", file=sys.stderr)
        return 2


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if argv[0] == "--version":
        print(f"seqmix {__version__}")
        return 0
    command, *rest = argv
    if command == "list":
        return _list(rest)
    if command == "bench":
        from seqmix.commands.bench.cli import main as bench

        return bench(rest) or 0
    if command == "inspect":
        from seqmix.commands.inspect import main as inspect

        return inspect(rest)
    if command == "leaderboard":
        from seqmix.commands.leaderboard.cli import main as leaderboard

        return leaderboard(rest)
    if command == "sensitivity":
        from seqmix.commands.sensitivity import main as sensitivity

        return sensitivity(rest)
    if command == "block-law":
        from seqmix.commands.block_law import main as block_law

        return block_law(rest)
    if command == "shift-k":
        from seqmix.studies.shift_k import main as shift_k

        return shift_k(rest)
    if command not in _COMMANDS:
        from seqmix._suggest import unknown_name

        raise unknown_name("command", command, _COMMANDS)
    if command == "certify":
        from seqmix.commands.certify import main as certify

        return certify(rest)
    if command == "average":
        from seqmix.training.average import main as average

        return average(rest)
    from seqmix._extras import require

    for module in ("lightning.pytorch", "jsonargparse", "yaml"):
        require(module, extra="train", owner=f"seqmix {command}")
    if command in ("generate", "train-tokenizer"):
        from seqmix.commands import generate as text_commands

        return {"generate": text_commands.generate, "train-tokenizer": text_commands.train_tokenizer}[command](rest)
    from seqmix.commands.train import main as train

    return train(argv)


def _list(arguments: list[str]) -> int:
    import fnmatch

    if not arguments or arguments[0] in ("-h", "--help"):
        print(_LIST_HELP)
        return 0
    kind, *patterns = arguments
    if kind == "parameters":
        return _list_parameters(patterns)
    if kind not in _LISTS:
        from seqmix._suggest import unknown_name

        raise unknown_name("list", kind, (*_LISTS, "parameters"))
    if kind == "optimizers" and patterns[:1] == ["--docs"] and len(patterns) == 2:
        from pathlib import Path

        from seqmix.optim.table import write_registry

        write_registry(Path(patterns[1]))
        return 0
    rows = {name: text for name, text in _rows(kind).items() if fnmatch.fnmatch(name, (patterns or ["*"])[0])}
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
    return 0


def _list_parameters(arguments: list[str]) -> int:
    from seqmix.commands.parameters import HELP, list_parameters

    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    rows = list_parameters(arguments)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _rows(kind: str) -> dict[str, str]:
    if kind == "configs":
        from seqmix.training.config.files import list_configs

        return list_configs()
    if kind == "boards":
        from seqmix.leaderboard.boards.board import list_boards

        return list_boards()
    if kind == "grids":
        from seqmix.leaderboard.boards.grid import list_grids

        return list_grids()
    if kind == "tasks":
        from seqmix.tasks.registry import get_task, list_tasks

        return {name: get_task(name).description for name in list_tasks()}
    if kind == "optimizers":
        from seqmix.optim.registry import get_optimizer, list_optimizers

        return {name: get_optimizer(name).line for name in list_optimizers()}
    from seqmix.mixers.registry import get_mixer, list_mixers

    return {name: get_mixer(name).description for name in list_mixers()}


if __name__ == "__main__":
    sys.exit(main())
