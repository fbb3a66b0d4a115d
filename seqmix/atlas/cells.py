"""The cells of the atlas: which mixers and automata it has, and `cell`, what is known of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqmix._suggest import unknown_name
from seqmix.atlas.prediction import Prediction, predict

__all__ = ["AUTOMATA", "GROUPS", "LAYERS", "MIXERS", "cell", "names_of"]

_SIGNED: dict[str, Any] = {"eigenvalues": "signed", "d_conv": 1}
_ROPE: dict[str, Any] = {"rope_options": {"d_conv": 1, "bias": False}}

MIXERS: dict[str, dict[str, Any]] = {
    "lru": {"name": "lru"},
    "s5": {"name": "s5"},
    "retnet": {"name": "retnet"},
    "mamba": {"name": "mamba", "d_conv": 1},
    "mamba, conv": {"name": "mamba"},
    "mamba-2": {"name": "mamba-2", "d_conv": 1},
    "rg-lru": {"name": "rg-lru", "d_conv": 1},
    "min-gru": {"name": "min-gru"},
    "hgrn-2": {"name": "hgrn-2"},
    "gla": {"name": "gla"},
    "mamba, signed": {"name": "mamba", **_SIGNED},
    "gla, selective-rope": {"name": "gla", "position": "selective-rope", **_ROPE},
    "gateloop": {"name": "gateloop"},
    "mamba-3": {"name": "mamba-3"},
    "deltanet": {"name": "deltanet", "d_conv": 1},
    "kda": {"name": "kda", "d_conv": 1},
    "deltanet, signed": {"name": "deltanet", **_SIGNED},
    "deltanet, signed, 2 steps": {"name": "deltanet", "n_householder": 2, **_SIGNED},
    "deltanet, signed, 4 steps": {"name": "deltanet", "n_householder": 4, **_SIGNED},
    "rwkv-7": {"name": "rwkv-7"},
    "dense": {"name": "dense"},
    "bd-lru, m = 2": {"name": "bd-lru", "block_size": 2},
    "bd-lru, m = 4": {"name": "bd-lru", "block_size": 4},
    "bd-lru, any m": {"name": "bd-lru"},
    "bd-lru, l1, m = 1": {"name": "bd-lru", "normalization": "l1", "block_size": 1},
    "bd-lru, l1, any m": {"name": "bd-lru", "normalization": "l1"},
    "h-lru": {"name": "h-lru"},
    "pd-ssm": {"name": "pd-ssm"},
    "attention": {"name": "attention"},
    "attention, forget gate": {"name": "attention", "forget_gate": True},
    "lstm": {"name": "lstm"},
    "fp-rnn, b sees h": {
        "name": "fp-rnn", "hidden_dependence": ["b"], "write": "b", "output_gate": False, "rank": 0,
    },
}  # fmt: skip
"""The rows: mixers' entries by the names that they have in the atlas."""

AUTOMATA: dict[str, str] = {
    "flip-flop": "flip-flop",
    "registers": "registers-2",
    "delay": "delay",
    "first": "first",
    "subsequence": "subsequence-3",
    "newest before": "newest-before",
    "(ab)*": "alternating",
    "factor": "factor-2",
    "clip 2": "clip-2",
    "clip 3": "clip-3",
    "dyck 3": "dyck-1-3-sink",
    "Z2": "Z2",
    "Z2 reset": "counter-2-reset",
    "Z3": "Z3",
    "Z3 reset": "counter-3-reset",
    "Z6": "Z6",
    "D4": "D4",
    "Q8": "Q8",
    "S3": "S3",
    "A4": "A4",
    "S4": "S4",
    "A5": "A5",
    "S5": "S5",
    "T3": "maps-3",
    "random": "random-5-2-0",
}
"""The columns: what automata are called in the atlas, and their names as tasks."""

# By the algebra of the layer and of the automaton, in the order of rows and columns.
LAYERS: dict[str, list[str]] = {
    "one clock": ["lru", "s5", "retnet"],
    "positive diagonals": ["mamba", "mamba, conv", "mamba-2", "rg-lru", "min-gru", "hgrn-2", "gla"],
    "signs": ["mamba, signed"],
    "turns": ["gla, selective-rope", "gateloop", "mamba-3"],
    "rank-one steps": [
        "deltanet", "kda", "deltanet, signed", "deltanet, signed, 2 steps", "deltanet, signed, 4 steps", "rwkv-7",
    ],
    "any matrix": ["dense"],
    "rows": [
        "bd-lru, m = 2", "bd-lru, m = 4", "bd-lru, any m", "bd-lru, l1, m = 1", "bd-lru, l1, any m", "h-lru", "pd-ssm",
    ],
    "means": ["attention", "attention, forget gate"],
    "loops": ["lstm", "fp-rnn, b sees h"],
}  # fmt: skip
GROUPS: dict[str, list[str]] = {
    "registers": ["flip-flop", "registers", "delay"],
    "star-free": ["first", "subsequence", "newest before", "(ab)*", "factor", "clip 2", "clip 3", "dyck 3"],
    "counters": ["Z2", "Z2 reset", "Z3", "Z3 reset", "Z6"],
    "solvable groups": ["D4", "Q8", "S3", "A4", "S4"],
    "others": ["A5", "S5", "T3", "random"],
}


def cell(mixer: str | Mapping[str, Any], automaton: str, n_layers: int = 1) -> Prediction:
    """What is known of a mixer and an automaton, by their names in the atlas, or as `predict` takes them.

    The atlas's layers see one token at a time where their names do not say `conv`: `cell("mamba", ...)` is `predict` of
    `{"name": "mamba", "d_conv": 1}`.

    Raises:
        ValueError: unknown names.

    Example:
        >>> from seqmix.atlas import cell
        >>> cell("deltanet, signed, 2 steps", "S3").verdict
        'can'
    """
    chosen = MIXERS.get(mixer, mixer) if isinstance(mixer, str) else mixer
    return predict(chosen, AUTOMATA.get(automaton, automaton), n_layers)


def names_of(kind: str, names: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Names of rows or columns; all of them for none, `ValueError` for an unknown one."""
    for name in names:
        if name not in known:
            raise unknown_name(f"{kind} of the atlas:", name, known)
    return list(names) or list(known)
