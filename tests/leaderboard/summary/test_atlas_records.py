"""Records of runs beside the atlas: nothing that was learned is what cannot be, and a run that were would be told."""

import copy
from pathlib import Path

import pytest

from seqmix.__main__ import main
from seqmix.leaderboard.records.store import read_runs
from seqmix.leaderboard.summary.atlas_records import contradictions, learned, table

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.slow
def test_no_run_of_the_records_does_what_cannot_be() -> None:
    cells = [
        cell
        for name in ("block-law", "board-cpu", "certified")
        for cell in learned(read_runs(RESULTS / f"{name}.jsonl"))
    ]
    assert contradictions(cells) == []
    verdicts = {verdict: [c for c in cells if c.prediction.verdict == verdict] for verdict in ("can", "cannot", "open")}
    assert sum(c.runs for c in verdicts["cannot"]) > 700 and sum(c.solved for c in verdicts["can"]) > 500
    blocks = {
        (c.mixer, c.automaton): c for c in cells if c.mixer.startswith("bd-lru(block_size=2, normalization=softmax")
    }
    assert blocks["bd-lru(block_size=2, normalization=softmax)", "the word problem of Z2"].solved == 10


def test_a_contradiction_is_told(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(
        run
        for run in read_runs(RESULTS / "board-cpu.jsonl")
        if run["identity"]["mixer"] == "mamba" and run["identity"]["task"] == "parity" and run["status"] == "ok"
        and run["identity"]["mixer_kwargs"].get("eigenvalues") != "signed"
    )  # fmt: skip
    forged = copy.deepcopy(run)
    for metrics in forged["result"]["metrics"].values():
        metrics["seq"] = 1.0
    cells = learned([run, forged])
    assert [(c.runs, c.solved) for c in cells] == [(2, 1)]
    assert contradictions(cells)[0].endswith(
        "on the word problem of Z2: 1 of 2 runs solve it, and by monotone floats it cannot"
    )
    assert "| all |  | 1 of 2 |  |" in table(cells)
    assert main(["atlas", "--records", str(RESULTS / "parity.jsonl")]) == 0
    assert "| the word problem of Z2 |" in capsys.readouterr().out
