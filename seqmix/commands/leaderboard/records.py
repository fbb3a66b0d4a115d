"""`seqmix leaderboard validate|rerun|convert|schema`: what is done with records that are there, and what they hold."""

import argparse
import json
from pathlib import Path
from typing import Any

from seqmix._trust import import_trusted
from seqmix.commands._messages import tell
from seqmix.commands._options import add_trust_option
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the parsers; `commands` is what `add_subparsers` returned."""
    from seqmix.leaderboard.sweep.rerun import TOLERANCE

    text = "check that every line of files is a record, or that submissions are what they say"
    validate = commands.add_parser(
        "validate",
        help=text,
        description=f"{text}: every problem by file and line; exit status 1 if there is any. Of the folder of a "
        "submission one run is made again, if nothing is wrong with it; its code is imported if --trust names it.",
    )
    validate.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="FILE.jsonl, or the folder of a submission"
    )
    validate.add_argument(
        "--spot-check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the cheapest record of a submission again, and write check.json; default yes",
    )
    add_trust_option(validate)
    validate.set_defaults(action=_validate)

    text = "run a record again, and compare the result with it"
    rerun = commands.add_parser(
        "rerun",
        help=text,
        description=f"{text}: number by number on the same machine, torch and commit, else within a tolerance. "
        "Prints what differs; exit status 1 if anything does.",
    )
    rerun.add_argument("id", metavar="ID", help="of the record, or its first digits")
    rerun.add_argument("--store", type=Path, required=True, metavar="FILE.jsonl", help="where the record is")
    rerun.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="elsewhere: how far accuracies may differ, and by which share losses and bits per byte; "
        f"default {TOLERANCE}",
    )
    add_trust_option(rerun)
    rerun.set_defaults(action=_rerun)

    convert = commands.add_parser(
        "convert", help="write records as a Parquet file with flat columns, or a Parquet file as records again"
    )
    convert.add_argument("source", type=Path, metavar="FILE", help="FILE.jsonl or FILE.parquet")
    convert.add_argument("target", type=Path, metavar="OUT", help="OUT.parquet or OUT.jsonl")
    convert.set_defaults(action=_convert)

    schema = commands.add_parser("schema", help="the fields of a record as a Markdown table")
    add_write_options(schema)
    schema.set_defaults(action=_schema)


def _validate(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.records.store import scan_runs

    wrong = 0
    for path in arguments.paths:
        if path.is_dir():
            wrong += _validate_submission(path, arguments.spot_check, arguments.trust)
            continue
        records, problems = scan_runs(path)
        tell(problems)
        wrong += len(problems)
        print(f"{path}: {len(records)} records, {len(problems)} problems")
    return 1 if wrong else 0


def _validate_submission(folder: Path, again: bool, trust: list[str]) -> int:
    from seqmix.leaderboard.boards.checks import check_submission, spot_check

    found = check_submission(folder, trust=trust)
    tell(found.problems)
    problems = len(found.problems)
    if again and problems:
        print(f"{folder}: no run is made again before that is right")
    elif again:
        print(f"{folder}: running its cheapest run again", flush=True)
        differing = spot_check(found, trust=trust)
        tell(differing)
        problems += len(differing)
    print(f"{folder}: {len(found.runs)} records, {problems} problems; {found.badge}")
    return problems


def _rerun(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.records.store import read_runs
    from seqmix.leaderboard.sweep.rerun import circumstances_that_differ, differences, find_record, rerun, table

    if not 0 < arguments.tolerance < 1:
        raise ValueError(f"--tolerance: expected a number in (0, 1), got {arguments.tolerance!r}")
    import_trusted(arguments.trust)
    record = find_record(read_runs(arguments.store), arguments.id)
    identity = record["identity"]
    print(f"{record['id']}: {identity['config']}, seed {identity['seed']}: running it again", flush=True)
    again = rerun(record, trust=arguments.trust)
    unlike = circumstances_that_differ(record, again)
    found = differences(record, again, arguments.tolerance if unlike else 0.0)
    if unlike:
        print(f"within {arguments.tolerance:g}, as circumstances differ:", *unlike, sep="\n  ")
    if not found:
        print("the result is the same" if not unlike else f"the result is the same within {arguments.tolerance:g}")
        return 0
    print(*table(found), sep="\n")
    if again["status"] == "failed" and record["status"] != "failed":
        print(f"it failed: {again['reason']}")
    return 1


def _convert(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix._files import check_output, write_text_whole
    from seqmix.leaderboard.records.parquet import read_parquet, write_parquet
    from seqmix.leaderboard.records.store import read_runs

    kinds = arguments.source.suffix, arguments.target.suffix
    if kinds not in ((".jsonl", ".parquet"), (".parquet", ".jsonl")):
        raise ValueError(f"convert: expected FILE.jsonl OUT.parquet or FILE.parquet OUT.jsonl, got {' '.join(kinds)}")
    if arguments.target.exists():
        raise ValueError(f"OUT: expected a new file, {arguments.target} exists")
    check_output("OUT", arguments.target)
    if kinds[0] == ".jsonl":
        records = read_runs(arguments.source)
        write_parquet(records, arguments.target)
    else:
        records = read_parquet(arguments.source)
        lines = [json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n" for record in records]
        write_text_whole(arguments.target, "".join(lines))
    print(f"{arguments.target}: {len(records)} records")
    return 0


def _schema(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.records.schema_table import schema_table

    check_write_options(arguments)
    print_or_write(schema_table(), arguments)
    return 0
