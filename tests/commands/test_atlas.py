"""`seqmix atlas`: the table, what a cell follows from, and checks of written weights."""

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


def test_check(capsys) -> None:
    out = said(capsys, "--mixer", "pd-ssm", "mamba", "--automaton", "Z2", "--check")
    assert out.startswith("pd-ssm, Z2: right on 128 words") and "mamba" not in out


def test_unknown_names(capsys) -> None:
    assert main(["atlas", "--mixer", "mambo"]) == 2
    assert "unknown mixer of the atlas: 'mambo'; did you mean 'mamba'" in capsys.readouterr().err
