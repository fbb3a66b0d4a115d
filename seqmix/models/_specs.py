"""What a model's `mixer` argument may be, and the layers it makes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqmix._trust import OWN, beneath, load_class, require_trust
from seqmix.mixers.registry import create_mixer

if TYPE_CHECKING:  # configs are checked without torch
    from seqmix.mixers import TokenMixer

__all__ = ["MixerSpec", "check_mixers", "mixer_of", "named", "specs_of"]

_MOST_LAYERS = 10_000
MixerSpec = str | Mapping[str, Any] | Callable[[int], "TokenMixer"]


def specs_of(mixer: Any, n_layers: int) -> list[Any]:
    """One dict or function for each layer."""
    if n_layers > _MOST_LAYERS:
        raise ValueError(f"SequenceModel: n_layers must be at most {_MOST_LAYERS}, got {n_layers}")
    specs = list(mixer) if isinstance(mixer, Sequence) and not isinstance(mixer, str) else [mixer]
    if len(specs) not in (1, n_layers):
        raise ValueError(
            f"SequenceModel: mixer must be one mixer or a list of n_layers = {n_layers} of them, got {len(specs)}"
        )
    specs = specs * n_layers if len(specs) == 1 else specs
    return [_spec_of(spec) for spec in specs]


def mixer_of(spec: Any, d_model: int, bidirectional: bool, **like: Any) -> "TokenMixer":
    """The mixer of one entry of `specs_of`, in both directions if asked for."""
    from seqmix.models.bidirectional import Bidirectional

    mixer = _build(spec, d_model, **like)
    return Bidirectional(mixer, _build(spec, d_model, **like)) if bidirectional else mixer


def _spec_of(spec: Any) -> Any:
    from torch.nn import Module

    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, Mapping):
        spec = named(spec)
        if not isinstance(spec.get("name"), str):
            raise ValueError(f"SequenceModel: mixer must have a 'name' beside its arguments, got {dict(spec)!r}")
        return dict(spec)
    if callable(spec) and not isinstance(spec, Module):
        return spec
    raise ValueError(
        "SequenceModel: mixer must be a name, a dict with a name, a function of d_model, or a list of those, "
        f"got {spec!r}" + ("; layers are built one by one, so give its class" if isinstance(spec, Module) else "")
    )


def named(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{module: my_package.MyLayer, ...}`, a layer that is not registered, as `{name: "my_package:MyLayer", ...}`."""
    if "name" in spec or not isinstance(spec.get("module"), str):
        return spec
    path, dot, attribute = spec["module"].replace(":", ".").rpartition(".")
    if not dot:
        raise ValueError(f"mixer: module must be the path of a class, as my_package.MyLayer, got {spec['module']!r}")
    return {"name": f"{path}:{attribute}"} | {key: value for key, value in spec.items() if key != "module"}


def check_mixers(mixer: Any, trust: Iterable[str] | None, where: str) -> None:
    """`ValueError` unless each layer of a model's `mixer`, as data gives it, is registered, seqmix's own or trusted."""
    if trust is None:
        return
    for spec in mixer if isinstance(mixer, list | tuple) else [mixer]:
        name = named(spec).get("name") if isinstance(spec, dict) else spec
        if not isinstance(name, str) or ":" not in name:
            continue
        module, _, attribute = name.partition(":")
        if beneath(module, OWN):
            from torch.nn import Module

            load_class(f"{module}.{attribute}", Module, trust, where)
        else:
            require_trust(module, trust, where)


def _build(spec: Any, d_model: int, **like: Any) -> "TokenMixer":
    from seqmix.mixers.base import TokenMixer

    if isinstance(spec, dict):
        arguments = {key: value for key, value in spec.items() if key != "name"}
        if "d_model" in arguments:
            raise ValueError(f"SequenceModel: a mixer has the model's d_model = {d_model}, got {spec!r}")
        return create_mixer(spec["name"], d_model, **(like | arguments))
    mixer = spec(d_model)
    if not isinstance(mixer, TokenMixer) or mixer.d_model != d_model:
        raise ValueError(f"SequenceModel: mixer must build a TokenMixer of width {d_model}, got {mixer!r}")
    return mixer.to(**like)
