"""Tables and the sections that they are written into."""

from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.store import RunStore
from seqmix.leaderboard.tables.report import collect, render, write_section
from tests.leaderboard.example_records import make_record

README = "# Mine\n\n<!-- seqmix:a5 -->\nold\n<!-- /seqmix:a5 -->\n\nmine too\n"


def store(path: Path, *records: dict[str, Any]) -> Path:
    for record in records:
        RunStore(path).append(record)
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    values = [1.0, 1.0, 0.875, 0.9998, 1.0]
    return store(
        tmp_path / "a5.jsonl", *(make_record(seed=k, accuracies={16: 1.0, 64: v}) for k, v in enumerate(values))
    )


def test_seeds(five: Path) -> None:
    text = render(collect([five])[0], "seeds")
    assert text.splitlines()[2:] == [
        "| seed | 16 | 64 | steps | restarts | training, s |",
        "|---|---:|---:|---:|---:|---:|",
        "| 0 | 1.000 | 1.000 | 2,000 | 0 | 60 |",
        "| 1 | 1.000 | 1.000 | 2,001 | 0 | 61 |",
        "| 2 | 1.000 | 0.875 | 2,002 | 0 | 62 |",
        "| 3 | 1.000 | 0.999 | 2,003 | 0 | 63 |",
        "| 4 | 1.000 | 1.000 | 2,004 | 0 | 64 |",
        "| median | 1.000 | 1.000 | 2,002 |  | 62 |",
        "",
        "Solved, at least 0.99 at the training length: 5 of 5 seeds (Wilson 95 % interval 0.57 to 1.00). A processor, "
        "1 thread a run; torch 2.13.0, commit c0ffeec0ff.",
    ]
    assert text.startswith("**a5**: bd-lru(block_size=5), learning rate 0.002. Whole-sequence accuracy at each length.")


def test_summary(tmp_path: Path) -> None:
    path = store(
        tmp_path / "runs.jsonl",
        make_record(lr=1e-3, validation=0.5, accuracies={16: 0.5, 64: 0.1}),
        *(make_record(seed=k, validation=0.9, accuracies={16: a, 64: 0.2}) for k, a in enumerate([1.0, 0.9, 0.8])),
        make_record("a5-mamba", accuracies={16: 0.25, 64: 0.0}),
        make_record("a5-mamba", 1, diverged=True),
        make_record("a5-mamba", 2, failed=True),
    )
    lines = render(collect([path])[0], "summary").splitlines()
    assert lines[0] == "| config | mixer | learning rates | best | solved | 16 | 64 | training, s | parameters |"
    assert lines[2].split(" | ")[2:] == [
        "0.001, 0.002", "0.002", "1 of 3 (0.06 to 0.79)", "0.900 (0.800 to 1.000)", "0.200 (0.200 to 0.200)", "61",
        "147,552 |",
    ]  # fmt: skip
    assert "| 0.002 | 0.002 | 0 of 3 (0.00 to 0.56) | 0.000 (0.000 to 0.250) | 0.000 (0.000 to 0.000) |" in lines[3]
    assert "Diverged and failed runs count, with accuracy 0." in lines[5]
    assert [*collect([path], ["a5"])[0]] == collect([path])[0][:4]
    with pytest.raises(ValueError, match="no runs to report: s5"):
        collect([path], ["s5"])


def test_certificates_have_columns(tmp_path: Path) -> None:
    records = [make_record(seed=k) for k in range(4)] + [make_record(seed=4, failed=True)]
    for record, certificate in zip(
        records,
        [
            {"certified": True, "safe_length": 1234},
            {"certified": True, "safe_length": "every length"},
            {"certified": False, "safe_length": None},
        ],
        strict=False,
    ):
        record["result"]["certificate"] = certificate
    path = store(tmp_path / "runs.jsonl", *records)
    lines = render(collect([path])[0], "seeds").splitlines()
    assert lines[2] == "| seed | 16 | 64 | steps | restarts | training, s | processor, s | certified |"
    assert [line.split(" | ")[6:] for line in lines[4:10]] == [
        ["61", "yes; 1,234 |"], ["61", "yes; every length |"], ["61", "no |"], ["61", " |"], ["", " |"],
        ["61", "2 of 5 |"],
    ]  # fmt: skip
    assert lines[-1].startswith("Certified: with every row of gates replaced by its largest")
    header, _, row = render(collect([path])[0], "summary").splitlines()[:3]
    assert header.endswith("| 64 | certified | steps | training, s | parameters |")
    assert "| 2 of 5 | 2,002 | 62 | 147,552 |" in row


