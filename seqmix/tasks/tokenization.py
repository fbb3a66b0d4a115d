"""Tokenizers of text that count the bytes behind every token, so that models with different ones compare."""

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seqmix._extras import require

__all__ = ["ByteTokenizer", "JsonTokenizer", "Tokenizer", "load_tokenizer", "restore_tokenizer", "train_bpe"]

Array = NDArray[np.int64]


class Tokenizer(Protocol):
    """Text to numbers and back; the last number, `eos`, ends a document and also stands before its first token.

    `fingerprint` is the same for tokenizers that do the same, and `definition` is what `restore_tokenizer` takes.
    """

    vocab_size: int
    eos: int
    fingerprint: str
    definition: str

    def encode(self, text: str) -> tuple[Array, Array]:
        """Tokens (n,) of a document without its `eos`, and bytes of UTF-8 that each stands for (n + 1,), `eos` last.

        The second sums up to the bytes of the text exactly.
        """
        ...

    def decoder(self) -> "Callable[[int | None], str]":
        """A function from the next token to the text that it completes; None at the end, for what is left over."""
        ...


class ByteTokenizer:
    """The 256 bytes of UTF-8, and 256 for the end of a document."""

    vocab_size, eos = 257, 256
    fingerprint = definition = "bytes"

    def encode(self, text: str) -> tuple[Array, Array]:
        ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        return ids, np.append(np.ones_like(ids), 0)

    def decoder(self) -> Callable[[int | None], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def step(token: int | None) -> str:
            ended = token is None or token == self.eos
            return decoder.decode(b"" if ended else bytes([token or 0]), final=ended)

        return step


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library from its JSON. `eos` is a number of its own, after all of the others.

    Args:
        definition: the JSON, as `Tokenizer.save` writes it.
        name: what to call it in errors.

    Raises:
        ValueError: text that is no such JSON; in `encode`, a text that decodes to another one.
        ImportError: `tokenizers` is not installed.
    """

    def __init__(self, definition: str, name: str = "tokenizer") -> None:
        library = require("tokenizers", extra="train", owner=name)
        try:
            content = json.loads(definition)
            self._tokenizer: Any = library.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{name}: expected the JSON of a tokenizers.Tokenizer: {error}") from None
        self.name, self.definition = name, definition
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self.eos = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        self.vocab_size = self.eos + 1

    def encode(self, text: str) -> tuple[Array, Array]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if self._tokenizer.decode(encoding.ids, skip_special_tokens=False) != text:
            raise ValueError(
                f"{self.name}: expected a tokenizer that keeps the text, as byte-level ones do, got one that decodes "
                f"{text[:40]!r}... to another: its bits per byte would not compare"
            )
        # A character that is split among several tokens counts for the first of them; what no token covers, for eos.
        last = np.maximum.accumulate([0, *(end for _, end in encoding.offsets)])
        ends = np.append(_byte_offsets(text)[last], len(text.encode()))
        return np.array(encoding.ids, dtype=np.int64), np.diff(ends)

    def decoder(self) -> Callable[[int | None], str]:
        # Some tokens look different at the beginning, so the last complete piece is decoded again before the next.
        before: list[int] = []
        pending: list[int] = []

        def decode(ids: list[int]) -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=False)

        def step(token: int | None) -> str:
            nonlocal before, pending
            ended = token is None or token == self.eos
            if not ended:
                pending.append(int(token or 0))
            text = decode(before + pending)
            if text.endswith("\ufffd") and not ended:
                return ""  # in the middle of a character
            new = text[len(decode(before)) :]
            before, pending = pending, []
            return new

        return step


def _byte_offsets(text: str) -> Array:
    """(len(text) + 1,): where in its UTF-8 each character begins, and the length of all."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate([[0], np.cumsum(sizes)])


def load_tokenizer(name: str) -> Tokenizer:
    """`bytes`, or the JSON file of a `tokenizers.Tokenizer`; `ValueError` for anything else."""
    if name == "bytes":
        return ByteTokenizer()
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"tokenizer: expected 'bytes' or a JSON file of the tokenizers library, got {name!r}")
    try:
        definition = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"tokenizer: cannot read {name}: {error}") from None
    return JsonTokenizer(definition, f"tokenizer {name}")


def restore_tokenizer(definition: str) -> Tokenizer:
    """The tokenizer with that `definition`."""
    return ByteTokenizer() if definition == "bytes" else JsonTokenizer(definition)


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """The JSON of a byte-level BPE: 256 bytes and merges learned from `texts`, at most `vocab_size` tokens in all.

    Raises:
        ValueError: a `vocab_size` that is not above 256.
        ImportError: `tokenizers` is not installed.
    """
    if not isinstance(vocab_size, int) or vocab_size <= 256:
        raise ValueError(f"vocab_size: expected an integer above 256, the bytes, got {vocab_size!r}")
    library: Any = require("tokenizers", extra="train", owner="train_bpe")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(alphabet), special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()
