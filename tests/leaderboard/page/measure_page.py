"""What pages of many records cost: `python -m tests.leaderboard.page.measure_page` makes 100,000 and prints it.

Reading, checking, aggregating and rendering are measured in a process of their own, without imports of torch's size,
beside parsing the same lines and nothing more.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.leaderboard.page.synthetic import RATES, TASKS, make_records

_CODE = """
import json, resource, sys, time
from pathlib import Path
from seqmix.leaderboard.page import write_site
from seqmix.leaderboard.tables.report import collect

begin = time.process_time()
with open(sys.argv[1]) as file:
    for line in file:
        json.loads(line)
wall, start = time.perf_counter(), time.process_time()
records, problems = collect([sys.argv[1]])
read = time.process_time()
weight = write_site(records, Path(sys.argv[2]))
end = time.process_time()
assert not problems
print(json.dumps({
    "records": len(records),
    "parsing": start - begin,
    "cpu_seconds": end - start,
    "reading": read - start,
    "wall_seconds": time.perf_counter() - wall,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "pages": len(weight),
    "largest_page": max(weight.values()),
}))
"""


def measure(entries: int, tasks: int, rates: int, seeds: int) -> dict[str, float]:
    """Seconds of processor time, bytes of memory at the peak, bytes of the largest page."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs.jsonl"
        names = [f"mixer-{number}" for number in range(entries)]
        records = make_records(names, TASKS[:tasks], rates=RATES[:rates], seeds=seeds, all_seeds=True)
        with store.open("w") as file:
            file.writelines(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        command = [sys.executable, "-c", _CODE, str(store), str(Path(folder) / "site")]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    for name, value in measure(entries=105, tasks=8, rates=6, seeds=20).items():
        print(f"{name:>14} {value:,.1f}")
