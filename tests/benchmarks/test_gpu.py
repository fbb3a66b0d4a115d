"""What `seqmix bench` does on a GPU, as far as it can be seen without one: sizes, goals, figures, the row loop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange

from seqmix.benchmarks import gpu_goals, gpu_peers, timing
from seqmix.benchmarks.cases import CASES
from seqmix.benchmarks.contestants import contestants_for
from seqmix.benchmarks.kernels import BOTH, FORWARD
from seqmix.benchmarks.report import write
from seqmix.benchmarks.sweeps import BLOCKS, SWEEPS, standard_sizes, sweep_sizes
from seqmix.commands.bench.cli import main
from seqmix.kernels.block_scan.reference import gated_block_scan
from tests.conftest import INTERPRETED

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sweeps_keep_what_they_say(case: Any, device: torch.device) -> None:
    standard = standard_sizes(case, device)
    assert standard.keys() == case.sizes.keys()
    tokens = standard["B"] * standard["T"]
    lengths = sweep_sizes(case, device, "length")
    assert lengths
    assert all(sizes["B"] * sizes["T"] == tokens for sizes in lengths)
    assert {sizes["B"] for sizes in sweep_sizes(case, device, "growth")} == {standard["B"]}
    blocks = sweep_sizes(case, device, "block")
    assert [sizes["m"] for sizes in blocks] == (list(BLOCKS) if "m" in standard else [])
    for sizes in blocks:
        if "N" in sizes:
            states = standard["N"] * standard["m"]
            assert states - sizes["m"] < sizes["N"] * sizes["m"] <= states


def row(contestant: str, ms: float, **more: Any) -> dict[str, Any]:
    role = {"seqmix": "seqmix", "copy": "yardstick"}.get(contestant, "peer")
    base = {"case": "diagonal_scan", "contestant": contestant, "role": role, "pass": FORWARD, "status": "ok"}
    base |= {"dtype": "float32", "sizes": {"B": 8, "T": 4096, "D": 1536}, "median_ms": ms, "threads": 1}
    base |= {"copy_fraction": 1.0 / ms, "times_seqmix": ms, "reason": "", "q20_ms": ms, "q80_ms": ms, "min_ms": ms}
    return (
        base | {"first_ms": 5.0, "peak_bytes": 10**6, "kept_beyond_inputs_bytes": 0, "error_over_allowed": 0.5} | more
    )


def test_goals_take_the_worst_size_and_leave_out_what_they_do_not_speak_of() -> None:
    long = {"B": 8, "T": 65536, "D": 1536}
    rows = [row("seqmix", 1.1), row("accelerated-scan", 1.0), row("seqmix", 1.25, sizes=long)]
    rows += [row("seqmix", 9.0, sizes={"B": 8, "T": 1024, "D": 1536}), row("seqmix", 9.0, dtype="bfloat16")]
    results = {goal: (measured, met) for goal, measured, met in gpu_goals.gpu_goals(rows)}
    share = next(value for goal, value in results.items() if "85 %" in goal)
    ratio = next(value for goal, value in results.items() if "accelerated-scan" in goal)
    assert share == ("80 %", False), "the slowest of the lengths from 4,096"
    assert ratio == ("1.10 x", False)
    assert len(results) == 2, "no goal without a measurement"
    assert gpu_goals.gpu_goals([row("seqmix", 1.0, status="wrong")]) == []


def test_peers_enter_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peers.importlib.util, "find_spec", lambda name: object())
    names = {case.name: [peer[0] for peer in gpu_peers.gpu_peers(case)] for case in CASES}
    assert names["diagonal_scan"] == ["accelerated-scan", "fla hgrn"]
    assert names["diagonal_scan_complex"] == ["accelerated-scan"]
    assert names["diagonal_scan_constant"] == []
    assert names["selective_scan"] == ["mamba-ssm"]
    here = {one.name for one in contestants_for(BY_NAME["gated_block_scan"], CPU)}
    there = {one.name for one in contestants_for(BY_NAME["gated_block_scan"], GPU)}
    assert there - here == {"loop by rows"}
    assert "mamba-ssm" not in {one.name for one in contestants_for(BY_NAME["selective_scan"], CPU)}


@pytest.mark.parametrize("m", [1, 2, 5])
def test_loop_by_rows_is_the_recurrence(m: int) -> None:
    from seqmix.benchmarks.loop_by_rows import loop_by_rows

    device = "cpu" if INTERPRETED else "cuda"
    logits, v = torch.randn(2, 5, 3, m, m + 1, device=device), torch.randn(2, 5, 3, m, device=device)
    expected = gated_block_scan(logits, v, torch.zeros(2, 3, m, device=device))[0]
    torch.testing.assert_close(loop_by_rows(logits, v), expected)


def test_softmax_attention_takes_what_a_linear_one_takes() -> None:
    q, k, v = (torch.randn(2, 7, 3, 4) for _ in range(3))
    scores = rearrange(q, "b t h k -> b h t k") @ rearrange(k, "b s h k -> b h k s") / 2
    weights = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)
    out = gpu_peers.attention(q, k, v, log_g=torch.zeros_like(q))
    torch.testing.assert_close(out, torch.einsum("bhts,bshv->bthv", weights, v))


def test_kernel_clock_is_the_wall_clock_without_a_gpu() -> None:
    calls: list[int] = []
    assert timing.kernel_clock(CPU)(lambda: calls.append(1), 3) > 0
    assert len(calls) == 3


@pytest.mark.sample(1)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_is_recorded(sweep: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.json"
    only = "gated_higher_order_scan"
    assert main(["kernels", "--quick", "--threads", "1", "--only", only, "--sweep", sweep, "--out", str(file)]) == 0
    record = json.loads(file.read_text())
    axis = "m" if sweep == "block" else "T"
    assert record["settings"]["sweep"] == sweep
    assert len({row["sizes"][axis] for row in record["rows"]}) >= 2
    assert all(row["first_ms"] > 0 for row in record["rows"] if row["contestant"] == "seqmix")
    capsys.readouterr()
    assert main(["kernels", "--quick", "--only", "causal_conv1d", "--sweep", "block"]) == 2
    assert "--sweep block changes none" in capsys.readouterr().err


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["kernels", "--device", "cuda", "--quick"]) == 2
    message = capsys.readouterr().err
    assert "--device must be a device that torch can use here, got 'cuda'" in message
    assert message.count("\n") == 1


def test_documentation_of_a_gpu(tmp_path: Path) -> None:
    settings = {"quick": False, "memory": "system", "repeats": 9, "sweep": "growth"}
    machine = {"accelerator": "Some GPU", "processor": "cpu", "usable_cores": 2, "os": "Linux"}
    long = {"B": 8, "T": 65536, "D": 1536}
    rows = [row(name, ms, sizes=sizes, **{"pass": kind}) for name, ms in (("seqmix", 1.0), ("accelerated-scan", 1.5))
            for sizes in (long | {"T": 4096}, long) for kind in (FORWARD, BOTH)]  # fmt: skip
    record = {"schema": 1, "bench": "kernels", "date": "2026-01-01", "command": "seqmix bench kernels", "rows": rows}
    record |= {"device": "cuda", "machine": machine, "versions": {}, "commit": None, "dirty": None}
    trained = {"mixer": "lru", "arguments": {}, "sizes": {"T": 2048}, "steps": 200, "dtype": "bfloat16", "reason": ""}
    trained |= {"parameters": 10, "step_ms": 1.0, "first_ms": 2.0, "tokens_per_second": 3.0, "utilisation": 0.4}
    trained |= {"peak_bytes": 10**9, "first_loss": 5.7, "last_loss": 5.55, "status": "ok"}
    training = record | {"bench": "training", "rows": [trained], "settings": settings | {"sweep": None}}
    files = write([training, record | {"settings": settings}], tmp_path / "benchmarks.md")
    text = files[0].read_text()
    assert text.index("### Kernels") < text.index("### Training")
    assert "Some GPU" in text
    assert "T=65536" in text
    assert "1.50 x" in text, "the peer's time over ours"
    assert "| lru | - | 10 |" in text
    assert files[1].read_text().startswith("<?xml")
