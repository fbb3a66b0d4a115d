"""`sequence_parallel`: a model whose calls take this rank's part of the sequences."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from seqmix.distributed.messages import Neighbours, of_all
from seqmix.distributed.pipeline import Handing
from seqmix.distributed.split import Ranks, ranks_of
from seqmix.distributed.two_pass import Scanning, ScanTwice
from seqmix.models import SequenceModel
from seqmix.models.bidirectional import Bidirectional
from seqmix.models.norms import BatchNorm

__all__ = ["check_form", "sequence_parallel"]

FORMS = ("two-pass", "pipeline")


def check_form(form: str) -> str:
    """`form`; `ValueError` for one that there is not."""
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    return form


def sequence_parallel(model: SequenceModel, mesh: Ranks = None, form: str = "two-pass") -> SequenceModel:
    """`model`, changed in place: its calls take this rank's part of the sequences and hand states from rank to rank.

    Layers whose state only scans read (`TokenMixer.only_scans`) scan on all ranks at once, exchange transitions, and
    scan again; attention gathers keys and values; the others wait for the state of the rank before.

    With two passes the calling thread flushes denormal numbers from here on (`torch.set_flush_denormal`).

    All ranks call it with the parts that `split_sequences` gives, in the same order. Outputs are those of the part; the
    state that comes back is that after its last token, of the last sequence where sequences are packed. Gradients of
    parameters are those of the part's own outputs: summed over the ranks they are the whole's. Names of parameters and
    checkpoints stay as they are.

    Args:
        model: with weights that are equal on all ranks.
        mesh: of one dimension, or a group of processes; all of them unless given.
        form: `"two-pass"`, or `"pipeline"` for all layers.

    Raises:
        ValueError: an unknown form, layers that read backwards, batch norms or a head that needs the whole sequence, a
            model that is cut already, or a mesh of several dimensions. When called: a state, padded sequences, parts
            of other sequences on other ranks, or one that is shorter than the window of a convolution.
        NotImplementedError: activation checkpointing, which would send states again in the backward pass.

    Example:
        >>> from seqmix.distributed import sequence_parallel, split_sequences
        >>> def losses(model, tokens, targets):  # on every rank, after init_process_group
        ...     logits, _ = sequence_parallel(model)(split_sequences(tokens)[0])
        ...     part, _ = split_sequences(targets)
        ...     return torch.nn.functional.cross_entropy(logits.flatten(0, 1), part.flatten(), reduction="sum")
    """
    check_form(form)
    group = ranks_of(mesh)
    _check(model)
    if form == "two-pass" and any(mixer.only_scans for mixer in model.mixers):
        # What a first pass hands on is lost by and by, as are gradients of it: numbers too small for a processor to be
        # quick with, in which recurrences stay for thousands of steps.
        torch.set_flush_denormal(True)
    neighbours, twice = Neighbours(group), ScanTwice(group)
    for mixer in model.mixers:
        scans = form == "two-pass" and mixer.only_scans
        mixer.forward = Scanning(mixer, twice) if scans else Handing(mixer, neighbours)  # type: ignore[method-assign]
    model.register_forward_pre_hook(partial(_check_parts, group), with_kwargs=True)
    return model


@torch.compiler.disable
def _check_parts(group: dist.ProcessGroup, model: SequenceModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """`ValueError`, on all ranks, unless their parts are of the same sequences: messages would not fit one another."""
    tokens = args[0] if args else kwargs["tokens"]
    rows = len(tokens) if kwargs.get("cu_seqlens") is None else -1
    each = of_all(torch.tensor([rows], device=tokens.device), group).flatten().tolist()
    if len(set(each)) > 1:
        said = ", ".join("packed ones" if rows < 0 else str(rows) for rows in each)
        raise ValueError(f"tokens: expected a part of the same sequences on all ranks, got {said}")


def _check(model: SequenceModel) -> None:
    if not isinstance(model, SequenceModel):
        raise ValueError(f"model: expected a SequenceModel, got a {type(model).__name__}")
    if model.activation_checkpointing:
        raise NotImplementedError("sequence_parallel: activation checkpointing would send every state a second time")
    if model.head_name != "language":
        raise ValueError(f"model: expected an answer at each token, got head {model.head_name!r}, which needs them all")
    for name, module in model.named_modules():
        if isinstance(module, Bidirectional | BatchNorm):
            raise ValueError(f"model: expected layers that read forwards, token by token, got {name}: {module}")
        if isinstance(getattr(module, "forward", None), Handing | Scanning):
            raise ValueError("model: its sequences are cut over ranks already")
