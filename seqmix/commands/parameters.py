"""`seqmix list parameters`: which optimizer takes each parameter of a model, why, and whether it decays."""

from seqmix._suggest import unknown_name
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option
from seqmix.optim.registry import check_optimizer, get_optimizer
from seqmix.training.config.files import Config, load_config, merge_entry, parse_value, set_by_path

__all__ = ["list_parameters", "main"]

_HELP = """usage: seqmix list parameters [--config NAME] [--mixer NAME] [--optimizer NAME] [--ENTRY.ARGUMENT VALUE ...]
                              [--trust MODULE]

Every parameter with its shape, the optimizer that takes it, the reason, and whether it decays. Entries and their
arguments are those of seqmix fit; without a config the model has one layer of width 128 and 256 tokens.

  seqmix list parameters --config a5 --optimizer muown
  seqmix list parameters --mixer mamba --optimizer muown --optimizer.rest x_proj
  seqmix list parameters --mixer attention --optimizer muown --optimizer.fused '{qkv_proj: 3}'"""

_KEYS = ("config", "mixer", "optimizer", "model", "data")


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix list parameters`; returns the exit status."""
    if not argv or {"-h", "--help"} & set(argv):
        print(_HELP)
        return 0
    rows = list_parameters(argv)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def list_parameters(arguments: list[str]) -> list[tuple[str, ...]]:
    """Rows (name, shape, optimizer, decay, reason), the column names first; `ValueError` for a mistake."""
    config = _read(arguments)
    optimizer = merge_entry(None, config.get("optimizer", "adamw"))
    optimizer = {"name": optimizer} if isinstance(optimizer, str) else optimizer
    check_optimizer(**optimizer)
    name = optimizer["name"]
    entry = get_optimizer(name)
    if entry.takes == "optimizer":  # a wrapper: its base takes the parameters
        base = optimizer.get("base", "adamw")
        optimizer = {"name": base} if isinstance(base, str) else base
        entry = get_optimizer(optimizer["name"])
        name = f"{name} around {entry.name}"
    split = {key: optimizer[key] for key in ("matrices", "rest", "fused") if key in optimizer}
    matrices = entry.takes == "matrices"
    rows: list[tuple[str, ...]] = [("parameter", "shape", "optimizer", "decays", "reason")]
    from seqmix.optim import describe_parameters
    from seqmix.training.loading import build_model

    for fact in describe_parameters(build_model(config, trust=None), **(split if matrices else {})):
        taker = "adamw" if matrices and fact.kind == "rest" else name
        notes = [fact.reason] if matrices or not fact.decays else []
        notes += [f"row blocks {fact.row_blocks}"] if fact.row_blocks != 1 else []
        notes += [f"lr x {fact.factor:g}"] if fact.factor != 1 else []
        shape = " x ".join(map(str, fact.parameter.shape)) or "-"
        rows.append((fact.name, shape, taker, "yes" if fact.decays else "no", "; ".join(notes)))
    return rows


def _read(arguments: list[str]) -> Config:
    config: Config = {}
    options = list(arguments)
    trust = _trusted(options)
    while options:
        key, equals, value = options.pop(0).partition("=")
        path = key.removeprefix("--")
        if not key.startswith("--") or path.split(".")[0] not in _KEYS:
            raise unknown_name("option", key, [f"--{name}" for name in _KEYS])
        if not equals:
            if not options:
                raise ValueError(f"{key}: expected a value")
            value = options.pop(0)
        if path == "config":
            from seqmix.training.loading import check_config

            config = load_config(value)
            check_config(config, trust)
        else:
            config = set_by_path(config, path, parse_value(value))
    if "mixer" not in config:
        raise ValueError("seqmix list parameters: expected --config NAME or --mixer NAME")
    return config


def _trusted(options: list[str]) -> list[str]:
    """What `--trust` says, taken out of the options and imported."""
    parser = Parser("seqmix list parameters", add_help=False)
    add_trust_option(parser)
    known, options[:] = parser.parse_known_args(options)
    import_trusted(known.trust)
    return list(known.trust)
