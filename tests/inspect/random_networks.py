"""Random networks against brute force, as many as asked: `python -m tests.inspect.random_networks 10000`.

Each is tried with the task that it solves by definition, with one answer of it changed, and with a random task.
"""

import argparse

import numpy as np
import torch

from seqmix import SequenceModel
from seqmix.tasks import Automaton
from tests.inspect.test_no_wrong_certificate import LETTERS, MIXERS, VOCAB, check, own_task


def network(rng: np.random.Generator) -> SequenceModel:
    """One or two small layers with random weights in either type; gates from undecided to saturated."""
    layers = 1 + int(rng.random() < 0.3)
    mixers = [dict(MIXERS[rng.integers(len(MIXERS))]) for _ in range(layers)]
    dtype = torch.float64 if rng.random() < 0.2 else torch.float32
    model = SequenceModel(mixers, VOCAB, 6, layers, mlp_ratio=int(rng.random() < 0.3), dtype=dtype)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        sharpness = float(rng.choice([1.0, 5.0, 15.0, 60.0]))
        for mixer in model.mixers:
            mixer.proj_gates.weight.mul_(sharpness)
    return model


def attempt(seed: int) -> int:
    """How many of a network's tasks are certified; an `AssertionError` for a certificate that does not hold."""
    rng = np.random.default_rng(seed)
    model = network(rng)
    step, output = np.full((3, VOCAB), -1), np.full((3, VOCAB), -100)
    step[:, :LETTERS] = rng.integers(0, 3, (3, LETTERS))
    output[:, :LETTERS] = rng.integers(0, VOCAB, (3, LETTERS))
    certified = int(check(model, Automaton("random", 0, step, output)))
    task = own_task(model, 12)
    if task is None:
        return certified
    certified += check(model, task)
    output, state, letter = task.output.copy(), int(rng.integers(task.n_states)), int(rng.integers(LETTERS))
    output[state, letter] = (output[state, letter] + 1) % VOCAB
    assert not check(model, Automaton("one answer changed", 0, task.step, output)), "every state can be reached"
    return certified


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look for a wrong certificate.")
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    total = 0
    for number in range(options.count):
        total += attempt(options.first + number)
        if number % 50 == 49:
            print(f"{number + 1} networks, {total} certificates", flush=True)
    print(f"{options.count} networks, {total} certificates, none wrong")