def test_second_attempt_replaces_the_first_and_failures_show(tmp_path: Path) -> None:
    path = store(
        tmp_path / "runs.jsonl",
        make_record(seed=0, failed=True),
        make_record(seed=0, attempt=2),
        make_record(seed=1, failed=True),
        make_record(seed=2, diverged=True),
    )
    rows = [line for line in render(collect([path])[0], "seeds").splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 0", "1.000", "0.750"],
        ["| 1", "failed", "failed"],
        ["| 2", "diverged", "diverged"],
        ["| median", "0.000", "0.000"],
    ]


def test_columns_by_another_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_record(accuracies={16: 0.5})
    run["result"]["metrics"]["16"] |= {"free_seq": 0.25, "free_tok": 0.625}
    path = store(tmp_path / "runs.jsonl", run)
    for kind in ("summary", "seeds"):
        assert main(["report", str(path), "--kind", kind, "--lengths", "16", "free_seq:16", "free_tok:16"]) == 0
        text = capsys.readouterr().out
        assert "| 16 | free_seq:16 | free_tok:16 |" in text and "| 0.500 | 0.250 | 0.625 |" in text
    assert main(["report", str(path), "--lengths", "best:16"]) == 2
    assert "expected one of last, seq, tok, free_seq, free_tok, macro before the colon" in capsys.readouterr().err
    plain = store(tmp_path / "plain.jsonl", make_record())
    assert main(["report", str(plain), "--lengths", "free_seq:16"]) == 2
    assert "has no measure 'free_seq'" in capsys.readouterr().err


def test_edited_config_is_another_row(tmp_path: Path) -> None:
    path = store(tmp_path / "runs.jsonl", make_record(seed=0), make_record(seed=1, model={"d_model": 64}))
    text = render(collect([path])[0], "summary")
    assert "| a5 (1) |" in text and "| a5 (2) |" in text


def test_written_twice_is_written_once(five: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    argv = ["report", str(five), "--kind", "seeds", "--solved", "16:0.99", "64:0.6", "--write", str(readme)]
    argv += ["--section", "a5"]
    assert main(argv) == 0
    first, stamp = readme.read_text(), readme.stat().st_mtime_ns
    assert first.startswith("# Mine\n\n<!-- seqmix:a5 -->\n**a5**") and first.endswith("-->\n\nmine too\n")
    assert "old" not in first and "Written by `seqmix leaderboard report" in first
    assert main(argv) == 0
    assert (readme.read_text(), readme.stat().st_mtime_ns) == (first, stamp)
    assert "says so already" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "a5.jsonl"]


def test_line_ends_and_links_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "target.md", tmp_path / "link.md"
    target.write_bytes(README.replace("\n", "\r\n").encode())
    target.chmod(0o600)
    link.symlink_to(target)
    assert write_section(link, "a5", "| a |\n|---|")
    assert not write_section(link, "a5", "| a |\n|---|")
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert b"<!-- seqmix:a5 -->\r\n| a |\r\n|---|\r\n<!-- /seqmix:a5 -->\r\n" in target.read_bytes()


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        (README, "s5", "must have the lines <!-- seqmix:s5 --> and <!-- /seqmix:s5 -->"),
        (README + README, "a5", "it has them 2 and 2 times"),
        ("<!-- /seqmix:a5 --><!-- seqmix:a5 -->", "a5", "in this order"),
        (README, "A 5", "--section: expected letters a-z"),
    ],
)
def test_markers_must_be_right(tmp_path: Path, text: str, section: str, message: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError) as error:
        write_section(readme, section, "table")
    assert message in str(error.value)
    assert readme.read_text() == text


