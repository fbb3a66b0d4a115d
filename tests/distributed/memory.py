"""Peak memory and seconds of a training step of one sequence, in one process and cut over several.

python -m tests.distributed.memory bd-lru --length 131072 --ranks 2 --layers 2
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from seqmix import SequenceModel
from seqmix.distributed import sequence_parallel, split_sequences
from tests.distributed.ranks import join


def work(rank: int, ranks: int, folder: str, mixer: str, length: int, form: str, layers: int) -> None:
    join(rank, ranks, f"{folder}/store{ranks}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = sequence_parallel(SequenceModel(mixer, vocab_size=256, d_model=64, n_layers=layers), form=form)
    tokens = torch.randint(256, (1, length + 1))
    seconds = []
    for warm in (True, False):
        # A short sequence first: what is loaded and compiled once is no memory of the sequence.
        count = 64 * ranks if warm else length
        begin = time.perf_counter()
        x, targets = split_sequences(tokens[:, :count])[0], split_sequences(tokens[:, 1 : count + 1])[0]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        logits, _ = model(x)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
        dist.barrier()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    Path(folder, f"{ranks}-{rank}.json").write_text(json.dumps({"megabytes": peak / 1000, "seconds": seconds[-1]}))
    dist.destroy_process_group()


def measure(mixer: str, length: int, ranks: int, form: str = "two-pass", layers: int = 2) -> dict[str, float]:
    """Of the rank that takes most: what the step adds to the process's memory, and how long it takes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (ranks, folder, mixer, length, form, layers), nprocs=ranks)
        each = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
    return {name: max(one[name] for one in each) for name in ("megabytes", "seconds")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory of a long sequence, whole and over ranks.")
    parser.add_argument("mixers", nargs="+")
    parser.add_argument("--length", type=int, default=131_072)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=["two-pass", "pipeline"])
    options = parser.parse_args()
    for mixer in options.mixers:
        one = measure(mixer, options.length, 1, layers=options.layers)
        for form in options.forms:
            many = measure(mixer, options.length, options.ranks, form, options.layers)
            shares = "".join(f", {name} {many[name] / one[name]:.2f} of {one[name]:.1f}" for name in one)
            print(f"{mixer}, {options.length:,} tokens over {options.ranks} ranks, {form}{shares}", flush=True)
