"""Sizes that a case runs at: its standard one, larger ones on a GPU, and sweeps over length and block size.

Letters as in `seqmix.benchmarks.cases`.
"""

from collections.abc import Iterable

import torch

from seqmix.benchmarks.cases import Case, Sizes

SWEEPS = {
    "length": "T from 1,024 with as many tokens B T as the standard size has",
    "growth": "T from 1,024 at the standard batch size, up to 65,536 tokens a sequence",
    "block": "m = 1, 2, 3, 4, 5, 8, 16 with as many states N m as the standard size has",
}
BLOCKS = (1, 2, 3, 4, 5, 8, 16)
_LENGTHS = (1024, 4096, 16384, 65536)

# The authors' shape of the block scans and a usual one of accelerated-scan, mamba and fla for the rest.
_ON_GPU: dict[str, Sizes] = {
    "diagonal_scan": {"B": 8, "T": 16384, "D": 1536},
    "diagonal_scan_complex": {"B": 8, "T": 16384, "D": 768},
    "diagonal_scan_constant": {"B": 8, "T": 16384, "D": 1536},
    "gather_scan": {"B": 64, "T": 4096, "D": 128},
    "block_scan": {"B": 4, "T": 16384, "N": 128, "m": 4},
    "gated_block_scan": {"B": 4, "T": 16384, "N": 128, "m": 4},
    "higher_order_scan": {"B": 8, "T": 16384, "D": 512, "m": 4},
    "gated_higher_order_scan": {"B": 8, "T": 16384, "D": 512, "m": 4},
    "selective_scan": {"B": 8, "T": 2048, "D": 1536, "N": 16},
    "causal_conv1d": {"B": 8, "T": 4096, "D": 1536, "W": 4},
    "gated_linear_attention": {"B": 4, "T": 4096, "H": 16, "K": 128, "V": 128},
    "delta_rule": {"B": 4, "T": 4096, "H": 16, "K": 128, "V": 128},
    "dplr_delta_rule": {"B": 4, "T": 4096, "H": 16, "K": 128, "V": 128},
    "selective_rotary": {"B": 4, "T": 4096, "H": 16, "K": 128},
}


def standard_sizes(case: Case, device: torch.device, quick: bool = False) -> Sizes:
    """What a case is timed at on a device without a sweep."""
    if quick:
        return case.quick
    return _ON_GPU.get(case.name, case.sizes) if device.type == "cuda" else case.sizes


def sweep_sizes(case: Case, device: torch.device, sweep: str | None, quick: bool = False) -> list[Sizes]:
    """The sizes of a sweep, smallest first; none where it changes nothing, as block size does for a diagonal scan."""
    sizes = standard_sizes(case, device, quick)
    if sweep is None:
        return [sizes]
    if sweep == "block":
        if "m" not in sizes:
            return []
        many = "N" if "N" in sizes else "D"
        if many == "D":  # the order of a channel takes nothing from the number of channels
            return [sizes | {"m": m} for m in _few(BLOCKS, quick)]
        return [sizes | {many: max(1, sizes[many] * sizes["m"] // m), "m": m} for m in _few(BLOCKS, quick)]
    if quick:
        return [sizes | {"T": length} for length in (sizes["T"], 2 * sizes["T"])]
    if sweep == "growth":
        return [sizes | {"T": length} for length in _LENGTHS]
    tokens = sizes["B"] * sizes["T"]
    return [sizes | {"B": tokens // length, "T": length} for length in _LENGTHS if length <= tokens]


def _few(values: Iterable[int], quick: bool) -> list[int]:
    return [value for value in values if value <= (2 if quick else 16)]
