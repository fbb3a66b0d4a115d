"""`seqmix train-tokenizer`."""

from itertools import islice
from pathlib import Path

from seqmix._files import check_output, write_text_whole
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser

__all__ = ["main"]


@exits()
def main(argv: list[str]) -> int:
    """Write the JSON of a byte-level BPE that was learned from training documents; returns the exit status.

    Raises:
        ValueError: a vocabulary of at most 256, or text that cannot be read.
    """
    text = "learn a byte-level BPE from the training documents of a corpus; --data.tokenizer takes the file"
    parser = Parser("seqmix train-tokenizer", description=text)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--vocab-size", type=int, default=2048, metavar="N", help="tokens at most; default 2048")
    parser.add_argument("--corpus", default="pydoc", help="as data.corpus; default pydoc")
    parser.add_argument("--files", nargs="+", metavar="FILE", help="as data.files, instead of a corpus")
    parser.add_argument("--field", default="text", help="as data.field; default text")
    parser.add_argument("--separator", metavar="TEXT", help="as data.separator")
    parser.add_argument(
        "--documents", type=int, metavar="N", help="learn from the first N training documents, streaming; default all"
    )
    for split in ("validation", "test"):
        help_text = f"as data.{split}_share; default 0.1"
        parser.add_argument(f"--{split}-share", type=float, default=0.1, metavar="X", help=help_text)
    options = vars(parser.parse_args(argv))
    output, vocab_size, limit = (options.pop(name) for name in ("output", "vocab_size", "documents"))
    check_output("output", output)
    if limit is not None and limit < 1:
        raise ValueError(f"--documents: expected a positive number, got {limit}")
    from seqmix.tasks.language_modeling import LanguageModeling
    from seqmix.tasks.tokenization import JsonTokenizer, train_bpe

    streaming = {} if limit is None else {"streaming": True, "eval_documents": limit}
    task = LanguageModeling(**options, **streaming)
    texts = (document.text for document in islice(task.documents("train"), limit))
    definition = train_bpe(texts, vocab_size)
    tokenizer = JsonTokenizer(definition)
    n_bytes = n_tokens = 0
    for document in islice(task.documents("validation"), None if limit is None else 1 + limit // 10):
        ids, counts = tokenizer.encode(document.text)
        n_bytes, n_tokens = n_bytes + int(counts.sum()), n_tokens + len(ids)
    held_out = f", {n_bytes / n_tokens:.2f} bytes a token on validation documents" if n_tokens else ""
    write_text_whole(output, definition)
    print(f"{output}: {tokenizer.vocab_size - 1} tokens{held_out}, fingerprint {tokenizer.fingerprint}")
    return 0
