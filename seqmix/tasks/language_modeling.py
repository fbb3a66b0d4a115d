"""Language modelling on real text, measured in bits per byte so that tokenizers compare."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader

from seqmix._checks import integers, lengths
from seqmix._extras import require
from seqmix.tasks.documents import Document, corpus_documents, file_documents, find_files
from seqmix.tasks.loaders import Batch, FixedBatches, StreamLoader, rank_of
from seqmix.tasks.registry import register_task
from seqmix.tasks.splits import SPLITS, as_written, split_documents
from seqmix.tasks.text_batches import EncodedText, EvalText, Rows, Shuffled, StreamedText, TrainText
from seqmix.tasks.tokenization import load_tokenizer

require("lightning.pytorch", extra="train", owner="seqmix.tasks.language_modeling")
from lightning.pytorch import LightningDataModule  # noqa: E402

__all__ = ["LanguageModeling", "TextSet"]

_ENDLESS = 1 << 40
_LARGER = "--data.validation_share 0.3 --data.test_share 0.3"
_EVAL_TOKENS = 1 << 15
_EVAL_LOGITS = 1 << 26  # numbers in the logits of one evaluation batch


class TextSet(NamedTuple):
    """One split measured at contexts of at most `length` tokens; `size` counts documents."""

    name: str
    length: int
    size: int


@register_task(
    "language-modeling",
    description="Real text in bits per byte: Python's reference, files, or a set on the hub; bytes or any tokenizer.",
)
class LanguageModeling(LightningDataModule):
    """The next token of real text: every document starts after an end-of-document token and ends with one.

    Which split a document lies in follows from a hash of its text alone, so that equal texts lie in one, whatever else
    there is. A text that is the only document is cut in three instead, by bytes, without overlap: its beginning is for
    training, what follows for validation and the end for test. Batches are packed: tokens and targets (1, N), N =
    batch_size * train_length, with `cu_seqlens`. No state crosses a document. In memory, documents are cut to pieces
    of at most `train_length` tokens, which come in a new order in every pass. With `carry_state`, `batch_size` rows
    read whole documents, `train_length` tokens a step, and the state goes on from step to step, its gradient does not
    (truncated backpropagation through time).

    Measured at each of `eval_lengths`: bits per byte, loss in nats * tokens / (bytes * ln 2) over all bytes of the
    split, each predicted once from at most so many tokens of its own document; and perplexity, of tokens.

    Args:
        corpus: `pydoc`, Python's own reference text, of which each Python version has its own; `stdlib`, the code of
            Python's standard library; or a set on the Hugging Face hub, `owner/name` or `owner/name:config`.
        files: files, folders or patterns to read instead: text, `.jsonl`, `.parquet`, the first two also `.gz`.
        field: column of the text in JSON lines, Parquet and on the hub.
        separator: what stands between documents in a text file, where `\\n` is a line break; None makes each file a
            document.
        tokenizer: `bytes`, or a JSON file of the `tokenizers` library (`seqmix train-tokenizer` makes one).
        train_length: tokens of the longest training sequence, or of a step if the state is carried.
        batch_size: a batch has `batch_size * train_length` tokens, over all ranks.
        carry_state: carry the state of each row to the next batch.
        streaming: read training documents while training, in the order of the source, instead of keeping them in
            memory. Needs `eval_documents` and `num_workers` 0.
        validation_share: share of the documents in the validation split.
        test_share: share of the documents in the test split.
        eval_lengths: longest contexts at which the test split is measured.
        eval_documents: documents of the validation and of the test split that are used, the first ones; None for all.
        seed: of the training order.
        num_workers: processes that make training batches.

    Raises:
        ValueError: arguments out of range, files that are missing, empty or not what they should be, a split without
            documents, a hub that cannot be reached. Text is read when it is first needed, before training starts.

    Example:
        >>> from seqmix.tasks.language_modeling import LanguageModeling
        >>> batch = next(iter(LanguageModeling(train_length=128, batch_size=4).train_dataloader()))
        >>> batch["tokens"].shape, int(batch["cu_seqlens"][-1])
        (torch.Size([1, 512]), 512)
    """

    metric = "bits_per_byte"
    chance = None
    predicts_next = True

    def __init__(
        self,
        corpus: str = "pydoc",
        files: str | list[str] | None = None,
        field: str = "text",
        separator: str | None = None,
        tokenizer: str = "bytes",
        train_length: int = 256,
        batch_size: int = 16,
        carry_state: bool = False,
        streaming: bool = False,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        eval_lengths: Sequence[int] = (256, 1024),
        eval_documents: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        owner = "LanguageModeling"
        integers(owner, train_length=train_length, batch_size=batch_size)
        integers(owner, eval_documents=1 if eval_documents is None else eval_documents)
        integers(owner, 0, num_workers=num_workers)
        if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
            raise ValueError(
                "LanguageModeling: validation_share and test_share must be positive, and below 1 together, got "
                f"{validation_share!r} and {test_share!r}"
            )
        if streaming and (num_workers or eval_documents is None):
            raise ValueError(
                "LanguageModeling: streaming needs num_workers = 0, a stream has one reader, and eval_documents, a "
                f"stream need not end; got {num_workers} and {eval_documents}"
            )
        if separator == "":
            raise ValueError("LanguageModeling: separator must be a text that is not empty, or None, got ''")
        self.save_hyperparameters()
        self.tokenizer = load_tokenizer(tokenizer)
        self.vocab_size = self.tokenizer.vocab_size
        self._paths = None if files is None else find_files(files)
        self.train_length, self.batch_size, self.carry_state = train_length, batch_size, carry_state
        self.eval_lengths = lengths(owner, "eval_lengths", eval_lengths)
        self.seed, self.num_workers = seed, num_workers

    @property
    def title(self) -> str:
        """What the text is, for tables."""
        files = self.hparams["files"]
        return ", ".join([files] if isinstance(files, str) else files) if files else self.hparams["corpus"]

    def documents(self, split: Literal["train", "validation", "test"] | None = None) -> Iterator[Document]:
        """The documents of a split, or all of them, read from their source again at each call."""
        return (document for found, document in self._split_documents() if split in (None, found))

    def _split_documents(self) -> Iterator[tuple[str, Document]]:
        own = self.hparams
        if self._paths is not None:
            separator = own["separator"]
            documents = file_documents(self._paths, own["field"], None if separator is None else as_written(separator))
        else:
            documents = corpus_documents(own["corpus"], own["field"], streaming=own["streaming"])
        return split_documents(documents, own["validation_share"], own["test_share"])

    def setup(self, stage: str | None = None) -> None:
        """Reads the text, so that what is wrong with it is told before training starts."""
        _ = self._texts

    @cached_property
    def _texts(self) -> dict[str, EncodedText]:
        # Documents of each split as tokens; of a stream the held-out ones only.
        found: dict[str, list[Document]] = {split: [] for split in SPLITS}
        most, streaming = self.hparams["eval_documents"], self.hparams["streaming"]
        total, training = 0, False
        for split, document in self._split_documents():
            total, training = total + 1, training or split == "train"
            if not (streaming and split == "train") and not (split != "train" and len(found[split]) == most):
                found[split].append(document)
            if streaming and training and all(len(found[split]) == most for split in SPLITS[1:]):
                break
        for split in SPLITS:
            if not found[split] and not (split == "train" and training):
                way = "--data.separator '\\n\\n'" if self._paths and not self.hparams["separator"] else _LARGER
                raise ValueError(
                    f"LanguageModeling: expected documents in every split, got none for {split} from {total} of "
                    f"{self.title}: more documents (a separator makes many of one file) or a larger share help, such "
                    f"as {way}"
                )
        self._digest = hashlib.sha256(b"".join(d.digest for split in SPLITS for d in found[split])).hexdigest()[:16]
        encode = self.tokenizer.encode
        return {
            split: EncodedText.of([encode(document.text) for document in documents], self.tokenizer.eos)
            for split, documents in found.items()
        }

    def train_dataloader(self) -> StreamLoader:
        rank, world_size = rank_of(self)
        if self.carry_state and world_size > 1:
            raise NotImplementedError("LanguageModeling: carry_state works in one process; states of others get lost")
        if self.batch_size % world_size:
            raise ValueError(
                f"LanguageModeling: batch_size must be a multiple of the number of ranks {world_size}, "
                f"got {self.batch_size}"
            )
        rows, length = self.batch_size, self.train_length
        if self.hparams["streaming"]:
            source = Rows(_Stream(self), rows, length)
            return StreamLoader(StreamedText(source, self.carry_state, rank, world_size), _ENDLESS)
        text = self._texts["train"]
        if self.carry_state:
            source = Rows(Shuffled(text, text.spans(), self.seed), rows, length)
        else:
            # In one row, so that only the last piece of a batch is cut.
            source = Rows(Shuffled(text, text.spans(length), self.seed), 1, rows * length)
        batches = TrainText(source, self.carry_state, rank, world_size)
        return StreamLoader(batches, _ENDLESS, num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("validation", each.length) for each in self.validation_sets]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("test", each.length) for each in self.test_sets]

    predict_dataloader = test_dataloader

    @property
    def validation_sets(self) -> list[TextSet]:
        """Validation at the training length, or at the longest of `eval_lengths` where state is carried."""
        length = self.eval_lengths[-1] if self.carry_state else self.train_length
        return [TextSet(str(length), length, len(self._texts["validation"].starts) - 1)]

    @property
    def test_sets(self) -> list[TextSet]:
        """The test split at each of `eval_lengths`."""
        return [TextSet(str(length), length, self.eval_size) for length in self.eval_lengths]

    @property
    def eval_size(self) -> int:
        """Documents in the test split."""
        return len(self._texts["test"].starts) - 1

    def version(self) -> str:
        """A hash of documents (of a stream the held-out ones), splits, tokenizer and evaluation lengths.

        Equal versions mean equal data. It differs between Python versions for the texts that come with Python.
        """
        self.setup()
        content = (self._digest, self.tokenizer.fingerprint, self.eval_lengths, self.hparams["eval_documents"])
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the tokenizer whole, and a hash of the documents."""
        self.setup()
        return {
            "tokenizer": self.tokenizer.definition,
            "fingerprint": self.tokenizer.fingerprint,
            "documents": self._digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises `ValueError` for another tokenizer, and for other documents where training would go on."""
        if state_dict["fingerprint"] != self.tokenizer.fingerprint:
            raise ValueError(
                f"LanguageModeling: tokenizer must be the one of the checkpoint, {state_dict['fingerprint']}, got "
                f"{self.hparams['tokenizer']}, {self.tokenizer.fingerprint}"
            )
        training = self.trainer is not None and self.trainer.training
        self.setup()
        if training and state_dict["documents"] != self._digest:
            raise ValueError(
                f"LanguageModeling: a run goes on with the documents it began with, {state_dict['documents']}, got "
                f"{self.title}, {self._digest}"
            )

    def _eval_loader(self, split: str, length: int) -> DataLoader[Batch]:
        size = max(length, min(_EVAL_TOKENS, _EVAL_LOGITS // self.vocab_size))
        batches = EvalText(self._texts[split], length, size, *rank_of(self))
        return DataLoader(FixedBatches(batches, len(batches)), batch_size=None, generator=torch.Generator())


class _Stream:
    """Training documents of a task by number, read one after the other, again from the start after the last."""

    def __init__(self, task: LanguageModeling) -> None:
        self.task = task
        self._at, self._documents = 0, task.documents("train")

    def __call__(self, number: int) -> Any:
        if number < self._at:
            self._at, self._documents = 0, self.task.documents("train")
        document = self._read()
        while self._at <= number:
            document = self._read()
        tokenizer = self.task.tokenizer
        return EncodedText.of([tokenizer.encode(document.text)], tokenizer.eos).ids

    def _read(self) -> Document:
        document = next(self._documents, None)
        if document is None:
            self._documents = self.task.documents("train")
            document = next(self._documents)
        self._at += 1
        return document
