"""Records of runs, sweeps that make them, and tables that show every seed: `seqmix leaderboard`.

`boards` says which runs make a board, `sweep` makes them, `records` keeps them in files, `cost` counts what a model
costs, `summary` says what runs mean, `tables` and `page` show it. Each name loads its module when first used.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.leaderboard.boards.submissions import Submission, read_submission, read_submissions
    from seqmix.leaderboard.records.schema import SCHEMA_VERSION
    from seqmix.leaderboard.records.store import RunStore, read_runs, scan_runs
    from seqmix.leaderboard.summary.aggregate import aggregate
    from seqmix.leaderboard.summary.atlas_marks import atlas_marks
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
    "atlas_marks",
    "read_runs",
    "read_submission",
    "read_submissions",
    "scan_runs",
]

__getattr__, __dir__ = lazy(__name__)
