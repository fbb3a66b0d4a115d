"""Weights written by hand, one function for each kind of layer: `plan` finds the one for a mixer and an automaton."""

from collections.abc import Callable

from seqmix.atlas.cascades import Upper, uppers
from seqmix.atlas.constructions.cell import Cell, Plan
from seqmix.atlas.constructions.gated import attention, hgrn_2, kda, mamba_2, min_gru, rg_lru
from seqmix.atlas.constructions.rows import bd_lru, h_lru
from seqmix.atlas.constructions.selective import mamba
from seqmix.atlas.constructions.stacked import stacked
from seqmix.atlas.constructions.states import fp_rnn, lstm, pd_ssm
from seqmix.atlas.constructions.turning import deltanet_bits, deltanet_group, dense
from seqmix.atlas.constructions.turns import gateloop, gla
from seqmix.atlas.traits import Mixer
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import core_of

__all__ = ["CONSTRUCTIONS", "Cell", "Plan", "plan"]

CONSTRUCTIONS: dict[str, tuple[Callable[[Cell], Plan | None], ...]] = {
    "bd-lru": (bd_lru,),
    "h-lru": (h_lru,),
    "mamba": (mamba,),
    "deltanet": (deltanet_bits, deltanet_group),
    "deltaproduct": (deltanet_bits, deltanet_group),
    "dense": (dense,),
    "mamba-2": (mamba_2,),
    "rg-lru": (rg_lru,),
    "min-gru": (min_gru,),
    "min-lstm": (min_gru,),
    "hgrn-2": (hgrn_2,),
    "kda": (kda,),
    "attention": (attention,),
    "gla": (gla,),
    "gateloop": (gateloop,),
    "pd-ssm": (pd_ssm,),
    "lstm": (lstm,),
    "fp-rnn": (fp_rnn,),
}


# Layers of bits: what letters do may be anything that bits can.
_BITS = frozenset(
    {"mamba", "mamba-2", "rg-lru", "min-gru", "min-lstm", "hgrn-2", "kda", "attention", "gla", "gateloop", "dense"}
    | {"deltanet", "deltaproduct"}
)
_UPPERS: dict[tuple[str, bool], list[Upper]] = {}  # by an automaton's fingerprint, and whether bits may flip


def plan(mixer: Mixer, automaton: Automaton, n_layers: int = 1) -> Plan | None:
    """The first construction that has weights, of one layer or, where there are more, of two; None where none has, for
    automata without a BOS, and for those some of whose letters cannot come."""
    core = core_of(automaton)
    if not core.complete or automaton.bos is None:
        return None
    cell = Cell(mixer, automaton, core)
    found = _single(cell)
    if found is not None or n_layers == 1 or mixer.name not in CONSTRUCTIONS:
        return found
    flips = _flips(mixer)
    key = (automaton.fingerprint(), flips)
    if key not in _UPPERS:
        _UPPERS[key] = list(uppers(core, automaton.bos, flips=flips))
    tried = (stacked(cell, upper, _single) for upper in _UPPERS[key] if upper.bits is None or mixer.name in _BITS)
    return next((each for each in tried if each is not None), None)


def _single(cell: Cell) -> Plan | None:
    makers = CONSTRUCTIONS.get(cell.mixer.name, ())
    # Only those of bits may be asked for given ones, and they stand first.
    return next((found for make in makers[: 1 if cell.bits else None] if (found := make(cell)) is not None), None)


def _flips(mixer: Mixer) -> bool:
    o = mixer.options
    return (
        o.get("eigenvalues") == "signed" or o.get("position") == "selective-rope" or mixer.name in ("gateloop", "dense")
    )
