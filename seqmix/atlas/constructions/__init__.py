"""Weights written by hand, one function for each kind of layer: `plan` finds the one for a mixer and an automaton."""

from collections.abc import Callable

from seqmix.atlas.constructions.cell import Cell, Plan
from seqmix.atlas.constructions.gated import attention, hgrn_2, kda, mamba_2, min_gru, rg_lru
from seqmix.atlas.constructions.rows import bd_lru, h_lru
from seqmix.atlas.constructions.selective import mamba
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


def plan(mixer: Mixer, automaton: Automaton) -> Plan | None:
    """The first construction that has weights; None where none has, for automata without a BOS, and for those some of
    whose letters cannot come."""
    core = core_of(automaton)
    if not core.complete or automaton.bos is None:
        return None
    cell = Cell(mixer, automaton, core)
    return next((found for make in CONSTRUCTIONS.get(mixer.name, ()) if (found := make(cell)) is not None), None)
