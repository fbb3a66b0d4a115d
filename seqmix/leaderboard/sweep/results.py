"""What a file of records says about the runs of a sweep: which are over, and how often the others were tried."""

from collections import Counter

from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import RunStore
from seqmix.leaderboard.sweep.outcome import has_wrong_settings

__all__ = ["Results"]


class Results:
    """Runs by their ids, kept up to date with what this process and others append.

    Args:
        store: the file.
        attempts: how often a run is tried before it has failed for good.
        retry_failed: count only attempts from now on.

    Attributes:
        settled: the last record of each run that is over: it succeeded, or has failed for good.
    """

    def __init__(self, store: RunStore, attempts: int, retry_failed: bool) -> None:
        self.store, self._limit = store, attempts
        self._forgiven: Counter[str] = Counter()
        self._forget(store.refresh())
        if retry_failed:
            self._forgiven = Counter(record["id"] for record in store.records)
        self.update()

    def _forget(self, records: list[Record]) -> None:
        self._records, self._read = records, 0
        self._tried: Counter[str] = Counter()
        self.settled: dict[str, Record] = {}

    def attempts(self, run: str) -> int:
        """How often it was tried."""
        return self._tried[run]

    def update(self) -> dict[str, Record]:
        """Read what has come since the last time; returns `settled`."""
        records = self.store.refresh()
        if records is not self._records:  # the file was replaced
            self._forget(records)
        for record in records[self._read :]:
            run = record["id"]
            self._tried[run] += 1
            good, tried = record["status"] == "ok", self._tried[run] - self._forgiven[run]
            limit = 1 if has_wrong_settings(record) else self._limit
            if good or (run not in self.settled and tried >= limit):
                self.settled[run] = record
        self._read = len(records)
        return self.settled
