"""Eigenvalues of a model's layers at a step of its training: `spectra/step-N.npz` in the folder of a run."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqmix._files import write_whole

__all__ = ["SpectrumRecord", "read_spectra", "spectrum_files"]

_LAYER = "layer:"


@dataclass(frozen=True, eq=False)
class SpectrumRecord:
    """What one file holds."""

    step: int
    tokens: NDArray[np.int64]  # (B, T)
    layers: dict[str, NDArray[np.complexfloating]] = field(default_factory=dict)  # (B, T, E) by the name of the mixer

    def write(self, folder: Path) -> Path:
        """`folder/step-N.npz`, whole."""
        path = folder / f"step-{self.step}.npz"
        layers = {f"{_LAYER}{name}": values for name, values in self.layers.items()}

        def save(part: Path) -> None:
            with part.open("wb") as file:  # by a name, numpy would add a suffix
                np.savez_compressed(file, step=np.int64(self.step), tokens=self.tokens, **layers)  # type: ignore[arg-type]

        write_whole(path, save)
        return path

    @classmethod
    def read(cls, path: Path) -> "SpectrumRecord":
        """Raises `ValueError` for a file that is none of these."""
        try:
            with np.load(path) as file:
                layers = {name.removeprefix(_LAYER): file[name] for name in file.files if name.startswith(_LAYER)}
                return cls(int(file["step"]), file["tokens"], layers)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: expected eigenvalues that SpectrumRecorder wrote, got {error}") from None


def spectrum_files(folder: Path) -> dict[int, Path]:
    """The files in `folder` by their steps, in order."""
    found = {
        int(match[1]): path for path in folder.glob("step-*.npz") if (match := re.fullmatch(r"step-(\d+)", path.stem))
    }
    return dict(sorted(found.items()))


def read_spectra(folder: Path) -> list[SpectrumRecord]:
    """All records in `folder`, by step; `ValueError` where there are none."""
    files = spectrum_files(folder)
    if not files:
        raise ValueError(f"{folder}: expected files step-N.npz of a run with `--spectrum.every N`, got none")
    return [SpectrumRecord.read(path) for path in files.values()]
