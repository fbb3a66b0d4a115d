"""Checkpoints of which every process writes its own part: torch's distributed checkpoints (DCP), in a folder.

Read within the rules for files of others: torch unpickles what such a folder says of itself, and so could run anything.
Here what may be named is what those descriptions are made of, values are read as weights are, and files lie in the
folder.
"""

import io
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from seqmix._bounded import check_expanded

__all__ = ["read_rest", "read_sharded", "remove_sharded", "write_sharded"]

# What there is beside tensors, as Lightning calls it.
_REST = "meta.pt"
_DESCRIPTION = ".metadata"
_LARGEST = 1 << 28  # bytes of a description
_MADE_OF = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"},
}


def write_sharded(path: Path, tensors: dict[str, Any], rest: dict[str, Any]) -> None:
    """Every process writes its part of `tensors`, the first one the rest; the one before stays until all are there."""
    part = path.with_name(f"{path.name}.part")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    dist.barrier()
    dcp.save(tensors, checkpoint_id=part)
    if first:
        torch.save(rest, part / _REST)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        part.rename(path)
    dist.barrier()


def remove_sharded(path: Path) -> None:
    """Make room for a file where such a folder is."""
    if path.is_dir() and (path / _DESCRIPTION).is_file():
        shutil.rmtree(path)


def read_sharded(path: Path, tensors: dict[str, Any]) -> None:
    """Fill `tensors` in place with what the checkpoint has of them, however many processes wrote it.

    Raises:
        ValueError: a damaged checkpoint, one without these tensors, or one that names what it must not.
    """
    try:
        dcp.load(tensors, storage_reader=_Reader(path), planner=_Planner())
    except (OSError, KeyError, RuntimeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise _none(path, error) from None
    except dcp.CheckpointException as error:
        raise _none(path, next(iter(error.failures.values()))[0]) from None


def read_rest(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors; `ValueError` for one that is damaged."""
    from seqmix.training.checkpoint_files import check_archive

    try:
        check_archive(path / _REST)
        rest: dict[str, Any] = torch.load(path / _REST, map_location="cpu", weights_only=True)
        check_expanded(rest)
        rest.items()
    except Exception as error:  # unpickling fails in many ways
        raise _none(path, error) from None
    return rest


def _none(path: Path, error: BaseException) -> ValueError:
    said = str(error).strip().partition("\n")[0]
    return ValueError(f"ckpt_path: {path} is no whole sharded checkpoint of this model: {said or type(error).__name__}")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _MADE_OF.get(module, ()):
            raise ValueError(f"its description names {module}.{name}")
        return super().find_class(module, name)


class _Reader(dcp.FileSystemReader):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        file = self.folder / _DESCRIPTION
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"expected a description of at most {_LARGEST} bytes, got {file.stat().st_size}")
        found = _Unpickler(io.BytesIO(file.read_bytes())).load()
        for info in found.storage_data.values():
            name = str(info.relative_path)
            if not re.fullmatch(r"__\d+_\d+\.distcp", name) or (self.folder / name).is_symlink():
                raise ValueError(f"expected files of its own folder, got {name!r:.80}")
            if getattr(info, "transform_descriptors", None):
                raise ValueError("expected files as they are, got transformed ones")
        if found.storage_meta is not None:
            found.storage_meta.load_id = self.load_id
        return found


class _Planner(DefaultLoadPlanner):
    """torch's own, which reads values with `weights_only`."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        found = torch.load(value, weights_only=True)
        with io.BytesIO() as again:  # checked: torch's may read it now
            torch.save(found, again)
            again.seek(0)
            super().load_bytes(read_item, again)
