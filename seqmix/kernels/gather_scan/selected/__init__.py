"""`gather_scan` where a token selects the places, and the straight-through gradient of what it selects."""

from seqmix.kernels.gather_scan.selected.api import select, selected_gather_scan

__all__ = ["select", "selected_gather_scan"]
