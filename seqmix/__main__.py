"""The `seqmix` command: a table of commands, each a module of `seqmix.commands`."""

import importlib
import os
import sys
from typing import NamedTuple

from seqmix import __version__
from seqmix.commands._messages import exits

__all__ = ["main"]


class _Command(NamedTuple):
    module: str  # of seqmix.commands
    text: str
    needs: tuple[str, ...] = ()  # modules of the extra `train`, without which the command's own cannot be imported


_TRAIN = ("lightning.pytorch", "jsonargparse", "yaml")
_COMMANDS = {
    "fit": _Command("train", "train a model, then test it; --config a5 takes a shipped config by name", _TRAIN),
    "validate": _Command("train", "measure a checkpoint on validation data", _TRAIN),
    "test": _Command("train", "measure a checkpoint at every evaluation length, with a table and a figure", _TRAIN),
    "predict": _Command("train", "write a checkpoint's answers on the test data to files", _TRAIN),
    "generate": _Command("generate", "continue a prompt with a checkpoint of a language model", _TRAIN),
    "export": _Command("export", "write a language model as a folder that transformers reads", _TRAIN),
    "eval": _Command("evaluate", "score a language model with lm-evaluation-harness"),
    "train-tokenizer": _Command("train_tokenizer", "learn a byte-level BPE from text, for --data.tokenizer", _TRAIN),
    "average": _Command("average", "make one checkpoint with the mean of the weights of several"),
    "list": _Command(
        "list", "what there is: mixers, tasks, configs, boards, grids, optimizers, and a model's parameters"
    ),
    "certify": _Command(
        "certify", "prove a checkpoint right for every length, or find a shortest word that it gets wrong"
    ),
    "inspect": _Command("inspect", "figures of what is inside a layer: eigenvalues, mixing matrices, gradients by lag"),
    "bench": _Command("bench.cli", "time kernels and layers on this machine"),
    "shift-k": _Command("shift_k", "fit poles to a shift, against the lower bound, with a table and a figure"),
    "block-law": _Command(
        "block_law", "learn groups with blocks of every size, with a table and a figure beside the theory"
    ),
    "leaderboard": _Command(
        "leaderboard.cli", "run configs with many seeds and learning rates, and make tables of the records"
    ),
    "sensitivity": _Command(
        "sensitivity", "loss against learning rate for several optimizers or mixers, with a table and a figure"
    ),
}
# These look at what others made: nothing of the folder one is in is imported unless they are told to trust it.
_LOOKING = {
    "average",
    "certify",
    "eval",
    "export",
    "generate",
    *(f"leaderboard {it}" for it in ("page", "report", "rerun", "validate")),
}

_HELP = f"""usage: seqmix COMMAND [options]

Token mixers for sequence models: train them, test them, time them.

commands:
{chr(10).join(f"  {name:<17}{command.text}" for name, command in _COMMANDS.items())}

  seqmix fit --config a5                        train and test; results in runs/a5/1
  seqmix fit --config parity --mixer lstm       the same with another mixer
  seqmix fit --config a5 --mixer.block_size 4 --optimizer.lr 1e-3 --data.group S4 --trainer.max_steps 500
  seqmix fit --config a5 --ckpt_path last       continue the newest run as if it had never stopped
  seqmix test --ckpt_path runs/a5/1/checkpoints/best.ckpt
  seqmix generate lm --prompt "The import statement" --temperature 0.7
  seqmix fit --help                             every option of trainer, model and data
  seqmix list mixers                            also: tasks, configs, optimizers; of one, its arguments:
  seqmix list mixers bd-lru

options:
  -h, --help     this text
  --version      the version"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status, as `seqmix.commands._messages` says.

    Modules are also found in the folder one is in, unless the command looks at what others made.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    looks = " ".join(argv[: 1 + (argv[:1] == ["leaderboard"])]) in _LOOKING
    trusts = any(word.partition("=")[0] == "--trust" for word in argv)
    # What a user names as module:Class may lie there; nothing that is installed is hidden by that.
    if (trusts or not looks) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return _run(argv)


@exits()
def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if argv[0] == "--version":
        print(f"seqmix {__version__}")
        return 0
    name, *rest = argv
    if name not in _COMMANDS:
        from seqmix._suggest import unknown_name

        raise unknown_name("command", name, _COMMANDS)
    command = _COMMANDS[name]
    if command.needs:
        from seqmix._extras import require

        for module in command.needs:
            require(module, extra="train", owner=f"seqmix {name}")
    if command.module == "train":
        from seqmix.commands._sheets import asked_help

        if (text := asked_help(rest)) is not None:
            print(text)
            return 0
    run = importlib.import_module(f"seqmix.commands.{command.module}").main
    status: int = run(argv if command.module == "train" else rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
