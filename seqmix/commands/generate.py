"""`seqmix generate`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from seqmix._signals import Interrupted
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option
from seqmix.training.config.runs import checkpoint_named

if TYPE_CHECKING:
    import torch

    from seqmix.models import SequenceModel
    from seqmix.tasks.tokenization import Tokenizer

__all__ = ["load_language_model", "main"]


@exits()
def main(argv: list[str]) -> int:
    """Print a continuation of a prompt, token by token; returns the exit status.

    Raises:
        ValueError: no checkpoint, one that was not trained on text or whose tokenizer is not its model's, or a number
            out of its range.
    """
    text = "continue a prompt with a language model that was trained by seqmix fit"
    parser = Parser("seqmix generate", description=text)
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
    import torch

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
    checkpoint: Path, *, device: "torch.device | str" = "cpu", trust: Iterable[str] = ()
) -> "tuple[SequenceModel, Tokenizer]":
    """The model of a checkpoint, in eval mode, and the tokenizer it was trained with; `trust` as in `load_model`.

    Raises:
        ValueError: a file that is no checkpoint of `seqmix fit` on the task `language-modeling`, or whose tokenizer
            is not the one that its model was trained with.
    """
    from seqmix.tasks.language_modeling import LanguageModeling
    from seqmix.tasks.tokenization import restore_tokenizer
    from seqmix.training.checkpoint_files import read_checkpoint
    from seqmix.training.loading import load_model

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


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
