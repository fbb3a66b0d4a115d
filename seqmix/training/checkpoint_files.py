"""How checkpoints come to the disk and back: whole or not at all, and damaged ones named in one line."""

import errno
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from seqmix._bounded import check_expanded
from seqmix._files import write_whole

__all__ = ["WholeCheckpoints", "check_archive", "read_checkpoint", "write_checkpoints_whole"]


def check_archive(path: Path) -> None:
    """`ValueError` unless a file is a zip archive as `torch.save` writes it: nothing in it is larger than the file is.

    What is packed may become a thousand times as large, before anybody knows what it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise ValueError(f"no archive of torch.save: {error}") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("expected an archive whose files are stored as they are, got one that is packed")
    held, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if held > size:
        raise ValueError(f"expected an archive that is as large as its files, got {held} bytes in {size}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; `ValueError` for a file that is none."""
    try:
        check_archive(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["hyper_parameters"].items(), content["state_dict"].items()
        check_expanded(content)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ValueError(f"checkpoint: cannot read {path}: {error.strerror}") from None
    except Exception as error:  # unpickling fails in many ways
        raise ValueError(f"checkpoint: {path} is not one of seqmix fit: {_reason(error)}") from None
    return content


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's files, written beside their place and renamed.

    Lightning writes them to the system's folder for temporary files. From another file system they are copied over
    the checkpoint that stands there, which is lost when that ends in the middle.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """The file at `path` is the one before until this one is on the disk; addresses of other kinds as Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(Path(path), lambda part: torch.save(checkpoint, part))
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # So says torch that the disk is full.
            raise OSError(errno.ENOSPC, f"no checkpoint could be written ({error})", str(path)) from None

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The content; a file that is no checkpoint, or half of one, is a `ValueError`."""
        try:
            if Path(path).is_file():
                check_archive(Path(path))
            content: Any = super().load_checkpoint(path, *args, **kwargs)
            check_expanded(content)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise ValueError(f"ckpt_path: cannot read {path}: {error.strerror or error}") from None
        except Exception as error:  # unpickling fails in many ways
            raise ValueError(f"ckpt_path: {path} is damaged or no checkpoint of seqmix fit: {_reason(error)}") from None
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
            raise ValueError(f"ckpt_path: {path} is no checkpoint of seqmix fit, it has no state_dict")
        return content


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else type(error).__name__


def write_checkpoints_whole(trainer: Trainer) -> None:
    """Let `trainer` use `WholeCheckpoints`, unless it was given something else than Lightning's default."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
