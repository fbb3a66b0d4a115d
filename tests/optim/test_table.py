"""The registry's table in the documentation is the registry."""

from pathlib import Path

import pytest

from seqmix.__main__ import main
from seqmix.optim import list_optimizers
from seqmix.optim.table import registry_table


def test_the_documentation_has_the_table_of_today():
    page = (Path(__file__).parents[2] / "docs/optimizers.md").read_text()
    assert registry_table() in page
    assert all(f"| `{name}` |" in page for name in list_optimizers())


def test_the_command_writes_between_its_markers(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- optimizers: begin -->\nold\n<!-- optimizers: end -->\nafter\n")
    for _ in range(2):
        assert main(["list", "optimizers", "--docs", str(page)]) == 0
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| `ngn-md` |") == 1
    page.write_text("nothing")
    assert main(["list", "optimizers", "--docs", str(page)]) == 2
    assert "once each" in capsys.readouterr().err


def rows(capsys, *arguments):
    assert main(["list", "parameters", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_list_parameters(capsys):
    options = ["--mixer", "attention", "--optimizer", "muown"]
    plain = rows(capsys, *options)
    assert plain["embedding.weight"] == "256 x 128 adamw no embedding"
    assert plain["blocks.0.mixer.qkv_proj.weight"] == "384 x 128 muown yes two axes"
    changed = rows(capsys, *options, "--optimizer.fused={qkv_proj: 3}", "--optimizer.rest", "out_proj")
    assert changed["blocks.0.mixer.qkv_proj.weight"] == "384 x 128 muown yes two axes; row blocks 3"
    assert changed["blocks.0.mixer.out_proj.weight"] == "128 x 128 adamw yes rest 'out_proj'"
    assert rows(capsys, "--config", "a5")["head.weight"] == "61 x 128 adamw yes"
    around = rows(capsys, "--mixer", "lru", "--optimizer", "anti-pgd", "--optimizer.base", "signum")
    assert around["blocks.0.mixer.nu_log"].startswith("128 anti-pgd around signum no declared by LRU; lr x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "muown"], "expected --config NAME or --mixer NAME"),
        (["--mixr", "lru"], "did you mean '--mixer'"),
        (["--mixer"], "--mixer: expected a value"),
        (["--mixer", "lru", "--optimizer", "muon", "--optimizer.rest", "qkv"], "'qkv' finds none of"),
        (["--mixer", "lru", "--optimizer", "muone"], "did you mean 'muon'"),
    ],
)
def test_list_parameters_mistakes(arguments, message, capsys):
    assert main(["list", "parameters", *arguments]) == 2
    assert message in capsys.readouterr().err
