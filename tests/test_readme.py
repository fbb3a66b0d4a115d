"""The README's Python runs as it stands, and its YAML is a config that builds."""

import re
from pathlib import Path

import torch
import yaml

from seqmix.training.config_files import expand, load_config

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_python_runs() -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["tokens"].shape == (1, 30)  # type: ignore[attr-defined]


def test_config_is_one(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    path = tmp_path / "my.yaml"
    path.write_text(block)
    config = expand(load_config(str(path)))
    assert config["data"]["init_args"]["group"] == "S4"
    assert config["model"]["mixer"] == yaml.safe_load(block)["mixer"]
