"""`seqmix average`."""

from pathlib import Path

from seqmix._files import check_output, write_whole
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser

__all__ = ["main"]

_EPILOG = """examples:
  seqmix fit --config a5 --checkpoints.keep_every_n_steps 100
  seqmix average runs/a5/1/checkpoints/step-*.ckpt --last 5 --out runs/a5/1/checkpoints/average.ckpt
  seqmix test --ckpt_path runs/a5/1/checkpoints/average.ckpt"""


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix average`; returns the exit status."""
    parser = Parser("seqmix average", description="Average the weights of checkpoints of one run.", epilog=_EPILOG)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CKPT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.ckpt", help="where the average goes")
    parser.add_argument("--last", type=int, metavar="N", help="take the newest N alone")
    parser.add_argument("--decay", type=float, metavar="B", help="weights 1, B, B^2, ... from the newest back")
    arguments = parser.parse_args(argv)
    if arguments.last is not None and not 1 <= arguments.last <= len(arguments.checkpoints):
        raise ValueError(f"--last: expected 1 to {len(arguments.checkpoints)} checkpoints, got {arguments.last}")
    if arguments.decay is not None and not 0 < arguments.decay <= 1:
        raise ValueError(f"--decay: expected a number in (0, 1], got {arguments.decay!r}")
    check_output("--out", arguments.out)
    import torch

    from seqmix.training.average import average_checkpoints

    averaged = average_checkpoints(arguments.checkpoints, last=arguments.last, decay=arguments.decay)
    write_whole(arguments.out, lambda part: torch.save(averaged, part))
    print(f"{arguments.out}: average of steps {', '.join(map(str, averaged['averaged_steps']))}")
    return 0
