"""`seqmix fit|validate|test|predict`: registry entries, configs by name and a folder for each run, on Lightning."""

from seqmix.commands._messages import exits, silence
from seqmix.commands._train_help import train_help
from seqmix.training.request import read_request

__all__ = ["main"]


@exits()
def main(argv: list[str]) -> int:
    """Carry out one of the four; returns the exit status. Mistakes are told before anything heavy is imported."""
    command, *words = argv
    if (text := train_help(command, words)) is not None:
        print(text)
        raise SystemExit(0)
    request = read_request(command, words)
    from seqmix.training.running import run

    try:
        return run(request)
    except BrokenPipeError:
        silence()
        return 141
