"""`seqmix bench decode --layers N`: milliseconds a token of whole models, beside reading their weights once.

A token of one sequence needs every weight, so no model can be faster than a pass over them; what a step takes beyond
that and beyond its own products are states, gates, norms and Python.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.benchmarks import memory
from seqmix.benchmarks.layer_setup import ARGUMENTS
from seqmix.benchmarks.products import products_of, replay
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.tables import Table, megabytes, number, percent
from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, prefixed, take_turns, threads
from seqmix.benchmarks.training_peers import of_transformers
from seqmix.benchmarks.views import mixer_text, times_text
from seqmix.benchmarks.workload import Workload
from seqmix.kernels import states_in_place
from seqmix.mixers.state import select
from seqmix.models import SequenceModel
from seqmix.models.block import hidden_width

__all__ = ["PEERS", "decode_goals", "model_decode_table", "run_model_decode"]

Row = dict[str, Any]
Call = Callable[[], object]

_GOAL = 1.3  # times a pass over the weights, for one sequence


class Peer(NamedTuple):
    """A model of transformers, and the mixer and `mlp_ratio` that make the same of ours."""

    kind: str
    mixer: dict[str, Any]
    mlp_ratio: float
    arguments: Callable[[Workload], dict[str, Any]] = lambda workload: {}


def _llama(workload: Workload) -> dict[str, Any]:
    heads, hidden = max(1, workload.d_model // 64), hidden_width(workload.d_model, 8 / 3)
    return {"num_attention_heads": heads, "num_key_value_heads": heads, "intermediate_size": hidden}


PEERS = {
    "transformers Llama": Peer("Llama", {"name": "attention", "position": "rope"}, 8 / 3, _llama),
    "transformers Mamba": Peer("Mamba", {"name": "mamba"}, 0),
    "transformers Mamba-2": Peer("Mamba2", {"name": "mamba-2"}, 0),
}


class _Case(NamedTuple):
    name: str
    arguments: dict[str, Any]
    build: Callable[[Workload], nn.Module]


def _cases(name: str) -> Iterator[_Case]:
    """A mixer with its block's MLP; or a peer, and ours of its form before it."""
    if name not in PEERS:
        arguments = ARGUMENTS.get(name, {})
        yield _Case(name, arguments, lambda workload: _ours({"name": name, **arguments}, workload))
        return
    peer = PEERS[name]
    given = {key: value for key, value in peer.mixer.items() if key != "name"} | {"mlp_ratio": round(peer.mlp_ratio, 2)}
    yield _Case(peer.mixer["name"], given, lambda workload: _ours(peer.mixer, workload, mlp_ratio=peer.mlp_ratio))
    yield _Case(name, {}, lambda workload: _theirs(peer, workload))


def _ours(mixer: dict[str, Any], workload: Workload, **arguments: Any) -> nn.Module:
    return SequenceModel(mixer, workload.vocab_size, workload.d_model, workload.n_layers, **arguments)


def _theirs(peer: Peer, workload: Workload) -> nn.Module:
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError("transformers is not installed")
    return of_transformers(peer.kind, workload, tie_word_embeddings=False, **peer.arguments(workload))


def run_model_decode(
    name: str, workload: Workload, batches: tuple[int, ...], settings: Settings, progress: Progress
) -> list[Row]:
    """Rows of one mixer or peer, by batch and threads; what cannot run is a row with its reason."""
    rows: list[Row] = []
    for case in _cases(name):
        base: Row = {
            "mixer": case.name,
            "peer": case.name in PEERS,
            "arguments": case.arguments,
            "dtype": str(settings.dtype).removeprefix("torch."),
        }
        model: nn.Module | None = None  # one for all batches: a large one takes longer to fill than to time
        for batch in batches:
            shape = {"layers": workload.n_layers, "d_model": workload.d_model, "T": workload.length, "B": batch}
            report = prefixed(progress, f"{case.name}, batch {batch}: ")
            try:
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    torch.manual_seed(0)
                    if model is None:
                        model = case.build(workload).to(settings.device, settings.dtype).eval()
                    found = list(_measure(model, workload, batch, settings, report))
            except Exception as error:  # a model that cannot run at this type or device is a row, not the end
                found = [
                    {"threads": count, "status": "error", "reason": reason_of(error), **NO_TIMES}
                    for count in settings.threads
                ]
            rows += [base | {"sizes": shape} | row for row in found]
    return rows


