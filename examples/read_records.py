# %% [markdown]
# # Records in a data frame
# A record is one run with everything needed to run it again. `seqmix leaderboard convert` makes a table of them, a
# column for each field and for each test result.

# %%
from pathlib import Path

import pandas as pd  # polars: pl.read_parquet("board.parquet")

import seqmix
from seqmix.__main__ import main

records = Path(seqmix.__file__).parents[1] / "docs" / "results" / "board-cpu.jsonl"
Path("board.parquet").unlink(missing_ok=True)  # of an earlier time; it is not written over
assert main(["leaderboard", "convert", str(records), "board.parquet"]) == 0
runs = pd.read_parquet("board.parquet")
print(f"{len(runs):,} runs, {len(runs.columns)} columns")

# %% [markdown]
# What the board asks of each row: the learning rate that is best on validation data, then every seed there. Here the
# same by hand, for parity at 160 bits, four times the training length.

# %%
parity = runs[(runs["identity.column"] == "parity") & (runs["status"] == "ok")]
by_rate = parity.groupby(["identity.entry", "training.lr"])["test.160.last"].agg(["median", "count"])
print(by_rate.head(8))
best = by_rate[by_rate["count"] > 1]["median"].groupby("identity.entry").max().sort_values(ascending=False)
print(best.head(6))

# %% [markdown]
# How much a rate matters: the spread of medians over the grid, for each row.

# %%
spread = by_rate["median"].groupby("identity.entry").agg(lambda values: values.max() - values.min())
print(spread.sort_values().tail(6))

# %% [markdown]
# The summaries of the pages, with intervals and ranks, are `seqmix.leaderboard.aggregate`.

# %%
from seqmix.leaderboard import aggregate, read_runs  # noqa: E402

(board,) = aggregate(read_runs(records))
for entry in board.entries[:3]:
    print(entry.rank, entry.name, f"{entry.mean:.2f}", entry.interval)
