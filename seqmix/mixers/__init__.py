"""Token mixers: layers that mix information along a sequence, all with one contract (`TokenMixer`).

The classes that are registered in this folder are attributes, as all that is imported here; each loads its module when
first used.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.mixers.base import TokenMixer, recurrent_dtype
    from seqmix.mixers.module_mixer import ModuleMixer
    from seqmix.mixers.registry import create_mixer, list_mixers, register_mixer
    from seqmix.mixers.selective_rope import SelectiveRoPE
    from seqmix.mixers.state import mixer_state

__getattr__, __dir__ = lazy(__name__)
