"""`seqmix bench layers` and `seqmix bench decode`: every mixer on whole sequences, and token by token."""

import argparse
from typing import Any

from seqmix.benchmarks import goals, model_decode, views
from seqmix.benchmarks.decode import run_decode
from seqmix.benchmarks.layer_setup import Shape, select_mixers
from seqmix.benchmarks.layers import run_layer
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.workload import Workload
from seqmix.commands.bench.shared import (
    MIXER_CASES,
    begin,
    finish,
    measuring,
    numbers,
    positive,
    settings_from,
    show_goals,
    up_to_an_interruption,
)


def add_layers(commands: Any) -> None:
    """The subcommand `layers`."""
    text = "time every mixer, forward and backward, and see where its time goes"
    parser = measuring(commands, "layers", _layers, text, MIXER_CASES)
    _add_shape(parser)
    parser.add_argument("--batch", type=positive, help="batch size, default 16")


def add_decode(commands: Any) -> None:
    """The subcommand `decode`."""
    parser = measuring(commands, "decode", _decode, "time one token with step(), by batch size", MIXER_CASES)
    _add_shape(parser)
    parser.add_argument("--batch", type=numbers, help="batch size, default 1,16")
    parser.add_argument("--layers", type=positive, metavar="N", help="whole models of N blocks instead of one mixer")
    parser.add_argument("--peers", action="store_true", help="with --layers: the same models in transformers, too")


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--length", type=positive, help="tokens T, default 512")
    parser.add_argument("--d-model", type=positive, help="width, default 128")


def _layers(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    shape = _shape(arguments, Shape(arguments.batch or (2 if settings.quick else 16)))
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"] += run_layer(name, shape, settings, progress)
    progress.end()
    show(views.layers_table(result["rows"]))
    print(views.layers_legend() + "\n")
    show_goals(result, [] if settings.quick else goals.layer_goals(result["rows"]))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _decode(arguments: argparse.Namespace, argv: list[str]) -> int:
    if arguments.peers and arguments.layers is None:
        raise ValueError("--peers are whole models: expected --layers N beside it")
    if arguments.layers is not None:
        return _decode_models(arguments, argv)
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    shape, batches = _shape(arguments, Shape()), arguments.batch or (1, 16)
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"] += run_decode(name, shape, batches, settings, progress)
    progress.end()
    show(views.decode_table(result["rows"]))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _decode_models(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    names += list(model_decode.PEERS) if arguments.peers else []
    shape, batches = _shape(arguments, Shape()), arguments.batch or (1, 16)
    workload = Workload(n_layers=arguments.layers, d_model=shape.d_model, length=shape.length)
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    with up_to_an_interruption() as interrupted:
        for name in names:
            progress.begin(name)
            result["rows"] += model_decode.run_model_decode(name, workload, batches, settings, progress)
    progress.end()
    show(model_decode.model_decode_table(result["rows"]))
    print(model_decode.LEGEND + "\n")
    show_goals(result, model_decode.decode_goals(result["rows"]))
    finish(result, path)
    if interrupted.is_set():
        print("interrupted: the models above are kept")
        return 130
    return int(any(row["status"] != "ok" and not row["peer"] for row in result["rows"]))


def _shape(arguments: argparse.Namespace, default: Shape) -> Shape:
    length, width = (32, 32) if arguments.quick else (default.length, default.d_model)
    return Shape(default.batch, arguments.length or length, arguments.d_model or width)
