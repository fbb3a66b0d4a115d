# %% [markdown]
# # A mixer of your own on a board
# Any `nn.Module` from (B, T, D) to (B, T, D) that is causal can be a row. It lies in a file that Python can import.

# %%
import sys
from pathlib import Path

Path("flips.py").write_text('''
import torch
from torch import nn


class Flips(nn.Module):
    """h_t = a_t h_{t-1} + (1 - |a_t|) v_t with a_t = tanh(W x_t): gates that may turn a sign."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gates, self.values, self.out = (nn.Linear(d_model, d_model) for _ in range(3))

    def forward(self, x):
        a, v, h, outputs = self.gates(x).tanh(), self.values(x), 0.0, []
        for a_t, v_t in zip(a.unbind(1), v.unbind(1)):
            h = a_t * h + (1 - a_t.abs()) * v_t
            outputs.append(h)
        return self.out(torch.stack(outputs, 1))
''')
sys.path.insert(0, ".")

# %% [markdown]
# A board puts rows under one budget: the width of every mixer is solved for, so that all have as many parameters.
# Learning rates are chosen on validation data, then come more seeds at the best one.

# %%
Path("mine.yaml").write_text("""
name: mine
budget: {parameters: 4000}
tasks:
  parity:
    config: parity
    set: {trainer.max_steps: 200, trainer.val_check_interval: 100, data.train_length: 12, data.eval_lengths: [12, 24]}
mixers:
  flips: {module: flips.Flips}
  bd-lru: {name: bd-lru, block_size: 2}
  lru: lru
rates: [0.003, 0.01]
seeds: {grid: [0], best: [0, 1, 2]}
""")

from seqmix.__main__ import main  # noqa: E402

assert main(["leaderboard", "run", "mine.yaml", "--store", "mine.jsonl", "--trust", "flips"]) == 0

# %% [markdown]
# Every run is a line of `mine.jsonl`; a sweep that was stopped goes on. The table, and pages that open from the disk:

# %%
assert main(["leaderboard", "report", "mine.jsonl", "--kind", "board"]) == 0
assert main(["leaderboard", "page", "mine.jsonl", "--out", "mine-pages"]) == 0
