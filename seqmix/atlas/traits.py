"""What theorems have to know of a layer: which maps of its state tokens can be, and how many tokens choose them.

Options that a mixer's entry leaves out have the values of its constructor. Sizes that it leaves out (`d_state`,
`n_heads`, `block_size`, `order`, `rank`, ...) are as large as is needed, so that "cannot" holds for all of them.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from seqmix.mixers.registry import get_mixer

__all__ = ["SIZES", "Mixer", "Traits", "mixer_of", "traits_of"]

SIZES = frozenset(
    {"d_state", "n_heads", "block_size", "order", "rank", "expand", "dt_rank", "expand_k", "expand_v", "decay_rank"}
    | {"n_groups", "n_transitions"}
)


class Mixer(NamedTuple):
    """A mixer's entry: options, defaults included, without sizes; sizes that were given; a name for people."""

    name: str
    options: dict[str, Any]
    sizes: dict[str, Any]
    given: dict[str, Any]

    @property
    def title(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.given.items())
        return f"{self.name}({arguments})" if arguments else self.name


class Traits(NamedTuple):
    """The kind of maps h -> A(x) h + b(x) of a layer's state.

    kind:
        `positive`, `signed`, `complex`: A is diagonal, with entries in [0, 1], in [-1, 1], in the unit disc;
        `fixing`: products of symmetric matrices between 0 and 1, so that |A h| = |h| only where A h = h;
        `contraction`: |A h| <= |h|;
        `rows`, `signed rows`: block-diagonal with blocks of m, the rows of [A, gate] non-negative of sum at most one,
        or of absolute sum at most one;
        `lags`: the newest of m entries is a mean of them and of an input, the others move on by one;
        `mean`: the output is a mean of values, weighted by pairs of letters and by what was forgotten since;
        `real spectrum`: for each token A is similar to a symmetric matrix with eigenvalues in [-1, 1];
        `other`: nothing is known.
    window: tokens that choose A and b, the last ones. alike: whether A is the same for all tokens. clocked: whether
    something turns alike at every token besides. spectrum: the least eigenvalue of an A(x), that turn aside, 0 or
    more, above -1, or -1, where every A(x) has real eigenvalues only, else None. m: block size, if it was given.
    forgets: whether weights of a mean fade with what came since.
    """

    kind: str
    window: int = 1
    alike: bool = False
    clocked: bool = False
    spectrum: float | None = None
    m: int | None = None
    forgets: bool = False


def mixer_of(spec: str | Mapping[str, Any]) -> Mixer:
    """The entry of a mixer; unknown names, arguments and values of options raise `ValueError`."""
    entry = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in entry:
        raise ValueError(f"atlas: mixer must be a name or {{name: ..., arguments}}, got {spec!r}")
    name = entry.pop("name")
    known = inspect.signature(get_mixer(name).load()).parameters
    for key in entry:
        if key not in known or key == "d_model":
            raise ValueError(f"atlas: mixer {name!r} has no argument {key!r}")
    defaults = {key: p.default for key, p in known.items() if p.default is not inspect.Parameter.empty}
    options = {key: value for key, value in (defaults | entry).items() if key not in SIZES}
    # Sizes may be such as fit another width.
    _require_options(name, {key: value for key, value in entry.items() if key not in SIZES})
    return Mixer(
        name, options, {key: value for key, value in entry.items() if key in SIZES and value is not None}, entry
    )


_VALID: set[tuple[str, str]] = set()


def _require_options(name: str, options: Mapping[str, Any]) -> None:
    """`ValueError` of the layer's own where an option has a value that it does not know."""
    if (key := (name, repr(options))) not in _VALID:
        get_mixer(name).load()(256, **options, device="meta")
        _VALID.add(key)


def traits_of(mixer: Mixer) -> Traits:
    """The traits of a mixer of seqmix; of any other `Traits("other")`."""
    o, name = mixer.options, mixer.name
    window = o.get("d_conv") or 1
    signed = o.get("eigenvalues") == "signed"
    if name in ("lru", "s5", "s4d", "retnet"):
        return Traits("complex", alike=True)
    if name == "mamba":
        return Traits("signed" if signed else "positive", window, spectrum=-1 if signed else 0)
    if name in ("mamba-2", "rg-lru", "min-gru", "min-lstm", "hgrn-2", "mlstm"):
        return Traits("positive", window, spectrum=0)
    if name == "mamba-3":
        return Traits("complex", 2)
    if name == "gateloop":
        return Traits("complex")
    if name == "gla" and o["position"] == "selective-rope":
        # Decays that are not tied do not commute with turns.
        rope = o["rope_options"] or {}
        tied, taps = o["tie_decay"] is not False and "preset" not in rope, rope.get("d_conv", 4)
        if taps == "difference":
            # Over the reals they add up to the last token's own angle, so that nothing turns but by a bias.
            return Traits("other")
        return Traits("complex" if tied else "other", window + taps - 1)
    if name == "gla":
        return Traits("positive", window, clocked=o["position"] == "rope", spectrum=0)
    if name in ("deltanet", "gated-deltanet", "deltaproduct", "kda"):
        one = o.get("n_householder", 1) == 1
        position = o.get("position")
        if position == "rope" or (position == "selective-rope" and (o["rope_options"] or {}).get("d_conv", 4) != 1):
            return Traits("other")
        if position is None and not signed:
            return Traits("fixing", window, spectrum=0 if one else None)
        return Traits("contraction", window, spectrum=-1 if one and position is None else None)
    if name == "rwkv-7":
        return Traits("real spectrum", 2, spectrum=-1 if signed else -0.5)
    if name == "bd-lru" and o["normalization"] in ("softmax", "sigmoid", "relu", "tanh", "l1", "linear"):
        rows = "signed rows" if o["normalization"] in ("tanh", "l1", "linear") else "rows"
        return Traits(rows, alike=not o["selective"], m=mixer.sizes.get("block_size"))
    if name == "h-lru" and o["normalization"] in ("softmax", "sigmoid", "relu"):
        return Traits("lags", alike=not o["selective"], m=mixer.sizes.get("order"))
    if name == "attention" and o["window"] is None and o["position"] in (None, "rope"):
        return Traits("mean", window, clocked=o["position"] == "rope", forgets=o["forget_gate"])
    if name == "linear-attention":
        return Traits("mean", window)
    return Traits("other")
