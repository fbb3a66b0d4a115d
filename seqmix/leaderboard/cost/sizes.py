"""How large a record's model is, as far as the record does not say it in so many words."""

import functools
import json
from typing import Any

from seqmix.leaderboard.records.schema import Record

__all__ = ["counted_flops", "counted_parameters"]


def counted_parameters(run: Record) -> int | None:
    """Parameters as budgets count them: blocks and last norm; None of a run that failed.

    Of an embedding of tokens that is exact: a linear head is as large as the embedding, or none if tied to it, and
    other heads are built again to be counted. Of other embeddings the head is not told apart, and counts.
    """
    total, rest = run["size"]["params_total"], run["size"]["params_non_embedding"]
    if total is None or rest is None:
        return None
    model = run["identity"]["settings"].get("model")
    model = model if isinstance(model, dict) else {}
    if not _on_tokens(model):
        return int(rest)
    if _name(model.get("head"), "language") == "language":
        return int(rest if model.get("tie_embeddings") else 2 * rest - total)
    vocab_size = _vocab_size(run)
    if vocab_size is None:
        return int(rest)
    return int(rest - _head(json.dumps(model["head"]), run["identity"]["d_model"], vocab_size))


def counted_flops(run: Record) -> float | None:
    """`size.flops_per_token` of a record; where it is null, counted from the config if that makes the same model.

    None where it cannot be: a run that failed, a layer that is not of the registry (whose code is not run for this), an
    embedding of something else than tokens, a config that makes another number of parameters today.
    """
    size, identity, result = run["size"], run["identity"], run["result"]
    if run["status"] != "ok" or size["flops_per_token"] is not None:
        return size["flops_per_token"]
    model = identity["settings"].get("model")
    length = result["train_length"] or max(map(int, filter(str.isdecimal, size["state_size"] or {})), default=0)
    if not isinstance(model, dict) or not _on_tokens(model) or not length:
        return None
    vocab_size = _vocab_size(run)
    if vocab_size is None:
        return None
    model = model | {"d_model": identity["d_model"], "n_layers": identity["n_layers"], "vocab_size": vocab_size}
    # A direct solve says 0 iterations, and is one application.
    iterations = max(1.0, (result["iterations"] or {}).get("train") or 1.0)
    key = [identity["settings"].get("mixer"), model, size["params_total"], length, iterations]
    return _flops(json.dumps(key, sort_keys=True))


def _vocab_size(run: Record) -> int | None:
    """By the size of the embedding of tokens; None if that is no vector of the model's width for each."""
    embedding, width = run["size"]["params_total"] - run["size"]["params_non_embedding"], run["identity"]["d_model"]
    return None if not width or embedding % width else embedding // width


@functools.lru_cache(maxsize=4096)
def _head(spec: str, d_model: int, vocab_size: int) -> int:
    from seqmix.models.heads import build_part, part_of

    try:
        head = build_part("head", part_of("head", json.loads(spec), "language"), d_model, vocab_size, device="meta")
    except (ValueError, TypeError):  # what older versions wrote
        return 0
    return 0 if head is None else sum(parameter.numel() for parameter in head.parameters())


@functools.lru_cache(maxsize=4096)
def _flops(key: str) -> float | None:
    import inspect

    from seqmix.leaderboard.cost.flops import flops_per_token
    from seqmix.mixers.registry import list_mixers
    from seqmix.models import SequenceModel
    from seqmix.models._specs import specs_of

    mixer, model, parameters, length, iterations = json.loads(key)
    known = inspect.signature(SequenceModel).parameters
    arguments: dict[str, Any] = {name: value for name, value in model.items() if name in known}
    try:
        if not {spec["name"] for spec in specs_of(mixer, arguments["n_layers"])} <= {*list_mixers()}:
            return None
        built = SequenceModel(mixer, device="meta", **arguments)
        if built.num_parameters() != parameters:
            return None
        return flops_per_token(built, length, iterations=iterations)
    except (ValueError, TypeError, NotImplementedError):  # what older versions wrote, or what cannot be counted
        return None


def _on_tokens(model: dict[str, Any]) -> bool:
    return _name(model.get("embedding"), "tokens") == "tokens"


def _name(spec: Any, default: str) -> Any:
    return (spec.get("name") if isinstance(spec, dict) else spec) or default
