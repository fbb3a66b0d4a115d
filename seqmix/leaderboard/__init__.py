"""Records of runs, sweeps that make them, and tables that show every seed: `seqmix leaderboard`.

`schema` says what a record holds; `runs` keeps records in files; `plan`, `sweep` and `local` make them;
`statistics`, `aggregate`, `tables` and `report` say what they mean.
"""

from seqmix.leaderboard.boards.submissions import Submission, read_submission, read_submissions
from seqmix.leaderboard.records.schema import SCHEMA_VERSION
from seqmix.leaderboard.records.store import RunStore, read_runs, scan_runs
from seqmix.leaderboard.summary.aggregate import aggregate
from seqmix.leaderboard.summary.summaries import (
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
