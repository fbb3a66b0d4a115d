"""Commands: the module of `seqmix.commands` that each is, and what it is for."""

from typing import NamedTuple

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    module: str  # of seqmix.commands
    text: str
    needs: tuple[str, ...] = ()  # packages of the extra `train`, without which the command cannot run


_TRAIN = ("lightning", "jsonargparse", "yaml")
COMMANDS = {
    "fit": Command("train", "train a model, then test it; --config a5 takes a shipped config by name", _TRAIN),
    "validate": Command("train", "measure a checkpoint on validation data", _TRAIN),
    "test": Command("train", "measure a checkpoint at every evaluation length, with a table and a figure", _TRAIN),
    "predict": Command("train", "write a checkpoint's answers on the test data to files", _TRAIN),
    "generate": Command("generate", "continue a prompt with a checkpoint of a language model", _TRAIN),
    "export": Command("export", "write a language model as a folder that transformers reads", _TRAIN),
    "eval": Command("evaluate", "score a language model with lm-evaluation-harness"),
    "train-tokenizer": Command("train_tokenizer", "learn a byte-level BPE from text, for --data.tokenizer", _TRAIN),
    "average": Command("average", "make one checkpoint with the mean of the weights of several"),
    "list": Command(
        "list", "what there is: mixers, tasks, configs, boards, grids, optimizers, and a model's parameters"
    ),
    "completion": Command("completion", "completion of commands and names for bash, zsh or fish"),
    "certify": Command(
        "certify", "prove a checkpoint right for every length, or find a shortest word that it gets wrong"
    ),
    "inspect": Command("inspect", "figures of what is inside a layer: eigenvalues, mixing matrices, gradients by lag"),
    "bench": Command("bench.cli", "time kernels and layers on this machine"),
    "shift-k": Command("shift_k", "fit poles to a shift, against the lower bound, with a table and a figure"),
    "block-law": Command(
        "block_law", "learn groups with blocks of every size, with a table and a figure beside the theory"
    ),
    "atlas": Command(
        "atlas", "what layers cannot and can follow, by theorems and written weights, as table and figure"
    ),
    "study": Command("study", "what papers claim, held against runs and computations: records, figures, verdicts"),
    "leaderboard": Command(
        "leaderboard.cli", "run configs with many seeds and learning rates, and make tables of the records"
    ),
    "sensitivity": Command(
        "sensitivity", "loss against learning rate for several optimizers or mixers, with a table and a figure"
    ),
}
