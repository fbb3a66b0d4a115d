"""`python -m seqmix.benchmarks`: the same as `seqmix bench`."""

import sys

from seqmix.commands.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
