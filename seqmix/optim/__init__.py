"""Optimizers and what they are given; nothing here knows a mixer."""

from seqmix.optim.parameter_groups import parameter_groups
from seqmix.optim.registry import create_optimizer, list_optimizers, register_optimizer
from seqmix.optim.schedules import create_schedule

__all__ = ["create_optimizer", "create_schedule", "list_optimizers", "parameter_groups", "register_optimizer"]
