"""Documents: texts with a name, from files, from Python itself or from the hub, read one after the other."""

import glob
import gzip
import hashlib
import json
import os
import tokenize
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from seqmix._extras import require
from seqmix._suggest import unknown_name

__all__ = ["CORPORA", "Document", "corpus_documents", "file_documents", "find_files"]

CORPORA = {
    "pydoc": "the English reference text of Python itself, pydoc_data.topics, a document for each topic",
    "stdlib": "the modules of Python's standard library, without tests, a document for each file",
}
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Document:
    """A text and where it comes from."""

    name: str
    text: str

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text: what decides in which split the document lies."""
        try:
            return hashlib.sha256(self.text.encode()).digest()
        except UnicodeEncodeError as error:
            raise ValueError(f"{self.name}: expected text, got half of a surrogate pair at {error.start}") from None


def corpus_documents(name: str, field: str = "text", *, streaming: bool = False) -> Iterator[Document]:
    """Documents of a corpus by name: one of `CORPORA`, or `owner/name` or `owner/name:config` on the Hugging Face hub.

    Args:
        name: the corpus; of a set on the hub the split `train` is read.
        field: column of the text, on the hub.
        streaming: read from the hub while training, instead of downloading first.

    Raises:
        ValueError: an unknown name, a hub that cannot be reached, a column that does not exist.
        ImportError: `datasets` is not installed, for a set on the hub.
    """
    if name in CORPORA:
        return {"pydoc": _pydoc, "stdlib": _stdlib}[name]()
    if "/" not in name:
        raise unknown_name("corpus", name, CORPORA)
    return _hub(name, field, streaming)


def find_files(patterns: str | Sequence[str]) -> list[Path]:
    """The files that are named, lie in folders that are named, or match shell patterns (`**` too), each once.

    Raises:
        ValueError: nothing there.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        inside = f"{glob.escape(pattern)}/**" if os.path.isdir(pattern) else pattern
        paths = [Path(pattern)] if os.path.isfile(pattern) else sorted(map(Path, glob.glob(inside, recursive=True)))
        paths = [path for path in paths if path.is_file()]
        if not paths:
            raise ValueError(f"files: expected files, a folder or a pattern that matches some, got {pattern!r}")
        found.update(dict.fromkeys(paths))
    if not found:
        raise ValueError("files: expected files, a folder or a pattern, got an empty list")
    return list(found)


def file_documents(paths: Sequence[Path], field: str = "text", separator: str | None = None) -> Iterator[Document]:
    """Documents of files: JSON lines (`.jsonl`, `.ndjson`) and Parquet have one a row, any other file is UTF-8 text.

    All but Parquet may be compressed (`.gz`). Rows and parts without text are left out.

    Args:
        paths: the files, read in this order.
        field: key or column of the text in JSON lines and Parquet.
        separator: what stands between the documents of a text file; None makes each file one document.

    Raises:
        ValueError: a file that is empty, is not UTF-8 or not what its suffix says, or a row without that field.
        ImportError: a Parquet file, and pyarrow is not installed.
    """
    for path in paths:
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        try:
            if suffix == ".parquet":
                documents = _parquet(path, field)
            elif suffix in _JSON_LINES:
                documents = _json_lines(path, field)
            else:
                documents = _text(path, separator)
            empty = True
            for document in documents:
                if document.text:
                    empty = False
                    yield document
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(f"{path}: expected UTF-8 text, got byte 0x{byte:02x} ({error.reason})") from None
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be read: {error}") from None
        if empty:
            raise ValueError(f"{path}: expected text, got an empty file")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _text(path: Path, separator: str | None) -> Iterator[Document]:
    with _open(path) as file:
        text = file.read().decode()
    if separator is None:
        yield Document(str(path), text)
        return
    for number, part in enumerate(text.split(separator), 1):
        yield Document(f"{path}, document {number}", part.strip("\n"))


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: expected a JSON object a line: {error}") from None
            yield _row(f"{path}:{number}", row, field)


def _parquet(path: Path, field: str) -> Iterator[Document]:
    parquet = require("pyarrow.parquet", extra="train", owner=f"reading {path}")
    try:
        file = parquet.ParquetFile(path)
        if field not in file.schema_arrow.names:
            raise unknown_name(f"field of {path}:", field, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(1024, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                yield _row(f"{path}, row {number}", {field: text}, field)
    except require("pyarrow", extra="train", owner=f"reading {path}").ArrowInvalid as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}") from None


def _row(name: str, row: Any, field: str) -> Document:
    if not isinstance(row, dict):
        raise ValueError(f"{name}: expected a JSON object, got {row!r:.60}")
    if field not in row:
        raise unknown_name(f"field of {name}:", field, row)
    text = row[field]
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name}: {field} must be a string, got {text!r:.60}")
    return Document(name, text or "")


def _pydoc() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"pydoc topic {name}", text)


def _stdlib() -> Iterator[Document]:
    root = Path(os.__file__).parent
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(root).parts):
            with tokenize.open(path) as file:  # in the encoding that the module declares
                text = file.read()
            if text:
                yield Document(f"{path.relative_to(root)}", text)


def _hub(name: str, field: str, streaming: bool) -> Iterator[Document]:
    datasets = require("datasets", extra="train", owner=f"the corpus {name}")
    path, _, config = name.partition(":")
    try:
        data = datasets.load_dataset(path, config or None, split="train", streaming=streaming)
        rows = iter(data)
        first = next(rows, None)
    except Exception as error:
        # Whatever the hub's client raises, and it raises much, the way out is the same.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"corpus: cannot read {name!r} from the hub: {type(error).__name__}: {reason[:200]}; "
            "texts on disk do as well: --data.files 'texts/*.txt' (text, .gz, .jsonl or .parquet)"
        ) from error
    number = 0
    while first is not None:
        number += 1
        document = _row(f"{name}, row {number}", first, field)
        if document.text:
            yield document
        first = next(rows, None)