def test_bad_lines_are_told_and_the_rest_is_reported(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = five.read_text().splitlines(keepends=True)
    five.write_text("".join([lines[0], "{}\n", *lines[1:], lines[4], lines[0][:50]]))
    assert main(["report", str(five), "--kind", "seeds"]) == 1
    out, err = capsys.readouterr()
    assert "5 of 5 seeds" in out
    assert f"{five}:2: schema_version" in err and f"{five}:7: id" in err
    assert f"warning: {five}:8: the last line is the beginning of a record" in err
    assert main(["validate", str(five)]) == 1
    assert "5 records, 2 problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["report", "/nowhere.jsonl"], "/nowhere.jsonl: expected a file of records, cannot read it"),
        (["report", "FILE", "--solved", "much"], "--solved: expected LENGTH:ACCURACY"),
        (["report", "FILE", "--solved", "8:0.5"], "was tested at 16, 64, not at length 8"),
        (["report", "FILE", "--section", "a5"], "--write and --section: expected both or none"),
        (["report", "FILE", "--write", "/nowhere.md", "--section", "a5"], "cannot read /nowhere.md"),
        (["run", "a6", "--store", "x.jsonl"], "unknown config, board or grid 'a6'; did you mean 'a5'"),
        (["run", "a5", "--set", "d_model", "--store", "x.jsonl"], "--set: expected KEY=VALUE"),
        (["run", "a5", "--seeds", "-1", "--store", "x.jsonl"], "--seeds: expected integers of at least 0, got -1"),
        (["run", "a5", "--lr", "0", "--store", "x.jsonl"], "--lr: expected positive numbers, got 0.0"),
        (["run", "a5", "--store", "/nowhere/x.jsonl"], "--store: expected a file in a folder that exists"),
    ],
)
def test_mistakes_are_named(five: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert main([str(five) if word == "FILE" else word for word in argv]) == 2
    assert message in capsys.readouterr().err


def text_record(mixer: str, bits: float, *, lr: float = 1e-3, seed: int = 0, validation: float = 2.0, **kwargs):
    record = make_record("lm", seed, lr=lr, accuracies={256: 0.5, 1024: 0.5}, mixer=mixer, **kwargs)
    if record["status"] == "failed":
        return record
    record["identity"] |= {"mixer": mixer, "mixer_kwargs": {}, "task_kwargs": {"corpus": "pydoc"}}
    rows = {n: {"tok": 0.5, "loss": 1.0, "bpb": bits - n / 1e5, "ppl": 2.0**bits, "n": 7} for n in (256, 1024)}
    result = record["result"]
    result |= {"metric": "bits_per_byte", "chance": None, "train_length": 256}
    result["metrics"] = {str(n): row for n, row in rows.items()} if result["metrics"] else {}
    result["curve"] = [{"step": 9, "accuracy": 0.5, "loss": 1.0, "bpb": validation}]
    result |= {"validation": result["curve"][0], "steps_to": None}
    assert not problems_of(record)
    return record


def test_text_of_which_every_run_has_failed_in_the_end() -> None:
    record = text_record("lstm", 2.5)
    again = make_record(failed=True) | {key: record[key] for key in ("id", "identity")} | {"attempt": 2}
    header, _, row, *_ = render([record, again], "text").splitlines()
    assert header == "| mixer | learning rates | best | steps | tokens | parameters | training, s |"
    assert row.startswith("| lstm |") and row.count("|") == header.count("|")


def test_text_table_ranks_by_bits_and_chooses_on_validation() -> None:
    records = [
        text_record("lstm", 2.5),
        text_record("bd-lru", 2.2, lr=3e-3, validation=1.9),
        text_record("bd-lru", 2.1, lr=1e-2, validation=1.95),  # better on the test, but not chosen
        text_record("mamba", 2.3, seed=0),
        text_record("mamba", 2.4, seed=1),
        text_record("gla", 9.0, diverged=True),
    ]
    table = render(records, "text")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["bd-lru", "mamba", "lstm", "gla"]
    assert rows[1][1:5] == ["0.003, 0.01", "0.003", "2.197", "2.190"] and rows[1][5] == f"{2**2.2:.3f}"
    assert rows[2][3] == "2.347 (2.297 to 2.397)" and rows[4][3] == "∞"
    assert "Diverged and failed runs count, with infinite bits." in table and "Text pydoc of Python 3.11" in table
    for kind, some in (("summary", records), ("text", [make_record()])):
        with pytest.raises(ValueError, match=f"--kind: runs on text, .* got '{kind}'"):
            render(some, kind)


def test_a_rate_that_diverges_on_text_is_not_chosen() -> None:
    records = [
        text_record("lstm", 2.5, lr=1e-3, validation=2.6),
        text_record("lstm", 2.5, lr=1e-2, diverged=True),
        text_record("lstm", 2.5, lr=1e-1, failed=True),
    ]
    assert "| lstm | 0.001, 0.01, 0.1 | 0.001 | 2.497 |" in render(records, "text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["result"]["metrics"]["256"].pop("bpb"), "result.metrics.256: expected tok, loss, bpb, ppl and n"),
        (lambda r: r["result"]["metrics"]["256"].update(last=0.5), "result.metrics.256: expected tok, loss, bpb, ppl"),
        (lambda r: r["result"]["metrics"]["256"].update(bpb=float("nan")), "result.metrics.256.bpb: NaN"),
        (lambda r: r["result"]["curve"][0].pop("bpb"), "result.curve.0: expected step, accuracy, loss and bpb"),
        (lambda r: r["result"].update(metric="token_accuracy"), "expected last, seq, tok, loss and n"),
    ],
)
def test_records_of_text(change, message: str) -> None:
    record = text_record("lstm", 2.5)
    change(record)
    assert any(message in problem for problem in problems_of(record))


