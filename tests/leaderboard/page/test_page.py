"""Pages of boards as files: what they say, what they escape, what they weigh, and that a folder changes as a whole."""

import csv
import html
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.boards.board import Board, Column
from seqmix.leaderboard.boards.budget import Budget
from seqmix.leaderboard.page import site, words, write_site
from seqmix.leaderboard.page.plots import Measure
from seqmix.leaderboard.page.svg import Axis, Plot, accuracy_axis, linear_axis, log_axis, strip
from seqmix.leaderboard.records.store import read_runs
from seqmix.leaderboard.summary.aggregate import aggregate
from tests.leaderboard.example_records import make_record
from tests.leaderboard.page.measure_page import measure
from tests.leaderboard.page.synthetic import ENTRIES, TASKS, make_records
from tests.pace import pace

Record = dict[str, Any]
HOSTILE = "<script>alert('1')</script> \"&amp;"


def write_lines(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", page))


@pytest.fixture(scope="module")
def first_board(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Path, dict[str, int]]:
    """14 entries on 8 tasks, six rates and five seeds."""
    records = list(make_records())
    out = tmp_path_factory.mktemp("page") / "site"
    return records, out, write_site(records, out)


def test_the_first_board_weighs_less_than_two_megabytes(first_board: Any) -> None:
    records, out, weight = first_board
    assert len(records) == len(ENTRIES) * len(TASKS) * 10
    assert sum(weight.values()) < 2e6
    on_disk = {
        path.relative_to(out).as_posix(): path.stat().st_size
        for path in out.rglob("*")
        if path.is_file() and "data" not in path.parts and path.name != "pages.json"
    }
    assert on_disk == weight


def test_pages_show_what_the_statistics_say(first_board: Any) -> None:
    records, out, _ = first_board
    (board,) = aggregate(records)
    overview = (out / "index.html").read_text()
    names = re.findall(r'<td class=name><a href="[^"]*">([^<]*)</a>', overview)
    assert names == [entry.name for entry in board.entries]
    for (entry, column), cell in board.cells.items():
        page = (out / "equal-parameters" / entry / f"{column}.html").read_text()
        shown = Measure("").tell(cell.median)
        assert f"<b>{shown}</b><span>median of {cell.n} seed" in page and f"{cell.solved} of {cell.n}" in page
        assert f"seed at rate {cell.best:g}<" in page or f"seeds at rate {cell.best:g}<" in page
        assert page.count("<tbody") == len(cell.runs)
        near = f'href="equal-parameters/{entry}/{column}.html"'
        assert near in overview and f"<b class=b>{shown}</b>" in overview


def test_every_run_has_its_page_and_its_exact_command(first_board: Any) -> None:
    records, out, _ = first_board
    found = {}
    for path in (out / "equal-parameters").glob("*/*.html"):
        page = path.read_text()
        common = re.search(r'data-before="([^"]*)" data-after="([^"]*)"', page)
        for run, command in re.findall(r"<tbody id=(\w+).*?<code>(.*?)</code>", page, re.DOTALL):
            assert run not in found
            found[run] = html.unescape(common[1] + command + common[2])
    assert found == {record["id"]: record["repro"]["command"] for record in records}


def test_data_to_take_away(first_board: Any) -> None:
    records, out, _ = first_board
    data = out / "equal-parameters" / "data"
    assert sorted(read_runs(data / "runs.jsonl"), key=lambda run: run["id"]) == sorted(
        records, key=lambda run: run["id"]
    )
    with (data / "a5.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = {record["id"]: record for record in records}
    assert len(rows) == len(ENTRIES) * 10
    for row in rows:
        run = known[row["id"]]
        assert row["command"] == run["repro"]["command"] and row["entry"] == run["identity"]["entry"]
        expected = (run["result"]["metrics"] or {}).get("64", {}).get("seq")
        assert row["seq_64"] == ("" if expected is None else str(expected))
    with (data / "board.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(ENTRIES) * len(TASKS)


def test_boards_are_kept_apart(tmp_path: Path) -> None:
    small, large = (list(make_records([name], ["a5"], seeds=2, board=name)) for name in ("small", "large"))
    write_site(small + large, tmp_path / "site")
    first, second = ((tmp_path / "site" / name).read_text() for name in ("index.html", "large/index.html"))
    for page, own, other in ((first, "small", "large"), (second, "large", "small")):
        assert re.findall(r"<td class=name><a[^>]*>([^<]*)", page) == [own]
        assert f'href="{"" if own == "small" else "../"}{"large/" if other == "large" else ""}index.html"' in page
        assert "are not compared" in page


def test_what_records_bring_is_escaped(tmp_path: Path) -> None:
    records = list(make_records([HOSTILE], [HOSTILE], seeds=2, board=HOSTILE))
    for record in records:
        record["reason"] = record["reason"] and HOSTILE
        record["identity"]["mixer_kwargs"] = {HOSTILE: HOSTILE} if record["status"] == "ok" else None
        record["repro"]["command"] = record["repro"]["commit"] = record["repro"]["processor"] = HOSTILE
    write_site(records, tmp_path / "site", title=HOSTILE)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 4
    for path in pages:
        page = path.read_text()
        assert "<script>alert" not in page and HOSTILE in texts(page)
        # In attributes as well: quotes of the name do not end them.
        assert not re.search(r'="[^">]*<', page)


def test_what_is_missing_by_the_plan_and_by_what_others_have(tmp_path: Path) -> None:
    names = ["lstm", "gla", "lru"]
    records = [r for r in make_records(names, ["a5", "mqar"], seeds=3, board="b") if r["status"] == "ok"]
    gla = [r for r in records if r["identity"]["entry"] == "gla"]
    worst = max(r["training"]["lr"] for r in gla)
    left = [
        r
        for r in records
        if r["identity"]["entry"] != "gla" or (r["identity"]["column"] == "a5" and r["training"]["lr"] != worst)
    ]
    write_site(left, tmp_path / "others")
    found = texts((tmp_path / "others/index.html").read_text())
    assert re.search(r"Not run\s+gla on mqar\s", found)
    assert re.search(rf"Learning rates not run\s+gla on a5\s+{worst:g}\s", found)
    rates = tuple(sorted({r["training"]["lr"] for r in records}))
    rows = {"lstm": {"name": "lstm"}, "gla": {"name": "gla"}, "dense": {"name": "dense"}}
    tasks = {"a5": Column("a5"), "mqar": Column("mqar")}
    plan = Board("b", Budget("parameters", 5e4), tasks, rows, {"gla": ("a5",)}, (*rates, 1.0), (0,), (0, 1, 2, 3))
    write_site(left, tmp_path / "planned", plans=[plan])
    found = texts((tmp_path / "planned/index.html").read_text())
    assert re.search(r"Not run\s+dense on a5\s+dense on mqar\s", found) and "gla on mqar" not in found
    assert re.search(rf"gla on a5\s+{worst:g}, 1\s", found) and re.search(r"lstm on a5\s+3 of 4\s", found)
    assert "2 tasks, equal parameters (50,000)" in found
    with pytest.raises(ValueError, match="--board: no record is of board 'b'"):
        write_site(list(make_records(["lstm"], ["a5"])), tmp_path / "no", plans=[plan])


def test_a_best_rate_at_an_end_of_the_grid_is_said(tmp_path: Path) -> None:
    results = {"rising": (0.2, 0.5, 0.9), "inner": (0.2, 0.9, 0.5), "solved": (0.2, 0.5, 1.0), "flat": (0.2, 0.2, 0.21)}
    records = []
    for entry, values in results.items():
        for lr, value in zip((1e-3, 3e-3, 1e-2), values, strict=True):
            records.append(make_record(entry, accuracies={16: value, 64: value}, lr=lr, validation=value))
            records[-1]["identity"] |= {"board": "b", "entry": entry, "column": "a5"}
    write_site(records, tmp_path / "site")
    found = texts((tmp_path / "site/index.html").read_text())
    assert re.search(r"Best rate at an end of the grid\s+rising on a5\s+0.01, its largest\s", found)
    assert len(re.findall(", its largest", found)) == 1
    assert "33 % of the grid near the best, which is its largest" in texts((tmp_path / "site/b/a5.html").read_text())


def test_broken_runs_are_said_and_counted(tmp_path: Path) -> None:
    records = [make_record("a", seed, accuracies={16: 1.0, 64: 0.5}) for seed in range(3)]
    records += [make_record("a", 3, diverged=True), make_record("a", 4, failed=True)]
    for record in records:
        record["identity"] |= {"board": "b", "entry": "a", "column": "a5"}
    write_site(records, tmp_path / "site")
    page = texts((tmp_path / "site/b/a/a5.html").read_text())
    assert "1 of 5 runs diverged." in page and "1 of 5 runs failed." in page and "MemoryError" in page
    assert "3 of 5" in page and "the loss is not finite at step 7" in page
    assert re.search(r"Diverged\s+a on a5\s+1 of 5 runs", texts((tmp_path / "site/index.html").read_text()))


def test_an_entry_is_described_by_what_all_its_runs_have(tmp_path: Path) -> None:
    records = [r for r in make_records(["gla"], ["a5", "mqar"], seeds=1) if r["status"] == "ok"]
    for record in records:
        solved = 1.0 if record["identity"]["column"] == "a5" else 0.71
        record["identity"]["mixer_kwargs"] = {"expand_k": solved, "n_heads": 2}
    write_site(records, tmp_path / "site")
    assert "<small>gla(<wbr>n_heads=2)</small>" in (tmp_path / "site/index.html").read_text()
    page = (tmp_path / "site/equal-parameters/gla/index.html").read_text()
    assert "gla(expand_k=1.0, n_heads=2), gla(expand_k=0.71, n_heads=2)" in page, "the page of the entry has all"
    assert words.layer_of(records[:1]) == "gla(expand_k=1.0, n_heads=2)"
    records[0]["identity"] |= {"mixer": "lru+gla", "mixer_kwargs": [{}, {"n_heads": 2}]}
    assert words.layer_of(records[:1]) == "lru+gla" and words.layer_of(records[:2]) == "lru+gla, gla"
    assert words.layer_of([]) == ""
    records[1]["identity"]["mixer_kwargs"] = {"dt_min": 0.00123456, "expand_k": 27 / 26}
    assert words.layer_of(records[1:2]) == "gla(dt_min=0.00123456, expand_k=1.0385)"
    for record in records:
        record["identity"] |= {"mixer": "gla", "mixer_kwargs": {}}
    write_site(records, tmp_path / "site")
    row = (tmp_path / "site/index.html").read_text().partition("<td class=name>")[2].partition("<td")[0]
    assert "<small>" not in row, "a name that says it all is said once"


def test_text_is_in_bits_per_byte(tmp_path: Path) -> None:
    records = read_runs(Path(__file__).parents[3] / "docs/results/lm.jsonl")[:4]
    write_site(records, tmp_path / "site")
    (cell,) = (c for c in aggregate(records)[0].cells.values() if c.entry == aggregate(records)[0].entries[0].name)
    page = (tmp_path / "site/index.html").read_text()
    assert f"<b class=b>{cell.median:.3f}</b>" in page and "bits per byte" in page
    assert "bits per byte" in (tmp_path / "site/runs/language-modeling.html").read_text()


def test_long_tables_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "_ROWS", 2)
    monkeypatch.setattr(site, "_RUNS", 3)
    monkeypatch.setattr(site, "_CELLS", 4)
    records = list(make_records(ENTRIES[:5], ["a5", "mqar"], seeds=2))
    write_site(records, tmp_path / "site")
    tables = {
        "index": "td class=name",
        "equal-parameters/a5": "td class=rank",
        "equal-parameters/bd-lru/a5": "<tbody id=",
    }
    parts = {"index": 3, "equal-parameters/a5": 3, "equal-parameters/bd-lru/a5": 3}
    rows = {"index": 5, "equal-parameters/a5": 5, "equal-parameters/bd-lru/a5": 7}
    for name, mark in tables.items():
        pages = [tmp_path / "site" / f"{name}{'' if n == 0 else f'-{n + 1}'}.html" for n in range(parts[name])]
        assert not pages[-1].with_name(f"{pages[0].stem}-{parts[name] + 1}.html").exists()
        assert sum(page.read_text().count(mark) for page in pages) == rows[name]
        for page in pages:
            assert all(f'href="{other.name}"' in page.read_text() for other in pages)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    write_site(list(make_records(["lru"], ["a5"], seeds=2)), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(site, "task_part", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_site(list(make_records(["gla"], ["a5"], seeds=2)), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path) == ["site"]
    monkeypatch.undo()
    write_site(list(make_records(["gla"], ["a5"], seeds=2)), out)
    assert (out / "equal-parameters/gla").is_dir() and not (out / "equal-parameters/lru").exists()
    (out / "CNAME").write_text("example.org")
    with pytest.raises(ValueError, match=r"--out: .* has files that this command did not write: CNAME"):
        write_site(list(make_records(["lru"], ["a5"], seeds=2)), out)
    assert (out / "CNAME").exists() and (out / "equal-parameters/gla").is_dir()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_lines(tmp_path / "runs.jsonl", list(make_records(["lru", "gla"], ["a5"], seeds=3)))
    figures = tmp_path / "figures"
    figures.mkdir()
    command = ["page", str(runs), "--out", str(tmp_path / "site"), "--title", "Mine", "--figures", str(figures)]
    assert main(command) == 0
    assert " files of 0." in capsys.readouterr().out and "<h1>Mine</h1>" in (tmp_path / "site/index.html").read_text()
    names = {f"equal-parameters-{name}" for name in ("scores", "a5-length", "a5-state", "a5-rate")}
    assert {path.name for path in figures.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    first = {path: path.read_bytes() for path in figures.iterdir()}
    assert main(command) == 0 and {path: path.read_bytes() for path in figures.iterdir()} == first
    assert "gla" in (figures / "equal-parameters-a5-length.svg").read_text()
    assert main(["page", str(runs), "--out", str(tmp_path / "no" / "site")]) == 2
    assert main(["page", str(runs), "--out", str(tmp_path / "site"), "--board", "cpuu"]) == 2
    assert "--board: expected a file or one of" in capsys.readouterr().err


def test_a_board_as_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = list(make_records(["lru", "gla"], ["a5", "mqar"], seeds=3))
    runs = write_lines(tmp_path / "runs.jsonl", records)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- seqmix:board -->\n<!-- /seqmix:board -->\nafter\n")
    command = ["report", str(runs), "--kind", "board", "--write", str(readme), "--section", "board"]
    assert main(command) == 0
    text = readme.read_text()
    (board,) = aggregate(records)
    best, cell = board.entries[0], board.cells[board.entries[0].name, "a5"]
    assert "| rank | entry | mean score | a5 | mqar |" in text and text.endswith("after\n")
    row = next(line for line in text.splitlines() if f"| {best.name} |" in line)
    assert f"{best.mean:.2f} (" in row and f", {cell.solved}/{cell.n} (" in row
    assert main(["report", str(runs), "--kind", "board", "--solved", "1x:0.9"]) == 2
    assert "--kind board: it decides --solved" in capsys.readouterr().err


def test_axes_and_marks() -> None:
    lengths = log_axis("length", [16, 64, 256])
    assert lengths.at(64) == pytest.approx(0.5) and 0 < lengths.at(16) < 0.1 and lengths.at(1e9) == 1
    assert [text for _, text in log_axis("rate", [1e-5, 3e-4, 0.01, 20_000]).ticks] == ["1e-5", "3e-4", "0.01", "20k"]
    assert len(log_axis("state", [2**n for n in range(20)], texts=8).ticks) <= 8
    assert [tick for tick, _ in linear_axis("steps", 0, 3000).ticks] == [0, 1000, 2000, 3000]
    assert linear_axis("steps", 1, 1).at(1) == 0
    plot = Plot(Axis("x", 0, 1, ((0.5, "<b>"),)), Axis("y", 0, 1, ()), 'a "name"')
    plot.mark(0.5, 0.5, 1, "<i>")
    plot.line([])
    text = plot.render()
    assert (
        "&lt;b&gt;" in text
        and "&lt;i&gt;" in text
        and 'aria-label="a &#34;name&#34;"' in text
        and "<path d" not in text
    )
    marks = strip([(1.0, "k"), (1.0, "k"), (0.0, "x"), (float("nan"), "u")], None, "seeds")
    assert marks.count("<circle") == 2 and marks.count("class=x") == 1 and "class=md" not in marks
    assert len(set(re.findall(r"cy=(\d+)", marks))) == 2, "equal values stand above each other"


def test_names_stand_beside_a_plot_and_not_on_one_another() -> None:
    plot = Plot(log_axis("length", (16, 64)), accuracy_axis("accuracy"), "x")
    plot.level(0.5, "chance")
    for number, value in enumerate((1.0, 0.99, 0.51, 0.5, 0.0, 0.0)):
        plot.call(value, f"entry {number}", number)
    svg = str(plot.render())
    names = re.findall(r'<text class="?lf(?: nm c\d)?"? x=(\d+) y=(\d+)>', svg)
    assert len(names) == 7 and {int(x) for x, _ in names} == {480 - 124 + 8}
    heights = sorted(int(y) for _, y in names)
    assert min(below - above for above, below in itertools.pairwise(heights)) >= 14 and heights[-1] <= 300 - 40 + 4


def test_more_than_eight_entries_are_named_and_grouped(tmp_path: Path) -> None:
    write_site(list(make_records(ENTRIES, TASKS[:1], seeds=2)), tmp_path / "site")
    page = (tmp_path / "site" / "equal-parameters" / f"{TASKS[0]}.html").read_text()
    over_length = page[page.index("Over the test length") : page.index("Over the size of the state")]
    assert over_length.count(" rest") == len(ENTRIES) - 8
    assert len(re.findall(r"<text class=.lf nm", over_length)) == 8
    assert "The first 8 by rank are in colour and named, the others grey." in page


def test_what_is_left_over_can_be_opened(tmp_path: Path) -> None:
    records = [*make_records(ENTRIES[:1], TASKS[:1], seeds=2), *make_records(ENTRIES, TASKS[1:2], seeds=2)]
    write_site(records, tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text()
    absent = len(ENTRIES) - 1
    assert f"and {absent - 12} more</summary>" in page and page.count(f" on {TASKS[0]}</li>") == absent


def test_ranks_are_of_those_that_are_ranked(tmp_path: Path) -> None:
    records = [*make_records(ENTRIES[:3], TASKS[:2], seeds=2), *make_records(ENTRIES[3:5], TASKS[:1], seeds=2)]
    write_site(records, tmp_path / "site")
    pages = [path.read_text() for path in (tmp_path / "site").glob("equal-parameters/*/index.html")]
    assert len(pages) == 5 and all("rank of 3 ranked" in page for page in pages)


def test_numbers_are_cut_off_below_one() -> None:
    measure = Measure("accuracy")
    assert [measure.tell(x) for x in (0.0, 0.1234, 0.9998, 1.0)] == [".000", ".123", ".999", "1.00"]
    assert [Measure("bits", text=True).tell(x) for x in (1.7961, float("inf"))] == ["1.796", "∞"]


def test_some_thousand_records() -> None:
    before = pace()
    took = measure(entries=40, tasks=6, rates=6, seeds=2)
    assert took["records"] == 40 * 6 * 12
    # Some thirtieth of 100,000; the bound on those is 30 s.
    assert took["cpu_seconds"] < 4 * max(before, pace()) and took["largest_page"] < 2e6


@pytest.mark.slow
def test_a_hundred_thousand_records() -> None:
    took = measure(entries=105, tasks=8, rates=6, seeds=20)
    assert took["records"] == 100_800
    # 12 times what the parser takes for the lines alone, which on the next processor is as much faster or slower.
    assert took["cpu_seconds"] < 16 * took["parsing"] and took["peak_bytes"] < 2 << 30 and took["largest_page"] < 2e6
