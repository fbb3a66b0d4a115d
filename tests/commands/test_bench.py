"""`seqmix bench`: right numbers or no time, results that can be read again, documentation written from them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import seqmix.kernels
from seqmix.benchmarks import cases, gate, kernels, timing
from seqmix.benchmarks import tasks as task_bench
from seqmix.benchmarks.contestants import Contestant, contestants_for
from seqmix.benchmarks.model_decode import decode_goals
from seqmix.benchmarks.report import write
from seqmix.commands.bench.cli import main

QUICK = kernels.Settings(quick=True, threads=(1,), plan=timing.Plan(2, 0.0, 1.0))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def case_named(name: str) -> cases.Case:
    return next(case for case in cases.CASES if case.name == name)


@pytest.fixture(scope="module")
def kernel_record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "kernels.json"
    assert main(["kernels", "--quick", "--threads", "1", "--out", str(file)]) == 0
    return json.loads(file.read_text())


def test_every_case_is_checked_and_timed(kernel_record: dict[str, Any]) -> None:
    rows = kernel_record["rows"]
    assert {row["case"] for row in rows} == {case.name for case in cases.CASES}
    for case in cases.CASES:
        for kind in (kernels.FORWARD, kernels.BOTH):
            mine = {row["contestant"]: row for row in rows if row["case"] == case.name and row["pass"] == kind}
            assert {"seqmix", "plain loop", "copy"} <= set(mine)
            assert all(row["status"] == "ok" for row in mine.values()), mine
            assert 0 < mine["seqmix"]["error_over_allowed"] <= 1
            assert mine["seqmix"]["times_seqmix"] == 1
            assert mine["seqmix"]["moved_bytes"] > 0
            for row in mine.values():
                assert 0 < row["min_ms"] <= row["q20_ms"] <= row["median_ms"] <= row["q80_ms"]


def test_record_says_where_it_comes_from(kernel_record: dict[str, Any]) -> None:
    assert kernel_record["schema"] == 1
    assert kernel_record["bench"] == "kernels"
    assert kernel_record["device"] == "cpu"
    assert kernel_record["command"].startswith("seqmix bench kernels --quick")
    assert kernel_record["settings"]["quick"] is True
    assert {"processor", "cores", "usable_cores", "memory_bytes", "os", "load_average"} <= set(kernel_record["machine"])
    assert {"python", "torch", "numba", "seqmix"} <= set(kernel_record["versions"])
    assert {"date", "commit", "dirty"} <= set(kernel_record)


def wrong_by(error: float, *, in_gradient: bool = False) -> Any:
    right = seqmix.kernels.diagonal_scan

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, h: torch.Tensor) -> torch.Tensor:
            return h.clone()

        @staticmethod
        def backward(ctx: Any, dh: torch.Tensor) -> torch.Tensor:
            return dh * (1 + error)

    def scan(a: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, final = right(a, x)
        return (Wrong.apply(h) if in_gradient else h * (1 + error)), final

    return scan


@pytest.mark.parametrize("in_gradient", [False, True], ids=["output", "gradient"])
def test_wrong_kernel_gets_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, in_gradient: bool
) -> None:
    monkeypatch.setattr(seqmix.kernels, "diagonal_scan", wrong_by(1e-4, in_gradient=in_gradient))
    file = tmp_path / "result.json"
    arguments = ("kernels", "--quick", "--only", "diagonal_scan", "--threads", "1", "--out", str(file))
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert "WRONG" in next(line for line in out.splitlines() if line.startswith("seqmix  "))
    assert "diagonal_scan, seqmix: wrong" in err
    rows = [row for row in json.loads(file.read_text())["rows"] if row["contestant"] == "seqmix"]
    assert {row["pass"] for row in rows} == {kernels.FORWARD, kernels.BOTH}
    for row in rows:
        assert row["status"] == "wrong"
        assert all(row[name] is None for name in timing.NO_TIMES)


def test_wrong_in_any_sequence_or_not_finite_is_seen() -> None:
    case = case_named("diagonal_scan")
    inputs = case.inputs(case.quick, torch.float32, torch.device("cpu"))
    checks = gate.Gate(case, case.quick, inputs, torch.float32)
    loop, own, *_ = contestants_for(case)
    assert checks.check(loop).passed
    assert checks.check(own).passed

    def broken(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        h = seqmix.kernels.diagonal_scan(a, x)[0]
        return h * torch.ones_like(h).index_fill_(1, torch.tensor([20]), float("nan"))

    assert not checks.check(Contestant("broken", broken)).passed
    assert not checks.check(Contestant("shape", lambda a, x: (a * x)[:, :, :1])).passed


def test_a_lost_carry_is_seen_where_only_some_sequences_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_named("gated_block_scan")
    monkeypatch.setattr(gate, "_AFFORDABLE", 1)
    inputs = case.inputs(case.quick, torch.float32, torch.device("cpu"))
    checks = gate.Gate(case, case.quick, inputs, torch.float32)
    assert checks.checked_shape == (1, 33, 3, 4)
    loop, own, *_ = contestants_for(case)
    assert checks.check(loop).passed
    assert checks.check(own).passed

    def forgets(logits: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        parts = [seqmix.kernels.gated_block_scan(logits[:, s], v[:, s])[0] for s in (slice(0, 16), slice(16, None))]
        return torch.cat(parts, dim=1)

    assert not checks.check(Contestant("forgets", forgets)).passed


def test_an_op_that_raises_fails_the_run_and_a_peer_that_raises_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not today")

    case = case_named("higher_order_scan")
    loop, own, *_ = contestants_for(case)
    monkeypatch.setattr(kernels, "contestants_for", lambda *_, **__: [loop, own, Contestant("peer", refuse)])
    rows = kernels.run_case(case, QUICK, lambda text: None)
    peers = [row for row in rows if row["contestant"] == "peer"]
    assert {row["status"] for row in peers} == {"error"}
    assert "not today" in peers[0]["reason"]
    assert not any(kernels.is_failure(row) for row in rows)
    monkeypatch.setattr(kernels, "contestants_for", lambda *_, **__: [loop, Contestant("seqmix", refuse, "seqmix")])
    assert any(kernels.is_failure(row) for row in kernels.run_case(case, QUICK, lambda text: None))


def test_complex_numbers_are_skipped_in_low_precision(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "kernels", "--quick", "--only", "*complex,causal*", "--dtype", "bfloat16")
    assert status == 0
    assert "complex numbers have no low-precision type" in out


def test_moved_bytes_by_hand() -> None:
    case = case_named("diagonal_scan")
    inputs = case.inputs(case.quick, torch.float32, torch.device("cpu"))
    one = 4 * 2 * 33 * 8
    assert case.moved_bytes(inputs, inputs["x"], backward=False) == 3 * one
    assert case.moved_bytes(inputs, inputs["x"], backward=True) == 8 * one


def test_selective_scan_keeps_no_states(kernel_record: dict[str, Any]) -> None:
    rows = [row for row in kernel_record["rows"] if row["case"] == "selective_scan"]
    kept = {row["contestant"]: row["kept_beyond_inputs_bytes"] for row in rows}
    states = 4 * 2 * 33 * 8 * 4
    assert kept["seqmix"] < states / 2 < kept["plain loop"]


def test_layers_and_decode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    status, out, _ = run(capsys, "layers", "--quick", "--only", "bd-lru,lru", "--threads", "1", "--out", str(file))
    assert status == 0
    assert "bd-lru (block_size=4)" in out
    for row in json.loads(file.read_text())["rows"]:
        assert row["share_products"] + row["share_mixing"] + row["share_rest"] == pytest.approx(1)
        assert row["share_products"] > 0 and row["share_mixing"] > 0
        assert row["accounted"] == pytest.approx(1, abs=0.05)
        assert row["tokens_per_second"] > 0 and row["decode_median_ms"] > 0
        assert row["parameters"] > 0 and row["state_size"] > 0
    status, out, _ = run(capsys, "decode", "--quick", "--only", "bd-lru", "--threads", "1", "--batch", "1,3")
    assert status == 0
    assert out.count("bd-lru (block_size=4)") == 2


@pytest.mark.slow  # transformers takes its time to be imported
def test_whole_models_decode_beside_a_pass_over_their_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "decode.json"
    shown = [
        "--repeats",
        "2",
        "--length",
        "8",
        "--only",
        "bd-lru",
        "--threads",
        "1",
        "--batch",
        "1,3",
        "--layers",
        "2",
        "--d-model",
        "64",
    ]
    status, out, _ = run(capsys, "decode", *shown, "--peers", "--out", str(file))
    assert status == 0 and "bd-lru (block_size=4)" in out
    record = json.loads(file.read_text())
    rows = record["rows"]
    models = ["bd-lru", "attention", "transformers Llama", "mamba", "transformers Mamba", "mamba-2"]
    assert [row["mixer"] for row in rows] == [name for name in [*models, "transformers Mamba-2"] for _ in (1, 3)]
    for row in rows:
        assert row["status"] == "ok" or "not installed" in row["reason"]
        if row["status"] == "ok":
            assert min(row[key] for key in ("products_ms", "reading_ms", "median_ms", "peak_bytes")) > 0
    for ours, theirs in zip(rows[2::4], rows[4::4], strict=True):
        assert theirs["status"] != "ok" or ours["parameters"] == theirs["parameters"], "not the same model"
    assert not record["goals"], "sizes that say nothing of the goal"
    docs = tmp_path / "benchmarks.md"
    docs.write_text("")
    write([record], docs)
    assert docs.read_text().count("bd-lru (block") == 2 and "/reading: " in docs.read_text()


def test_peers_are_whole_models(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "decode", "--quick", "--peers")
    assert status != 0 and "--layers N" in err and len(err.splitlines()) == 1
    status, out, _ = run(
        capsys, "decode", "--quick", "--only", "lru", "--threads", "1", "--batch", "2", "--layers", "1"
    )
    assert status == 0 and "/reading" in out


def test_models_of_the_goal_are_held_to_it() -> None:
    row = {"mixer": "lru", "arguments": {}, "peer": False, "status": "ok", "threads": 1, "median_ms": 14.0}
    row |= {"reading_ms": 10.0, "sizes": {"layers": 12, "d_model": 768, "T": 8, "B": 1}}
    other = row | {"peer": True}, row | {"sizes": row["sizes"] | {"B": 16}}, row | {"threads": 2}
    (goal,) = decode_goals([row, *other])
    assert goal[1:] == ("1.40 x", False)
    assert decode_goals([row | {"reading_ms": 12.0}])[0][2]


@pytest.mark.slow
def test_fixed_points_show_error_beside_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "fixed.json"
    only = "fp-rnn linear T=64 radius<.9,fp-mamba*"
    status, out, _ = run(capsys, "fixed-point", "--quick", "--only", only, "--threads", "1", "--out", str(file))
    assert status == 0 and "sequential" in out
    record = json.loads(file.read_text())
    rows = {(row["mixer"], row["solver"]): row for row in record["rows"]}
    solvers = {("fp-rnn", solver) for solver in ("sequential", "direct", "sweeps")}
    solvers |= {("fp-mamba", solver) for solver in ("sequential", "sweeps")}
    assert set(rows) == solvers | {("fp-rnn", "scan and mixing x sweeps")}
    for name in solvers:
        assert rows[name]["error"] < 1e-4 and rows[name]["converged"] == 1 and rows[name]["step_median_ms"] > 0
    parts = rows["fp-rnn", "scan and mixing x sweeps"]
    assert parts["sweeps"] == rows["fp-rnn", "sweeps"]["sweeps"] > 1
    record["settings"]["quick"] = False
    docs = tmp_path / "fixed.md"
    write([record], docs)
    text = docs.read_text()
    assert "sweeps in no more time than as many diagonal scans and mixings" in text and "| direct |" in text


def test_layer_that_disagrees_with_itself_gets_no_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = seqmix.mixers.BDLRU.step
    monkeypatch.setattr(seqmix.mixers.BDLRU, "step", lambda self, x, state: right(self, 1.01 * x, state))
    status, out, _ = run(capsys, "layers", "--quick", "--only", "bd-lru", "--threads", "1")
    assert status == 1
    assert "WRONG" in out and "off the parallel pass" in out


def test_report_is_written_from_json_and_twice_changes_nothing(kernel_record: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernel_record = json.loads(json.dumps(kernel_record))
    docs = tmp_path / "docs" / "benchmarks.md"
    with pytest.raises(ValueError, match="standard sizes"):
        write([kernel_record], docs)
    kernel_record["settings"]["quick"] = False
    figure = write([kernel_record], docs)[1]
    first, drawn = docs.read_text(), figure.read_text()
    assert "| selective_scan (B=2, T=33, D=8, N=4) | forward+backward | 1 |" in first
    docs.write_text("# Mine\n\n" + first + "\nmine too\n")
    before = docs.read_text()
    write([kernel_record], docs)
    assert (docs.read_text(), figure.read_text()) == (before, drawn)
    docs.write_text(before.replace("<!-- bench cpu: end -->", ""))
    with pytest.raises(ValueError, match="--docs must hold"):
        write([kernel_record], docs)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("kernels", "--only", "diagonal_scam"),
            "unknown case for --only 'diagonal_scam'; did you mean 'diagonal_scan",
        ),
        (("layers", "--only", "bdlru"), "unknown mixer for --only 'bdlru'; did you mean 'bd-lru'"),
        (("kernels", "--device", "toaster"), "--device must be a device that torch can use here, got 'toaster'"),
        (("kernels", "--quick", "--out", "/proc/none/x.json"), "--out must name a file that can be written"),
        (("report", "/nowhere.json"), "cannot read '/nowhere.json'"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str) -> None:
    status, _, err = run(capsys, *argv)
    assert status == 2
    assert message in err


@pytest.mark.parametrize("argv", [("kernels", "--threads", "0"), ("kernels", "--dtype", "int8"), ()])
def test_argument_errors_exit_with_two(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    assert stopped.value.code == 2
    assert capsys.readouterr().err


def test_summary_of_samples() -> None:
    times = timing.summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (times.min_ms, times.median_ms, times.samples) == (1, 3, 5)
    assert (times.q20_ms, times.q80_ms) == pytest.approx((1.8, 4.2))


def test_needs_neither_lightning_nor_jsonargparse() -> None:
    code = (
        "import sys, seqmix.commands.bench.cli; print([m for m in ('lightning', 'jsonargparse', 'datasets', 'numba', "
    )
    code += "'matplotlib', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_task_is_timed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, names = tmp_path / "tasks.json", ("word-problem", "string-copy", "modular-arithmetic")
    status, out, _ = run(capsys, "tasks", "--quick", "--only", ",".join(names), "--out", str(file))
    entry = json.loads(file.read_text())
    assert status == 0 and [row["task"] for row in entry["rows"]] == sorted(names)
    for row in entry["rows"]:
        assert row["status"] == "ok" and row["task"] in out and row["threads"] == 1
        assert row["sequences_per_second"] == pytest.approx(1e3 * row["sizes"]["B"] / row["median_ms"])
    entry["settings"]["quick"] = False
    docs = write([entry], tmp_path / "benchmarks.md")[0].read_text()
    assert "| word-problem | 4 | 129 |" in docs and "word-problem, length 129: at least 20,000 sequences" in docs
    assert run(capsys, "tasks", "--only", "word-problm")[2].count("did you mean 'word-problem'") == 1
    assert "on one core" in run(capsys, "tasks", "--device", "cuda")[2]
    assert "without --device, --dtype" in run(capsys, "tasks", "--dtype", "bfloat16")[2]


def test_a_task_that_cannot_be_built_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(task_bench._ARGUMENTS, "parity", {"train_length": 0})
    row = task_bench.run_task("parity", True, timing.Plan(2, 0.0, 1.0), print)
    assert row["status"] == "error" and "train_length must be a positive integer, got 0" in row["reason"]
