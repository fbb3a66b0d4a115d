"""Optimizers and what they are given; nothing here knows a mixer."""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy
from seqmix.optim import entries  # what it registers needs no torch

if TYPE_CHECKING:
    from seqmix.optim.angular_muown import AngularMuown
    from seqmix.optim.anti_pgd import AntiPGD
    from seqmix.optim.averaging import LatestAverage, average_state_dicts
    from seqmix.optim.combined import Combined
    from seqmix.optim.create import create_optimizer
    from seqmix.optim.fractional_pgd import FractionalPGD
    from seqmix.optim.fused_adamw import adamw
    from seqmix.optim.groups import describe_parameters, parameter_groups
    from seqmix.optim.layer_noise import LayerNoise
    from seqmix.optim.lmo import LMO
    from seqmix.optim.muown import Muown
    from seqmix.optim.ngn import NGN, NGNM
    from seqmix.optim.ngn_d import NGND
    from seqmix.optim.ngn_md import NGNMDv1
    from seqmix.optim.registry import get_optimizer, list_optimizers, register_optimizer
    from seqmix.optim.scaling import transfer
    from seqmix.optim.scheduler import create_schedule
    from seqmix.optim.signum import Signum
    from seqmix.optim.tied_adam import TiedAdam

__all__ = [  # the reference reads it, too
    "LMO",
    "NGN",
    "NGND",
    "NGNM",
    "AngularMuown",
    "AntiPGD",
    "Combined",
    "FractionalPGD",
    "LatestAverage",
    "LayerNoise",
    "Muown",
    "NGNMDv1",
    "Signum",
    "TiedAdam",
    "adamw",
    "average_state_dicts",
    "create_optimizer",
    "create_schedule",
    "describe_parameters",
    "get_optimizer",
    "list_optimizers",
    "parameter_groups",
    "register_optimizer",
    "transfer",
]

__getattr__, __dir__ = lazy(__name__)
