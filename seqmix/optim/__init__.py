"""Optimizers and what they are given; nothing here knows a mixer."""

from seqmix.optim.parameter_groups import parameter_groups

__all__ = ["parameter_groups"]
