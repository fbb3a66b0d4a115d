"""Safe lengths of layers that turn: how far states can have drifted from those that the automaton's states stand for.

Each state q of the automaton has a reference S_q, the layer's state after a shortest word that leads to q. With epsilon
the largest distance from a letter's image of a reference to the next one, and |A(x)| <= g, after n letters the layer's
state is within |S_0 - s_0| g^n + epsilon (1 + g + ... + g^(n-1)) of its reference, whichever letters came. What is read
then moves by no more than |R| times that, and behind a norm x / sqrt(mean x^2 + eps), whose slope is one over that
root, by that over the smallest root on the way. As long as this is less than every lead at the references, no answer is
wrong. Rounding adds 4 (n + 16) units of roundoff of the largest state to epsilon.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from seqmix.atlas.plain import is_plain, words_through
from seqmix.mixers.deltanet import DeltaNet
from seqmix.mixers.dense import DenseRNN
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.gateloop import GateLoop
from seqmix.mixers.gla import GatedLinearAttention
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core

__all__ = ["drift_length"]

_EPS = 1e-5  # of the norm behind what is read
_LONGEST = 10**9


@torch.no_grad()
def drift_length(model: SequenceModel, automaton: Automaton, core: Core) -> int:
    """Letters of words up to which all are answered rightly, 0 where nothing is proved.

    `NotImplementedError` for other models than one layer of `dense`, `gateloop`, `deltanet` or `gla`, no convolutions.
    """
    wide: Any = copy.deepcopy(model).double().eval()
    block = wide.blocks[0]
    mixer = block.mixer
    normed = isinstance(mixer, DeltaNet | GatedLinearAttention)
    if not is_plain(model) or not (normed or isinstance(mixer, DenseRNN | GateLoop)):
        raise NotImplementedError("drift: one layer of dense, gateloop, deltanet or gla is treated")
    state = mixer.init_state(1)
    if any(getattr(state, name, state[0][:0]).numel() for name in ("conv", "window")):
        raise NotImplementedError("drift: gates must see one token")
    tokens = torch.tensor([*core.tokens.tolist(), automaton.bos])
    embedded = wide.embedding(tokens)
    inputs = block.mixer_norm(embedded)
    form = mixer.linear_form(inputs.unsqueeze(1))
    if not isinstance(form, Recurrence) or form.early or not isinstance(form.transition, Tensor):
        raise NotImplementedError("drift: a recurrence is treated")
    a, written = form.transition[:, 0], (form.write @ form.values)[:, 0]  # (B, H, n, n), (B, H, n, V)
    a = torch.diag_embed(a) if a.ndim == 3 else a
    read = torch.eye(a.shape[-1]).expand_as(a).to(a) if form.readout is None else form.readout[:, 0]
    own = None
    if form.skip is not None:
        own = (form.skip.expand(*form.write.shape[:3], -1, -1) @ form.values)[:, 0]
    _require_these_maps(mixer, inputs, form, a, written, read, own)
    step = torch.from_numpy(core.step)
    after = _references(a, written, step)
    made = torch.einsum("xhij,qhjv->qxhiv", a[:-1], after) + written[:-1]  # (Q, L, H, n, V)
    size = after.flatten(2).norm(dim=-1).amax(0)  # (H,)
    unit = 2.0**-24 if next(model.parameters()).dtype == torch.float32 else 2.0**-53
    rounding = 4 * unit * (a.shape[-1] + 16)
    apart = (made - after[step]).flatten(3).norm(dim=-1).amax((0, 1)) + rounding * size
    first = (written[-1] - after[0]).flatten(1).norm(dim=-1) + rounding * size
    growth = torch.linalg.matrix_norm(a, 2).amax(0).clamp_min(1)

    o = torch.einsum("xhoi,qxhiv->qxhov", read[:-1], after[step])
    if own is not None:
        o = o + own[:-1]
    scaled = (wide.embedding if wide.head is None else wide.head).weight * wide.norm.weight
    head = scaled - scaled.mean(1, keepdim=True)
    answers = torch.from_numpy(core.answers)[step]  # (Q, L)
    rows = head[answers][:, :, None] - head  # (Q, L, V, D)
    y = torch.stack([form.output(torch.cat([each, each[:1]]).unsqueeze(1))[:-1, 0] for each in o])  # (Q, L, D)
    leads = torch.einsum("qlvd,qld->qlv", rows, embedded[:-1] + y)
    sizes = scaled[answers][:, :, None].abs() + scaled.abs()
    leads = leads - rounding * torch.einsum("qlvd,qld->qlv", sizes, embedded[:-1].abs() + y.abs())
    slopes = torch.einsum("qlvd,lhd...->qlvh...", rows, _slopes(form, o.shape[2:], normed)[:-1]).flatten(4).norm(dim=-1)
    reach = torch.linalg.matrix_norm(read[:-1], 2)  # (L, H)
    lengths = o.flatten(3).norm(dim=-1)  # (Q, L, H)
    other = torch.arange(rows.shape[2]) != answers[..., None]

    def holds(n: int) -> bool:
        powers = torch.where(growth > 1, growth**n, torch.ones_like(growth))
        moved = first * powers + apart * torch.where(
            growth > 1, (powers - 1) / (growth - 1).clamp_min(1e-300), float(n)
        )
        moved = reach * moved  # (L, H)
        if normed:
            moved = moved / ((lengths - moved).clamp_min(0) ** 2 / o.shape[-1] + _EPS).sqrt()
        loss = torch.einsum("qlvh,qlh->qlv", slopes, moved.expand(len(o), -1, -1))
        return bool(((leads - loss)[other] > 0).all())

    if not holds(1):
        return 0
    low, high = 1, 2
    while high < _LONGEST and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low if math.isfinite(low) else 0


def _require_these_maps(
    mixer: Any, inputs: Tensor, form: Recurrence, a: Tensor, written: Tensor, read: Tensor, own: Tensor | None
) -> None:
    """Letters must act in words as they do alone, where for example the angles of those before are not seen."""
    words, y = words_through(mixer, inputs)
    for word, told in zip(words.tolist(), y, strict=True):
        state = written[-1]
        for x, row in zip(word, told, strict=True):
            state = a[x] @ state + written[x]
            o = read @ state if own is None else read @ state + own
            said = form.output(o.unsqueeze(1))[x, 0]
            if not (said - row).abs().max() <= 1e-9 * (1 + row.abs().max()):
                raise NotImplementedError("drift: what a letter does depends on more than the state")


def _references(a: Tensor, written: Tensor, step: Tensor) -> Tensor:
    """S_q (Q, H, n, V)."""
    found: list[Any] = [None] * len(step)
    found[0] = written[-1]
    for q in (queue := [0]):
        for x, to in enumerate(step[q].tolist()):
            if found[to] is None:
                found[to] = a[x] @ found[q] + written[x]
                queue.append(to)
    return torch.stack(found)


def _slopes(form: Recurrence, shape: Any, normed: bool) -> Tensor:
    """The linear map behind the norm, or that of what is read where there is none, (B, H, D, O, V)."""
    batch, size = len(form.write), 1e-9 if normed else 1.0
    zero = torch.zeros(batch, 1, *shape, dtype=torch.float64)
    base, columns = form.output(zero)[:, 0], []
    for place in range(zero[0].numel()):
        moved = zero.flatten(1).clone()
        moved[:, place] = size
        columns.append((form.output(moved.view_as(zero))[:, 0] - base) / size * (math.sqrt(_EPS) if normed else 1))
    return torch.stack(columns, -1).unflatten(-1, tuple(shape)).movedim(2, 1)
