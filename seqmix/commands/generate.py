"""`seqmix generate` and `seqmix train-tokenizer`."""

import argparse
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch

from seqmix._files import write_text_whole
from seqmix._signals import Interrupted
from seqmix._trust import add_trust_option, import_trusted
from seqmix.models import SequenceModel
from seqmix.tasks.language_modeling import LanguageModeling
from seqmix.tasks.tokenization import JsonTokenizer, Tokenizer, restore_tokenizer, train_bpe
from seqmix.training.config.runs import checkpoint_named
from seqmix.training.loading import load_model, read_checkpoint

__all__ = ["generate", "load_language_model", "train_tokenizer"]


def generate(argv: list[str]) -> int:
    """Print a continuation of a prompt, token by token; returns the exit status.

    Raises:
        ValueError: no checkpoint, one that was not trained on text or whose tokenizer is not its model's, or a number
            out of its range.
    """
    text = "continue a prompt with a language model that was trained by seqmix fit"
    parser = argparse.ArgumentParser("seqmix generate", description=text, allow_abbrev=False)
    parser.add_argument("checkpoint", help="a .ckpt file, the folder of a run, or the config of runs under runs/")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the document begins; default nothing")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="default 512")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="0: the likeliest; default 1")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw among the K likeliest tokens; default all")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--device", default="cpu", help="default cpu")
    add_trust_option(parser)
    options = parser.parse_args(argv)
    import_trusted(options.trust)
    path = checkpoint_named(options.checkpoint)
    model, tokenizer = load_language_model(path, device=options.device, trust=options.trust)
    prompt = [tokenizer.eos, *tokenizer.encode(options.prompt)[0].tolist()]
    drawn = model.sample(
        torch.tensor([prompt], device=options.device),
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        stop_token=tokenizer.eos,
        generator=torch.Generator(options.device).manual_seed(options.seed),
    )
    decode = tokenizer.decoder()
    for token in prompt[1:]:
        _show(decode(token))
    try:
        for chosen in drawn:
            _show(decode(int(chosen)))
    except (KeyboardInterrupt, Interrupted):
        _show("\n")
        return 130
    _show(decode(None) + "\n")
    return 0


def load_language_model(
    checkpoint: Path, *, device: torch.device | str = "cpu", trust: Iterable[str] = ()
) -> tuple[SequenceModel, Tokenizer]:
    """The model of a checkpoint, in eval mode, and the tokenizer it was trained with; `trust` as in `load_model`.

    Raises:
        ValueError: a file that is no checkpoint of `seqmix fit` on the task `language-modeling`, or whose tokenizer
            is not the one that its model was trained with.
    """
    content = read_checkpoint(checkpoint)
    text = content.get(LanguageModeling.__qualname__)
    if text is None:
        raise ValueError(
            f"checkpoint: {checkpoint} was not trained on text (task language-modeling), it has no tokenizer"
        )
    model = load_model(content, device=device, trust=trust)
    tokenizer = restore_tokenizer(text["tokenizer"])
    if tokenizer.fingerprint != text["fingerprint"] or tokenizer.vocab_size != model.vocab_size:
        raise ValueError(
            f"checkpoint: the tokenizer in {checkpoint} is not its model's: expected {text['fingerprint']} with "
            f"{model.vocab_size} tokens, got {tokenizer.fingerprint} with {tokenizer.vocab_size}"
        )
    return model, tokenizer


def train_tokenizer(argv: list[str]) -> int:
    """Write the JSON of a byte-level BPE that was learned from training documents; returns the exit status.

    Raises:
        ValueError: a vocabulary of at most 256, or text that cannot be read.
    """
    text = "learn a byte-level BPE from the training documents of a corpus; --data.tokenizer takes the file"
    parser = argparse.ArgumentParser("seqmix train-tokenizer", description=text, allow_abbrev=False)
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
    if not output.parent.is_dir() or output.is_dir():
        raise ValueError(f"output: expected a file in a folder that exists, got {str(output)!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"--documents: expected a positive number, got {limit}")
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


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
