"""Optimizers and what they are given; nothing here knows a mixer."""

from seqmix.optim.combined import Combined
from seqmix.optim.parameter_groups import describe_parameters, parameter_groups
from seqmix.optim.registry import create_optimizer, get_optimizer, list_optimizers, register_optimizer
from seqmix.optim.schedules import create_schedule
from seqmix.optim.transfer import transfer

__all__ = [
    "Combined",
    "create_optimizer",
    "create_schedule",
    "describe_parameters",
    "get_optimizer",
    "list_optimizers",
    "parameter_groups",
    "register_optimizer",
    "transfer",
]
