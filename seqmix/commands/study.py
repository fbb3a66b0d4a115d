"""The command line of `seqmix study`."""

import argparse
import importlib
from pathlib import Path

from seqmix._files import check_output, write_bytes_whole
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, positive
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["main"]

_EPILOG = """examples:
  seqmix study list
  seqmix study run reconstruction --jobs 2
  seqmix study run my-study.yaml --smoke
  seqmix study report reconstruction --figure reconstruction.svg
  seqmix study papers --records docs/results --write docs/papers.md --section papers --figures docs/papers
  seqmix study check docs/*.md --records docs/results

A study is a YAML file: what a paper claims, what is computed or trained, and the rule for the verdict. `run`
continues where it was stopped."""
_FOLDER = Path("runs")


@exits("seqmix study")
def main(argv: list[str]) -> int:
    """Run `seqmix study`; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return arguments.action(arguments, argv)


def _parser() -> argparse.ArgumentParser:
    from seqmix.studies.study import PAGES

    parser = Parser(
        "seqmix study",
        description="What papers claim, held against runs and computations of this library.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers()
    shown = commands.add_parser("list", help="the studies that are shipped")
    shown.set_defaults(action=_list)

    run = commands.add_parser("run", help="compute or train what a file has no record of yet")
    run.add_argument("name", metavar="STUDY", help="a shipped study, or a file")
    run.add_argument("--store", type=Path, metavar="FILE.jsonl", help="where records go, default in runs/studies")
    run.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes, default 1")
    run.add_argument("--smoke", action="store_true", help="the small form of seconds, kept nowhere")
    run.set_defaults(action=_run)

    report = commands.add_parser("report", help="claims with their verdicts, a table, a figure")
    report.add_argument("name", metavar="STUDY", help="a shipped study, or a file")
    report.add_argument("--store", type=Path, metavar="FILE.jsonl", help="its records, default in runs/studies")
    report.add_argument("--figure", type=Path, metavar="FILE.svg", help="draw it, too")
    add_write_options(report)
    report.set_defaults(action=_report)

    papers = commands.add_parser("papers", help="the index of all papers, from a folder of records")
    papers.add_argument("--records", type=Path, default=_FOLDER, metavar="FOLDER", help=f"default {_FOLDER}")
    papers.add_argument("--figures", type=Path, metavar="FOLDER", help="draw every study into this folder")
    papers.add_argument("--page", choices=PAGES, default=PAGES[0], help=f"whose studies, default {PAGES[0]}")
    add_write_options(papers)
    papers.set_defaults(action=_papers)

    text = "whether what pages say of records is so: <!-- holds: STUDY: CONDITION --> beside a sentence"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("pages", nargs="+", type=Path, metavar="FILE.md")
    check.add_argument("--records", type=Path, default=_FOLDER, metavar="FOLDER", help=f"default {_FOLDER}")
    check.set_defaults(action=_check)
    return parser


def _list(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.study import list_studies

    studies = list_studies()
    width = max(map(len, studies))
    for name, text in studies.items():
        print(f"{name:<{width}}  {text}")
    return 0


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.study import load_study

    study = load_study(arguments.name)
    if study.runs:
        return _train(arguments, study.runs.split(), study.records)
    from seqmix.studies.fits import compute
    from seqmix.studies.report import render

    if arguments.smoke:
        import tempfile

        from seqmix.studies.fits import rows_of

        small = study.small()
        with tempfile.TemporaryDirectory() as folder:
            compute(small, store := Path(folder) / "smoke.jsonl", arguments.jobs)
            print(render(small, rows_of(small, store)))
        return 0
    store = arguments.store or _FOLDER / study.records
    store.parent.mkdir(parents=True, exist_ok=True)
    check_output("--store", store)
    added = compute(study, store, arguments.jobs)
    print(f"{store}: {added} computed, {len(study.cells()) - added} were there; seqmix study report {arguments.name}")
    return 0


def _train(arguments: argparse.Namespace, words: list[str], records: str) -> int:
    from seqmix.commands._table import COMMANDS

    if arguments.smoke:
        raise ValueError("--smoke: a study of training runs has no small form")
    store = arguments.store or _FOLDER / records
    store.parent.mkdir(parents=True, exist_ok=True)
    command = importlib.import_module(f"seqmix.commands.{COMMANDS[words[0]].module}").main
    status: int = command([*words[1:], "--store", str(store), "--jobs", str(arguments.jobs)])
    return status


def _report(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.study import load_study

    check_write_options(arguments)
    study = load_study(arguments.name)
    from seqmix.studies.figure import draw
    from seqmix.studies.fits import rows_of
    from seqmix.studies.report import render

    store = arguments.store or _FOLDER / study.records
    if not store.exists():
        raise ValueError(f"--store: no records in {store}; seqmix study run {arguments.name} makes them")
    rows = rows_of(study, store)
    if arguments.figure is not None:
        check_output("--figure", arguments.figure, ".svg")
        write_bytes_whole(arguments.figure, draw(study, rows))
    print_or_write(render(study, rows), arguments, ["seqmix", "study", *argv])
    return 0


def _papers(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.papers import index
    from seqmix.studies.study import list_studies

    check_write_options(arguments)
    if arguments.figures is not None:
        arguments.figures.mkdir(parents=True, exist_ok=True)
    text = index(list(list_studies()), arguments.records, arguments.figures, arguments.page)
    print_or_write(text, arguments, ["seqmix", "study", *argv])
    return 0


def _check(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.statements import check_statements

    found = [(page, *each) for page in arguments.pages for each in check_statements(page, arguments.records)]
    wrong = [each for each in found if each[3]]
    for page, line, condition, message in wrong:
        print(f"{page}:{line}: {condition}: {message}")
    print(f"{len(found) - len(wrong)} of {len(found)} statements hold")
    return 1 if wrong else 0
