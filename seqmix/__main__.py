"""The `seqmix` command: finds what is asked for in the table of `seqmix.commands._table`, and runs it."""

import importlib
import os
import sys

try:
    from seqmix import __version__
    from seqmix.commands._messages import exits
    from seqmix.commands._table import COMMANDS
except KeyboardInterrupt:  # later ones are told by `exits`
    print("seqmix: interrupted by SIGINT", file=sys.stderr)
    sys.exit(130)

__all__ = ["main"]

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
{chr(10).join(f"  {name:<17}{command.text}" for name, command in COMMANDS.items())}

  seqmix fit --config a5                        train and test; results in runs/a5/1
  seqmix fit --config parity --mixer lstm       the same with another mixer
  seqmix fit --config a5 --mixer.block_size 4 --optimizer.lr 1e-3 --data.group S4 --trainer.max_steps 500
  seqmix fit --config a5 --ckpt_path last       continue the newest run as if it had never stopped
  seqmix test --ckpt_path runs/a5/1/checkpoints/best.ckpt
  seqmix generate lm --prompt "The import statement" --temperature 0.7
  seqmix fit --help                             its options; --help trainer, --help model and so on have the rest
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
    if name not in COMMANDS:
        from seqmix._suggest import unknown_name

        raise unknown_name("command", name, COMMANDS)
    command = COMMANDS[name]
    if command.needs:
        from seqmix._extras import installed

        for package in command.needs:
            installed(package, extra="train", owner=f"seqmix {name}")
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
