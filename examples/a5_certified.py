# %% [markdown]
# # Train on A5, and prove the result
# A word is a sequence of even permutations of five points, the answer at each letter their product so far. Training
# sees words of at most 16 letters. The shipped config `a5` has the recipe; `seqmix fit --config a5 --seed_everything
# 4` on a command line is the same call. This seed needs no second start, others do ([every seed](../docs/a5.md)).

# %%
from pathlib import Path

from seqmix.__main__ import main
from seqmix.inspect import certify
from seqmix.tasks import create_task
from seqmix.training.loading import load_model

assert main(["fit", "--config", "a5", "--seed_everything", "4", "--run_dir", "a5-run"]) == 0

# %% [markdown]
# The table above has whole-sequence accuracy up to 1,024 letters. It is a sample; a proof is more. The gates of this
# network have become permutations, so with each row replaced by its largest gate it is a finite automaton, whose
# states are all searched together with the group's.

# %%
model = load_model(Path("a5-run/checkpoints/last.ckpt"), trust=())
found = certify(model, create_task("word-problem", group="A5"))
print(found.headline)
for block in found.blocks:
    if block.carries:
        print(f"block {block.block}: {block.kind}, permutations of {block.degree} points")

# %% [markdown]
# `seqmix certify a5-run --out a5.json` writes the proof, and `seqmix certify --verify a5.json a5-run` checks it from
# the checkpoint alone.

# %%
assert main(["certify", "a5-run", "--out", "a5.json"]) == (0 if found.certified else 1)
