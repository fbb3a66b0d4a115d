"""Which parameters decay, how fast each learns and which are matrices, read from what the modules declare.

The rule for matrices, which Muon and its kin orthogonalise: a parameter with exactly two axes that decays and lies in
no output head. Embeddings, heads, norms, biases, vectors, parameters with three axes or more and everything that a
module declares in `_no_weight_decay` are the rest, which AdamW takes. Regular expressions overrule it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["HEADS", "ParameterFacts", "describe_parameters", "parameter_groups"]

HEADS = ("head", "lm_head", "output_head", "classifier")
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class ParameterFacts:
    """What the optimizer is told about one parameter: `kind` is `"matrix"` or `"rest"`, `reason` says why.

    `row_blocks` are the matrices that are fused in one: their number, or the rows of each. `width` is the factor of
    Adam's rate that comes with the model's width.
    """

    name: str
    parameter: nn.Parameter
    decays: bool
    factor: float
    kind: str
    reason: str
    row_blocks: Any = 1
    width: float = 1.0


def describe_parameters(
    model: nn.Module, *, matrices: str | None = None, rest: str | None = None, fused: dict[str, Any] | None = None
) -> list[ParameterFacts]:
    """Every trainable parameter of a model once, in order, with what its optimizer will do to it.

    Args:
        model: any module; the declarations of all its submodules are read.
        matrices: regular expression, searched for in the full name; what it finds is a matrix whatever the rule says.
        rest: regular expression of what is none; it goes before `matrices`.
        fused: from regular expressions to `row_blocks` of the matrices that they find, `{"qkv_proj": 3}`.

    Raises:
        ValueError: a model without trainable parameters, a declaration that names no parameter of its module, a
            factor that is not positive, two factors for one shared parameter, a regular expression that is none or
            finds nothing, or `matrices` finding a parameter that has not two axes.
    """
    patterns = {"matrices": _compile("matrices", matrices), "rest": _compile("rest", rest)}
    if fused is not None and not isinstance(fused, dict):
        raise ValueError(f"fused must be a dict from regular expressions to blocks of rows, got {fused!r}")
    blocks = {key: (_compile("fused", key), value) for key, value in (fused or {}).items()}
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(f"parameter_groups: model must have trainable parameters, {type(model).__name__} has none")
    fixed: dict[int, str] = {}
    heads: set[int] = set()
    factors: dict[int, float] = {}
    widths: dict[int, float] = {}
    for owner, module in model.named_modules():
        own = module._parameters
        for name in _declared(module, owner, "_no_weight_decay"):
            fixed.setdefault(id(own[name]), f"declared by {type(module).__name__}")
        for name, p in own.items():
            if p is not None and (reason := _never_decays(module, name, p)):
                fixed.setdefault(id(p), reason)
        if owner.rpartition(".")[2] in HEADS:
            heads.update(id(p) for p in module.parameters())
        grown = getattr(module, "_width_scale", {})
        widths |= {id(own[name]): grown[name] for name in _declared(module, owner, "_width_scale")}
        scales = getattr(module, "_lr_scale", {})
        for name in _declared(module, owner, "_lr_scale"):
            factor = scales[name]
            if not factor > 0:
                raise ValueError(f"parameter_groups: _lr_scale of {owner}.{name} must be positive, got {factor!r}")
            if factors.setdefault(id(own[name]), factor) != factor:
                raise ValueError(
                    f"parameter_groups: {owner}.{name} is shared and has two _lr_scale factors, "
                    f"{factors[id(own[name])]} and {factor}"
                )
    facts = []
    for name, p in model.named_parameters():
        if id(p) in trainable:
            kind, reason = _kind(name, p, fixed.get(id(p)), id(p) in heads, patterns)
            rows = next((value for pattern, value in blocks.values() if pattern and pattern.search(name)), 1)
            rows = tuple(rows) if isinstance(rows, list) else rows
            facts.append(
                ParameterFacts(
                    name, p, id(p) not in fixed, factors.get(id(p), 1.0), kind, reason, rows, widths.get(id(p), 1.0)
                )
            )
    for argument, pattern in [*patterns.items(), *(("fused", pattern) for pattern, _ in blocks.values())]:
        # blocks of rows mean nothing for the rest
        found = [fact for fact in facts if argument != "fused" or fact.kind == "matrix"]
        if pattern and not any(pattern.search(fact.name) for fact in found):
            names, what = ", ".join(fact.name for fact in found[:6]), "matrix" if argument == "fused" else "parameter"
            raise ValueError(f"{argument} must find a trainable {what}, {pattern.pattern!r} finds none of {names}")
    return facts


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    split: bool = False,
    matrices: str | None = None,
    rest: str | None = None,
    fused: dict[str, Any] | None = None,
    matrix_width: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimizer, one for each combination of decay and learning-rate factor.

    A module declares by name what its own parameters need: `_no_weight_decay`, a tuple of names, and `_lr_scale`, a
    dict from names to factors on `lr`. Beyond that norms, embeddings, biases and everything with fewer than two
    axes do not decay. Parameters with `requires_grad=False` are left out.

    Args:
        model: any module; the declarations of all its submodules are read.
        lr: learning rate of parameters without a factor.
        weight_decay: decay of the parameters that decay.
        split: also part matrices from the rest; each group then has a `kind`, `"matrix"` or `"rest"`.
        matrices, rest, fused: with `split`, what overrules the rule and which matrices hold several
            (`describe_parameters`); the groups of those have `row_blocks`.
        matrix_width: with `split`, power of the width's factor that matrices get where a model has one
            (`parametrization` of `SequenceModel`): 1 for Adam's rule, which the rest has.

    Returns:
        Dicts with `name`, `params`, `lr` and `weight_decay`; together they hold every trainable parameter once.

    Raises:
        ValueError: a negative `lr` or `weight_decay`, patterns without `split`, or what `describe_parameters` raises.

    Example:
        >>> import torch
        >>> from seqmix.optim import parameter_groups
        >>> groups = parameter_groups(torch.nn.Linear(4, 4), lr=1e-3, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in groups]
        [('decay', 0.1), ('no decay', 0.0)]
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"parameter_groups: {name} must be at least 0, got {value!r}")
    if not split and (matrices or rest or fused):
        raise ValueError("parameter_groups: matrices, rest and fused need split=True")
    facts = describe_parameters(model, matrices=matrices, rest=rest, fused=fused)
    groups: dict[tuple[str, bool, float, Any], dict[str, Any]] = {}
    for fact in facts:
        kind = fact.kind if split else ""
        factor = fact.factor * fact.width ** (matrix_width if kind == "matrix" else 1.0)
        key = (kind, fact.decays, factor, fact.row_blocks if kind == "matrix" else 1)
        if key not in groups:
            name = ("decay" if fact.decays else "no decay") + (f", lr x {factor:g}" if factor != 1 else "")
            name += f", row blocks {key[3]}" if key[3] != 1 else ""
            groups[key] = {
                "name": f"{kind}, {name}" if split else name,
                "params": [],
                "lr": lr * factor,
                "weight_decay": weight_decay if fact.decays else 0.0,
                **({"kind": kind} if split else {}),
                **({"row_blocks": key[3]} if key[3] != 1 else {}),
            }
        groups[key]["params"].append(fact.parameter)
    result = list(groups.values())
    _check_partition(result, {id(fact.parameter) for fact in facts})
    return result


def _compile(argument: str, pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{argument} must be a regular expression, got {pattern!r}: {error}") from None


def _kind(
    name: str, parameter: nn.Parameter, fixed: str | None, head: bool, patterns: dict[str, re.Pattern[str] | None]
) -> tuple[str, str]:
    if patterns["rest"] and patterns["rest"].search(name):
        return "rest", f"rest {patterns['rest'].pattern!r}"
    if patterns["matrices"] and patterns["matrices"].search(name):
        if parameter.ndim != 2:
            shape = tuple(parameter.shape)
            raise ValueError(f"matrices must find parameters with two axes, {name} of shape {shape} has not")
        return "matrix", f"matrices {patterns['matrices'].pattern!r}"
    if fixed or head:
        return "rest", fixed or "head"
    return ("matrix", "two axes") if parameter.ndim == 2 else ("rest", f"{parameter.ndim} axes")


def _declared(module: nn.Module, owner: str, attribute: str) -> Iterator[str]:
    # A parameter may be absent (None) by configuration; a name that was never registered is a mistake.
    for name in getattr(module, attribute, ()):
        if name not in module._parameters:
            raise ValueError(
                f"parameter_groups: {attribute} of {owner or 'the model'} ({type(module).__name__}) names {name!r}, "
                f"which is none of its own parameters ({', '.join(module._parameters) or 'it has none'})"
            )
        if module._parameters[name] is not None:
            yield name


def _never_decays(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if isinstance(module, _NORMS):
        return "norm"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if name == "bias" or name.startswith("bias_") or name.endswith("_bias"):
        return "bias"
    return f"{parameter.ndim} axes" if parameter.ndim < 2 else ""


def _check_partition(groups: list[dict[str, Any]], trainable: set[int]) -> None:
    members = [id(p) for group in groups for p in group["params"]]
    if len(members) != len(set(members)) or set(members) != trainable:
        raise RuntimeError("parameter_groups: the groups are no partition of the trainable parameters")
