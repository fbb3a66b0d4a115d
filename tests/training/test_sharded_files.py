"""Checkpoints in parts, and what a stranger may have put into their folders."""

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from seqmix.benchmarks.processes import group
from seqmix.training.sharded_files import read_rest, read_sharded, write_sharded


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    with group(0, 1, f"{tmp_path}/store"):
        yield


def content() -> dict[str, Any]:
    return {"weights": {"a": torch.arange(6.0).view(2, 3)}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.95), "no": None}}


def empty() -> dict[str, Any]:
    return {"weights": {"a": torch.zeros(2, 3)}, "optimizer": {"lr": 0.0, "betas": (0.0, 0.0), "no": 1}}


def test_what_is_written_comes_back(alone: None, tmp_path: Path) -> None:
    folder = tmp_path / "last.ckpt"
    folder.write_text("a checkpoint of another strategy")
    for step in (1, 2):  # over a file, and over a folder
        write_sharded(folder, content(), {"global_step": step})
        found = empty()
        read_sharded(folder, found)
        assert torch.equal(found["weights"]["a"], content()["weights"]["a"])
        assert found["optimizer"] == content()["optimizer"] and read_rest(folder) == {"global_step": step}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("last")] == ["last.ckpt"]


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_nothing_that_a_folder_names_is_run(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "last.ckpt"
    write_sharded(folder, content(), {})
    description = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match=r"its description names (posix|nt|os)\.system"):
        read_sharded(folder, empty())
    metadata = pickle.loads(description)
    for index, info in metadata.storage_data.items():
        metadata.storage_data[index] = type(info)("../../elsewhere", info.offset, info.length)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"files of its own folder, got '\.\./\.\./elsewhere'"):
        read_sharded(folder, empty())
    (folder / "meta.pt").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="no whole sharded checkpoint"):
        read_rest(folder)
    assert not Path("ran").exists()


def test_values_are_read_as_weights_are(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "last.ckpt"
    with io.BytesIO() as stored:
        torch.save(Runs(), stored)
    dcp.save({"optimizer": {"lr": Runs()}}, checkpoint_id=folder)
    with pytest.raises(ValueError, match="no whole sharded checkpoint"):
        read_sharded(folder, {"optimizer": {"lr": 0.0}})
    assert not Path("ran").exists()


def test_damage_is_told(alone: None, tmp_path: Path) -> None:
    folder = tmp_path / "last.ckpt"
    write_sharded(folder, content(), {})
    with pytest.raises(ValueError, match="no whole sharded checkpoint of this model"):
        read_sharded(folder, {"weights": {"b": torch.zeros(2)}})
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(ValueError, match="no whole sharded checkpoint"):
        read_sharded(folder, empty())
    (folder / ".metadata").write_bytes(b"")
    with pytest.raises(ValueError, match="no whole sharded checkpoint"):
        read_sharded(folder, empty())