HOSTILE = "x <script>alert(1)</script>\n\n# Heading\n| a | <!-- /seqmix:a5 --> [x](javascript:y)"


@pytest.mark.parametrize("kind", ["seeds", "summary", "board", "text"])
def test_text_of_records_is_text_in_every_table(kind: str, tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    record = make_record(HOSTILE, note=HOSTILE)
    for section in ("identity", "repro", "cost"):
        for name, value in record[section].items():
            if isinstance(value, str) and name != "config_hash":
                record[section][name] = HOSTILE
    record["identity"] |= {"board": HOSTILE, "entry": HOSTILE, "column": HOSTILE, "task_kwargs": {"corpus": HOSTILE}}
    record["identity"] |= {"mixer_kwargs": {HOSTILE: HOSTILE}, "overrides": [HOSTILE], "submission": None}
    for field in (record["result"]["metrics"], record["size"]["state_size"], record["size"]["state_bytes"]):
        field[HOSTILE] = field["64"]
    record["result"]["certificate"] = {"certified": True, "safe_length": HOSTILE}
    if kind == "text":
        record["result"] |= {"metric": "bits_per_byte", "steps_to": None, "chance": None}
        rows = {name: {"tok": 0.5, "loss": 1.0, "bpb": 2.0, "ppl": 4.0, "n": 9} for name in record["result"]["metrics"]}
        point = {"step": 500, "accuracy": 0.5, "loss": 1.0, "bpb": 2.0}
        record["result"] |= {"metrics": rows, "curve": [point], "validation": point}
    readme = tmp_path / "README.md"
    readme.write_text(README)
    argv = ["report", str(store(tmp_path / "x.jsonl", record)), "--kind", kind, "--write", str(readme)]
    for _ in range(2):
        assert main([*argv, "--section", "a5"]) == 0
    text = readme.read_text()
    shown = markdown.markdown(text, extensions=["tables"])
    assert "alert(1)" in text and not any(f"<{tag}" in shown for tag in ("script", "a ", "h2", "h3", "ul"))
    assert shown.count("<h1") == 1 and "mine too" in shown


def test_a_section_that_was_written_can_be_written_again(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    for text in (f"one {HOSTILE}", "two <!--/seqmix:a5-->", "three <!-- seqmix:a5 -->", "four"):
        assert write_section(readme, "a5", text)
    assert readme.read_text() == README.replace("old", "four")
