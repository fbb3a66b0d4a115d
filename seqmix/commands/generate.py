"""`seqmix generate`."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix._signals import Interrupted
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option, why_unusable
from seqmix.training.config.runs import checkpoint_named

if TYPE_CHECKING:
    import torch

    from seqmix.models import Denoiser, SequenceModel
    from seqmix.tasks.tokenization import Tokenizer

__all__ = ["load_language_model", "main"]


@exits()
def main(argv: list[str]) -> int:
    """Print a continuation of a prompt, token by token, of a model of diffusion at once; returns the exit status.

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
    parser.add_argument("--steps", type=int, metavar="N", help="of diffusion, all tokens at once; default 128")
    parser.add_argument("--correct", type=int, metavar="N", help="of diffusion, changes of its own tokens; default 0")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--device", default="cpu", help="default cpu")
    add_trust_option(parser)
    options = parser.parse_args(argv)
    import_trusted(options.trust)
    path = checkpoint_named(options.checkpoint)
    import torch

    from seqmix.training.objectives import Gidd

    if reason := why_unusable(options.device):
        raise ValueError(f"--device: {options.device!r} is not there: {reason}")
    model, tokenizer, objective = _load(path, options.device, options.trust)
    prompt = [tokenizer.eos, *tokenizer.encode(options.prompt)[0].tolist()]
    generator = torch.Generator(options.device).manual_seed(options.seed)
    decode = tokenizer.decoder()
    if isinstance(objective, Gidd):
        for token in _denoised(objective.denoiser(model), prompt, options, generator):
            _show(decode(token))
        _show(decode(None) + "\n")
        return 0
    if options.steps is not None or options.correct is not None:
        raise ValueError(f"--steps, --correct: expected a model of objective gidd, got {path}")
    drawn = model.sample(
        torch.tensor([prompt], device=options.device),
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        stop_token=tokenizer.eos,
        generator=generator,
    )
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
        ValueError: a file that is no checkpoint of `seqmix fit` on the task `language-modeling`, whose tokenizer
            is not the one that its model was trained with, or whose model says no next tokens.
    """
    from seqmix.training.objectives import Targets

    model, tokenizer, objective = _load(checkpoint, device, trust)
    if not isinstance(objective, Targets):
        raise ValueError(f"checkpoint: the model of {checkpoint} says no next tokens, its objective is gidd")
    return model, tokenizer


def _load(
    checkpoint: Path, device: "torch.device | str", trust: Iterable[str]
) -> "tuple[SequenceModel, Tokenizer, Any]":
    """Model, tokenizer and objective."""
    from seqmix.tasks.language_modeling import LanguageModeling
    from seqmix.tasks.tokenization import restore_tokenizer
    from seqmix.training.checkpoint_files import read_checkpoint
    from seqmix.training.loading import load_model
    from seqmix.training.objectives import create_objective

    content = read_checkpoint(checkpoint)
    text = content.get(LanguageModeling.__qualname__)
    if text is None:
        raise ValueError(
            f"checkpoint: {checkpoint} was not trained on text (task language-modeling), it has no tokenizer"
        )
    model = load_model(content, device=device, trust=trust)
    tokenizer = restore_tokenizer(text["tokenizer"])
    objective = create_objective(content["hyper_parameters"].get("objective", "targets"), tokenizer.vocab_size)
    if tokenizer.fingerprint != text["fingerprint"] or objective.vocab_size != model.vocab_size:
        raise ValueError(
            f"checkpoint: the tokenizer in {checkpoint} is not its model's: expected {text['fingerprint']} with "
            f"{model.vocab_size} tokens, got {tokenizer.fingerprint} with {objective.vocab_size}"
        )
    return model, tokenizer, objective


def _denoised(
    denoiser: "Denoiser", prompt: list[int], options: argparse.Namespace, generator: "torch.Generator"
) -> list[int]:
    """The text of a model of diffusion, its prompt included and up to where it says that it ends."""
    import torch

    if options.top_k is not None or not options.temperature > 0:
        raise ValueError("--top-k, --temperature: a model of diffusion takes no top_k and a positive temperature")
    tokens = denoiser.sample(
        torch.tensor([prompt], device=options.device),
        options.max_new_tokens,
        steps=128 if options.steps is None else options.steps,
        temperature=options.temperature,
        generator=generator,
    )
    if options.correct:
        tokens = denoiser.correct(tokens, options.correct, fixed=len(prompt), generator=generator)
    found, end = tokens[0, 1:].tolist(), prompt[0]
    return found[: found.index(end)] if end in found else found


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
