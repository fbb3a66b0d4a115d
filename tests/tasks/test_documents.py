"""Documents from files, from Python and from the hub; what is wrong with a file is told with its name."""

import gzip
import json
from pathlib import Path

import pytest

from seqmix.tasks.documents import Document, corpus_documents, file_documents, find_files

TEXTS = ["One.\n", "Zwei: ä, 中, 😀.", "Three\n\nparagraphs\n\nhere"]


def texts(paths: list[Path], **kwargs) -> list[str]:
    return [document.text for document in file_documents(paths, **kwargs)]


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    plain = [tmp_path / f"{n}.txt" for n in range(3)]
    for path, text in zip(plain, TEXTS, strict=True):
        path.write_bytes(text.encode())
    one, zipped = tmp_path / "all.txt", tmp_path / "all.txt.gz"
    one.write_bytes("\n%\n".join(TEXTS).encode())
    zipped.write_bytes(gzip.compress(one.read_bytes()))
    lines = "".join(json.dumps({"id": n, "body": text}) + "\n\n" for n, text in enumerate([*TEXTS, ""]))
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"id": [0, 1, 2, 3], "body": [*TEXTS, None]}), tmp_path / "rows.parquet")

    assert texts(plain) == TEXTS
    stripped = [text.strip("\n") for text in TEXTS]
    assert texts([one], separator="\n%\n") == texts([zipped], separator="\n%\n") == stripped
    for name in ("rows.jsonl", "rows.ndjson.gz", "rows.parquet"):
        assert texts([tmp_path / name], field="body") == TEXTS, name
    names = [document.name for document in file_documents([tmp_path / "rows.jsonl"], "body")]
    assert names == [f"{tmp_path / 'rows.jsonl'}:{line}" for line in (1, 3, 5)]


def test_files_by_name_folder_and_pattern(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    found = [tmp_path / "a.txt", tmp_path / "deep" / "b.txt", tmp_path / "deep" / "er" / "c[1].md"]
    for path in found:
        path.write_text("x")
    assert find_files(str(tmp_path)) == sorted(found)
    assert find_files([str(found[2]), str(tmp_path / "**" / "*.txt")]) == [found[2], *found[:2]]
    assert find_files([str(tmp_path / "deep"), str(found[1])]) == found[1:], "each once"
    with pytest.raises(ValueError, match=r"files: expected files, a folder or a pattern .* got '.*none\*'"):
        find_files(str(tmp_path / "none*"))
    with pytest.raises(ValueError, match="files: expected files, a folder or a pattern, got an empty list"):
        find_files([])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: expected text, got an empty file"),
        ("a.jsonl", b'{"text": ""}\n', "a.jsonl: expected text, got an empty file"),
        ("a.txt", b"caf\xe9s", "a.txt: expected UTF-8 text, got byte 0xe9"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "a.jsonl: expected UTF-8 text, got byte 0xe9"),
        ("a.gz", b"not gzip", "a.gz: cannot be read: Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "a.txt.gz: cannot be read: Compressed file ended"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: expected a JSON object a line"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: expected a JSON object, got \[1\]"),
        ("a.jsonl", b'{"txt": "x"}\n', r"unknown field of .*a.jsonl:1: 'text'; did you mean 'txt'"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: text must be a string, got 3"),
        ("a.parquet", b"PAR1 not", "a.parquet: cannot be read as Parquet"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts([tmp_path / name])


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(ValueError, match="rows:1: expected text, got half of a surrogate pair at 1"):
        _ = Document("rows:1", "a\ud800").digest


def test_corpora_of_python_itself() -> None:
    topics = list(corpus_documents("pydoc"))
    assert len(topics) > 50 and sum(len(topic.text) for topic in topics) > 300_000
    assert topics == list(corpus_documents("pydoc"))
    first = next(corpus_documents("stdlib"))
    assert first.name.endswith(".py") and first.text
    with pytest.raises(ValueError, match="unknown corpus 'pydocs'; did you mean 'pydoc'"):
        corpus_documents("pydocs")


def test_a_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return iter([{"body": "one"}, {"body": None}, {"body": "two"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = list(corpus_documents("some/set:small", "body", streaming=True))
    assert found == [Document("some/set:small, row 1", "one"), Document("some/set:small, row 3", "two")]
    assert asked == [(("some/set", "small"), {"split": "train", "streaming": True})]
    with pytest.raises(ValueError, match="unknown field of some/set, row 1: 'text'"):
        list(corpus_documents("some/set"))


def test_a_hub_out_of_reach_is_one_line_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=r"cannot read 'some/set' from the hub: .*--data.files 'texts/\*.txt'"
    ) as error:
        next(corpus_documents("some/set"))
    assert "\n" not in str(error.value)