def _measure(model: nn.Module, workload: Workload, batch: int, settings: Settings, progress: Progress) -> Iterator[Row]:
    tokens = torch.randint(workload.vocab_size, (1, workload.length), device=settings.device)
    step = _our_step(model, tokens, batch) if isinstance(model, SequenceModel) else _their_step(model, tokens, batch)
    weights = [p.flatten() for name, p in model.named_parameters() if "embed" not in name]
    step()
    peak = memory.most_at_once(step) if settings.device.type == "cpu" else None
    calls: dict[str, Call] = {
        "step": step,
        "products": replay(products_of(step)),
        "reading": lambda: [torch.dot(weight, weight) for weight in weights],
    }
    for count in settings.threads:
        with threads(count):
            times = take_turns(calls, settings.device, settings.plan, prefixed(progress, f"{count} threads, "))
        yield {
            "threads": count,
            "status": "ok",
            "reason": "",
            **times["step"].record(),
            "products_ms": times["products"].median_ms,
            "reading_ms": times["reading"].median_ms,
            "parameters": sum(p.numel() for p in model.parameters()),
            "peak_bytes": peak,
        }


def _our_step(model: SequenceModel, tokens: Tensor, batch: int) -> Call:
    _, state = model(tokens)
    states, token = select(state, [0] * batch), tokens[0, :1].expand(batch)

    def step() -> object:
        # As `generate` does. Matrix states go on from step to step, windows and caches of keys stay what they are.
        with states_in_place():
            return model.step(token, states)

    return step


def _their_step(model: nn.Module, tokens: Tensor, batch: int) -> Call:
    """One token with the cache of transformers, which a step changes: a key and a value too many are cut off again."""
    found = model(tokens.expand(batch, -1).contiguous(), use_cache=True)
    name = next(key for key in found if "cache" in key or key == "past_key_values")
    cache, token, length = found[name], tokens[:, :1].expand(batch, 1).contiguous(), tokens.shape[1]

    def step() -> object:
        y = model(token, use_cache=True, **{name: cache})
        if name == "past_key_values":
            cache.crop(length)
        return y

    return step


def model_decode_table(rows: list[Row]) -> Table:
    """All models of `seqmix bench decode --layers`."""
    sizes = rows[0]["sizes"]
    title = f"{sizes['layers']} layers of width {sizes['d_model']}, a token after {sizes['T']}, {rows[0]['dtype']}"
    columns = ["model", "threads", "batch", "parameters", "ms a token [20 %, 80 %]", "tokens/s", "products", "/reading"]
    table = Table(title, [*columns, "MB a token"])
    for row in rows:
        line = [mixer_text(row), str(row["threads"]), str(row["sizes"]["B"])]
        if row["status"] != "ok":
            table.rows.append([*line, *["-"] * 5, "failed"])
            continue
        line += [str(row["parameters"]), times_text(row), number(1e3 * row["sizes"]["B"] / row["median_ms"])]
        line += [percent(row["products_ms"] / row["median_ms"]), f"{row['median_ms'] / row['reading_ms']:.2f} x"]
        table.rows.append([*line, megabytes(row["peak_bytes"])])
    table.note = "\n".join(dict.fromkeys(f"{mixer_text(row)}: {row['reason']}" for row in rows if row["reason"]))
    return table


LEGEND = (
    "products: what a step's own matrix products take alone, same shapes, in turns with the step, over the step;\n"
    "/reading: the step over one pass through all weights (a dot product of each with itself); MB a token: memory of\n"
    "tensors beyond those before the step, new states included where they are not written over the old ones. A block\n"
    "has its mixer and a SwiGLU, unless mlp_ratio is given: those stand before the model of transformers they are like."
)


def decode_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for a token of one sequence on one thread beside a pass over the weights."""
    return [
        (
            f"{mixer_text(row)}: a token at batch 1 in at most {_GOAL} times the time of reading the weights",
            f"{(ratio := row['median_ms'] / row['reading_ms']):.2f} x",
            ratio <= _GOAL,
        )
        for row in rows
        if row["status"] == "ok" and not row["peer"] and row["sizes"]["B"] == 1 and row["threads"] == 1
        if (row["sizes"]["layers"], row["sizes"]["d_model"]) == (12, 768)
    ]
