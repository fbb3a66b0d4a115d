"""Files and folders are replaced as a whole, or stay."""

import os
from pathlib import Path

import pytest

from seqmix import _files
from seqmix._files import write_folder_whole, write_together


def filled(text: str):
    return lambda part: (part / "a.txt").write_text(text)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_new_folder_takes_the_place_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool) -> None:
    if not swaps:
        monkeypatch.setattr(_files, "_swap", lambda one, other: False)
    out = tmp_path / "site"
    write_folder_whole(out, filled("one"))
    assert (out / "a.txt").read_text() == "one" and out.stat().st_mode & 0o055 == 0o055
    (out / "old.txt").write_text("")
    write_folder_whole(out, filled("two"))
    assert [file.name for file in out.iterdir()] == ["a.txt"] and (out / "a.txt").read_text() == "two"
    assert os.listdir(tmp_path) == ["site"]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "site"
    write_folder_whole(out, filled("one"))

    def fails(part: Path) -> None:
        filled("two")(part)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_folder_whole(out, fails)
    assert (out / "a.txt").read_text() == "one" and os.listdir(tmp_path) == ["site"]


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    one, other = tmp_path / "weights", tmp_path / "config"
    write_together({one: lambda part: part.write_text("1"), other: lambda part: part.write_text("1")})

    def fails(part: Path) -> None:
        part.write_text("2")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_together({one: lambda part: part.write_text("2"), other: fails})
    assert (one.read_text(), other.read_text()) == ("1", "1") and sorted(os.listdir(tmp_path)) == ["config", "weights"]
