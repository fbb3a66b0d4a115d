"""Records of runs, sweeps that make them, and tables that show every seed: `seqmix leaderboard`.

`schema` says what a record holds; `runs` keeps records in files; `plan`, `sweep` and `local` make them;
`statistics`, `aggregate`, `tables` and `report` say what they mean.
"""

from seqmix.leaderboard.aggregate import aggregate
from seqmix.leaderboard.runs import RunStore, read_runs, scan_runs
from seqmix.leaderboard.schema import SCHEMA_VERSION
from seqmix.leaderboard.submissions import Submission, read_submission, read_submissions
from seqmix.leaderboard.summaries import (
    BoardSummary,
    CellSummary,
    ColumnSummary,
    EntrySummary,
    RateSummary,
    SeedSummary,
)

__all__ = [
    "SCHEMA_VERSION",
    "BoardSummary",
    "CellSummary",
    "ColumnSummary",
    "EntrySummary",
    "RateSummary",
    "RunStore",
    "SeedSummary",
    "Submission",
    "aggregate",
    "read_runs",
    "read_submission",
    "read_submissions",
    "scan_runs",
]
