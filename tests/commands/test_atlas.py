"""`seqmix atlas`: the table, what a cell follows from, and checks of written weights."""

import re

import pytest

from seqmix.__main__ import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status = main(["atlas", *words])
    assert status == 0
    return capsys.readouterr().out


def test_a_table_and_a_figure(capsys, tmp_path) -> None:
    figure = tmp_path / "atlas.svg"
    out = said(capsys, "--mixer", "mamba", "lstm", "--automaton", "Z2", "clip 3", "--figure", str(figure))
    assert out.splitlines()[:4] == [
        "| one layer | Z2 | clip 3 | theorems |",
        "|---|:-:|:-:|---|",
        "| mamba | - | - | monotone floats, P |",
        "| lstm | Y | Y |  |",
    ]
    assert "4 of 4 cells are decided" in out and "| clip 3 | `clip-3` | 4 | 2 | 18 | - | EL |" in out
    first = figure.read_bytes()
    said(capsys, "--mixer", "mamba", "lstm", "--automaton", "Z2", "clip 3", "--figure", str(figure))
    assert figure.read_bytes() == first


def test_why(capsys) -> None:
    out = said(capsys, "--mixer", "mamba", "pd-ssm", "--automaton", "first", "--why")
    assert "mamba, first: cannot\n  by: P\n" in out and "states stay exact: yes" in out


def test_what_was_learned(capsys, tmp_path) -> None:
    records = ["--records", "docs/results/parity.jsonl", "--mixer", "mamba, conv", "bd-lru, m = 2", "lstm"]
    words = [*records, "--automaton", "Z2", "(ab)*"]
    figure, out = tmp_path / "cells.svg", tmp_path / "cells"
    table = said(capsys, *words, "--cells", "--figure", str(figure)).splitlines()
    assert table[2:4] == ["| *positive diagonals* | | |", "| mamba, conv | [-][p1] 0/3 | [Y][p2] |"]
    assert "[p1]: atlas.md#monotone-floats" in table and "[p2]: atlas.md#weights-that-are-written" in table
    assert "learned: 0 of 3 runs, 0 certified" in said(capsys, *words, "--why")
    said(capsys, *words, "--out", str(out))
    assert "docs/atlas.md, under #weights" in (out / "lstm.html").read_text()
    (tmp_path / "atlas.html").write_text("the site")
    said(capsys, *words, "--out", str(out))
    assert 'href="../atlas.html#weights-that-are-written"' in (out / "lstm.html").read_text()
    pages = {path.name: path.read_text() for path in out.glob("*.html")}
    assert set(pages) == {"index.html", "mamba-conv.html", "bd-lru-m-2.html", "lstm.html"}
    leads = re.findall(r'<a xlink:href="([^"#]*)#([^"]*)"', pages["index.html"])
    assert len(leads) == 6 and all(f'id="{anchor}"' in pages[page] for page, anchor in leads)
    beside = re.findall(r'<a xlink:href="cells/([^"]*)"', figure.read_text())
    assert beside == ["#".join(lead) for lead in leads]
    lstm = "construct({&#39;name&#39;: &#39;lstm&#39;}, &#39;Z2&#39;)"
    assert lstm in pages["lstm.html"] and "seqmix fit --config parity" in pages["bd-lru-m-2.html"]
    assert main(["atlas", "--cells"]) == 2 and "expected --records" in capsys.readouterr().err


def test_check(capsys) -> None:
    out = said(capsys, "--mixer", "pd-ssm", "mamba", "--automaton", "Z2", "--check")
    assert out.startswith("pd-ssm, Z2: right on 128 words") and "mamba" not in out


def test_unknown_names(capsys) -> None:
    assert main(["atlas", "--mixer", "mambo"]) == 2
    assert "unknown mixer of the atlas: 'mambo'; did you mean 'mamba'" in capsys.readouterr().err
