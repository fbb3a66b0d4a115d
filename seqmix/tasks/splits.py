"""Training, validation or test: which a document lies in, by a hash of its text; one that is alone is cut in three."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from seqmix.tasks.documents import Document

__all__ = ["SPLITS", "as_written", "split_documents", "split_of"]

SPLITS = ("train", "validation", "test")


def split_documents(
    documents: Iterable[Document], validation_share: float = 0.1, test_share: float = 0.1
) -> Iterator[tuple[str, Document]]:
    """Each document with its split. One that is alone becomes three, by bytes, which do not overlap: the first is for
    training, the next for validation, the last for test; cuts move on to the end of a character.
    """
    found = iter(documents)
    first, second = next(found, None), next(found, None)
    if first is not None and second is None:
        yield from _parts(first, validation_share, test_share)
        return
    for document in chain(filter(None, (first, second)), found):
        yield split_of(document, validation_share, test_share), document


def split_of(document: Document, validation_share: float = 0.1, test_share: float = 0.1) -> str:
    """`train`, `validation` or `test`, by a hash of the text."""
    position = int.from_bytes(document.digest[:8], "big") / 2**64
    return "test" if position < test_share else "validation" if position < test_share + validation_share else "train"


def as_written(separator: str) -> str:
    r"""A separator as people write it in a shell or a config, where `\n` is two characters."""
    return re.sub(r"\\([nrt\\])", lambda found: {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[found[1]], separator)


def _parts(document: Document, validation_share: float, test_share: float) -> Iterator[tuple[str, Document]]:
    data = document.text.encode()
    cuts = [0, *(_cut(data, 1 - held_out) for held_out in (validation_share + test_share, test_share)), len(data)]
    for split, begin, end in zip(SPLITS, cuts, cuts[1:], strict=False):
        if begin < end:
            yield split, Document(f"{document.name}, bytes {begin} to {end}", data[begin:end].decode())


def _cut(data: bytes, share: float) -> int:
    at = round(share * len(data))
    while at < len(data) and data[at] & 0xC0 == 0x80:  # within a character
        at += 1
    return at
