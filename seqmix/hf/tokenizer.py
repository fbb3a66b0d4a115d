"""Tokenizers for transformers: UTF-8 bytes, and what `seqmix train-tokenizer` writes."""

import os

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seqmix.tasks.tokenization import ByteTokenizer, load_tokenizer
from seqmix.tasks.tokenization import Tokenizer as OwnTokenizer

__all__ = ["byte_tokenizer", "tokenizer_from"]

_SPECIALS = ("bos_token", "eos_token", "pad_token")
# As in `seqmix fit`: the end of a document, which also stands before its first token. Padding is masked.
_OWN = {"eos_token": "<eos>", "pad_token": "<eos>"}


def byte_tokenizer(**specials: str) -> PreTrainedTokenizerFast:
    """Ids 0 to 255 are UTF-8 bytes, 256 ends a document: the `bytes` of `seqmix fit`, for a model of 257 tokens.

    Name `bos_token`, `eos_token`, `pad_token` for others, which get the ids from 256 on. It pads on the left, as
    generation wants it.

    Example:
        >>> from seqmix.hf import byte_tokenizer
        >>> byte_tokenizer()("hé").input_ids
        [104, 195, 169]
    """
    letters = _bytes_as_letters()
    inner = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return _wrapped(inner, specials)


def tokenizer_from(tokenizer: str | os.PathLike[str] | OwnTokenizer, **specials: str) -> PreTrainedTokenizerFast:
    """The tokenizers JSON at a path, or the tokenizer of a run; special tokens get the ids behind its own.

    A model needs `vocab_size=len(tokenizer)`.

    Raises:
        ValueError: what is no such JSON, a special token of another name.
    """
    if not hasattr(tokenizer, "definition"):
        tokenizer = load_tokenizer(os.fspath(tokenizer))  # type: ignore[arg-type]
    if tokenizer.definition == ByteTokenizer.definition:
        return byte_tokenizer(**specials)
    return _wrapped(Tokenizer.from_str(tokenizer.definition), specials)


def _wrapped(inner: Tokenizer, specials: dict[str, str]) -> PreTrainedTokenizerFast:
    specials = specials or _OWN
    unknown = sorted(specials.keys() - set(_SPECIALS))
    if unknown:
        raise ValueError(f"tokenizer: special tokens are {', '.join(_SPECIALS)}, got {', '.join(unknown)}")
    inner.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(specials.values())])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, padding_side="left", clean_up_tokenization_spaces=False, **specials
    )


def _bytes_as_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself if printable, else the next from 256."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
