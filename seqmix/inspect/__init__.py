"""Looking into a layer: its mixing matrix, the eigenvalues of its transitions, its gradients over time; and
certificates, which prove a model right for every length.

Each name loads its module when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqmix.inspect.certificates import Certificate, CounterExample, certify, verify
    from seqmix.inspect.forms import Direct, LinearForm, Recurrence, register_linear_form
    from seqmix.inspect.gradients import gradient_norms
    from seqmix.inspect.mixing import linear_form, mixing_matrix
    from seqmix.inspect.records import SpectrumRecord, read_spectra
    from seqmix.inspect.spectra import eigenvalues, observe

_HOMES = {
    "seqmix.inspect.certificates": ("Certificate", "CounterExample", "certify", "verify"),
    "seqmix.inspect.gradients": ("gradient_norms",),
    "seqmix.inspect.forms": ("Direct", "LinearForm", "Recurrence", "register_linear_form"),
    "seqmix.inspect.mixing": ("linear_form", "mixing_matrix"),
    "seqmix.inspect.records": ("SpectrumRecord", "read_spectra"),
    "seqmix.inspect.spectra": ("eigenvalues", "observe"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Certificate",
    "CounterExample",
    "Direct",
    "LinearForm",
    "Recurrence",
    "SpectrumRecord",
    "certify",
    "eigenvalues",
    "gradient_norms",
    "linear_form",
    "mixing_matrix",
    "observe",
    "read_spectra",
    "register_linear_form",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'seqmix.inspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
