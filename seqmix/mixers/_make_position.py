"""From `position` and `rope_options` of a mixer to the module that turns its queries and keys."""

from collections.abc import Mapping
from typing import Any

from seqmix._suggest import unknown_name
from seqmix.mixers._positions import NoPosition, RoPE
from seqmix.mixers.base import one_of
from seqmix.mixers.selective_rope import SelectiveRoPE

# Of the released code of Selective RoPE, configs/mad/model/position_embedding/selective_rope.yaml.
PRESETS: dict[str, dict[str, Any]] = {
    "released": {
        "rank": 32, "d_conv": 4, "activation": None, "bias": False, "gate": None, "gate_input": "unit",
        "temperature": "rope", "theta": 5e5, "temperature_max": 1.0,
    },
}  # fmt: skip


def has_preset(options: Mapping[str, Any] | None) -> bool:
    """Whether `rope_options` name a published setting, `{"preset": "released"}`, whose decays are not tied."""
    return (options or {}).get("preset") is not None


def make_position(
    owner: str,
    position: str | None,
    d_model: int,
    n_heads: int,
    d_head: int,
    options: dict[str, Any] | None,
    **where: Any,
) -> NoPosition:
    """The module for `position`: None, `"rope"` or `"selective-rope"`, with its `options`."""
    one_of(owner, "position", position, (None, "rope", "selective-rope"))
    options = dict(options or {})
    if position == "selective-rope" and (preset := options.pop("preset", None)) is not None:
        options = PRESETS[one_of(owner, "rope_options' preset", preset, tuple(PRESETS))] | options
    known = {
        None: (),
        "rope": ("base",),
        "selective-rope": tuple(key for key in SelectiveRoPE.__init__.__kwdefaults__ or () if key not in where),
    }[position]
    for key in options:
        if key not in known:
            raise unknown_name(f"entry of {owner}'s rope_options for position={position!r}:", key, known)
    if position is not None and d_head % 2:
        raise ValueError(f"{owner}: position={position!r} needs an even width of keys in each head, got {d_head}")
    if position == "rope":
        return RoPE(n_heads, d_head, **options)
    if position == "selective-rope":
        return SelectiveRoPE(d_model, n_heads, d_head, **options, **where)
    return NoPosition(n_heads, d_head)
