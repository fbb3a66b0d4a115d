"""Looking into a layer: its mixing matrix, the eigenvalues of its transitions, its gradients over time; and
certificates, which prove a model right for every length.

Each name loads its module when first used.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.inspect.certificates import Certificate, CounterExample, certify, verify
    from seqmix.inspect.gradients import gradient_norms
    from seqmix.inspect.mixing import linear_form, mixing_matrix, register_linear_form
    from seqmix.inspect.records import SpectrumRecord, read_spectra
    from seqmix.inspect.spectra import eigenvalues, observe
    from seqmix.mixers.forms import Direct, LinearForm, Recurrence

# The reference reads these, too.
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

__getattr__, __dir__ = lazy(__name__)
