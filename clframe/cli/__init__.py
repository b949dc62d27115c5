"""The command line: words to verbs. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from clframe.errors import ClframeError, ConfigError, nearest

VERBS = {
    "list": "every strategy, wrapper and scenario there is",
    "show": "what a strategy or scenario does, where it lies, its options",
    "new": "write a working strategy or scenario to start from",
    "check": "train one, kill and resume it, and compare bit for bit",
    "run": "one run: clframe run strategy=replay scenario=split_digits [key=value ...]",
    "grid": "many runs: clframe grid conf/grid/quickstart.yaml [key=value ...]",
    "audit": "judge what a grid's runs were told to forget, by models that never saw it",
    "report": "figures and tables of a grid",
    "ui": "open MLflow on the runs",
}


class Parser(argparse.ArgumentParser):
    """Reports wrong words the way everything else is reported."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = [n for n in re.findall(r"\w+", wrong[3]) if n != "cell"]
            hint = nearest(wrong[2], known)
            message = f"{wrong[1].lower()} = {wrong[2]!r}: no such choice.{hint} Known: "
            message += ", ".join(known)
        raise ConfigError(f"{message}\nTry: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 all done, 1 a cell failed, 2 bad input."""
    try:
        arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except ClframeError as error:
        first, *rest = str(error).splitlines() or [""]
        print("\n       ".join([f"error: {first}", *rest]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our lines has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(argv: list[str]) -> argparse.Namespace:
    arguments, left = _parser().parse_known_args(argv)
    words = getattr(arguments, "words", None)
    for word in left:  # key=value words that stand behind an option
        if word.startswith("-") or words is None:
            known = ["--runs", "--workers", "--dry-run", "--baseline", "--port", "--help"]
            hint = nearest(word.partition("=")[0], known)
            raise ConfigError(f"unknown word {word!r}.{hint}\nTry: clframe --help")
        words.append(word)
    return arguments


def _parser() -> Parser:
    from clframe import __version__

    parser = Parser(prog="clframe", description="Continual learning, watched at every iteration.")
    parser.add_argument("--version", action="version", version=f"clframe {__version__}")
    parser.add_argument("--runs", metavar="DIR", help="where runs go (or $CLFRAME_RUNS; runs/)")
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=Parser)

    def verb(
        name: str, action: Callable[[argparse.Namespace], int], *, runs: bool = False
    ) -> argparse.ArgumentParser:
        text = VERBS.get(name)
        if text:
            added = verbs.add_parser(name, help=text, description=text)
        else:
            added = verbs.add_parser(name)  # without help it is not shown
        added.set_defaults(action=action)
        if runs:
            added.add_argument("--runs", metavar="DIR", default=argparse.SUPPRESS)
        return added

    verb("list", _list)
    verb("show", _show).add_argument("name")
    new = verb("new", _new)
    new.add_argument("kind", choices=["strategy", "scenario"])
    new.add_argument("name")
    check = verb("check", _check)
    check.add_argument("name")
    check.add_argument("words", nargs="*", metavar="key=value")
    verb("run", _run, runs=True).add_argument("words", nargs="*", metavar="key=value")
    _grid_words(verb("grid", _grid, runs=True))
    audit, report = verb("audit", _audit, runs=True), verb("report", _report, runs=True)
    for about in (audit, report):
        about.add_argument("grid", help="a grid's name, or its folder")
    audit.add_argument("--workers", type=int, default=1, metavar="N", help="runs at once (1)")
    report.add_argument("--baseline", metavar="STRATEGY", help="what the others are compared to")
    ui = verb("ui", _ui, runs=True)
    ui.add_argument("words", nargs="*", metavar="key=value")
    ui.add_argument("--port", type=int, default=5000)
    verb("cell", _cell).add_argument("folder", type=Path)
    return parser


def _grid_words(grid: argparse.ArgumentParser) -> None:
    grid.add_argument("file", type=Path, help="a YAML file, or the name of one in conf/grid")
    grid.add_argument("words", nargs="*", metavar="key=value")
    grid.add_argument("--workers", type=int, default=1, metavar="N", help="cells at once (1)")
    grid.add_argument("--dry-run", action="store_true", help="show the cells and stop")


def runs_folder(arguments: argparse.Namespace) -> Path:
    """Where runs go: the option, the environment, or runs/ here."""
    folder = Path(arguments.runs or os.environ.get("CLFRAME_RUNS") or "runs").expanduser()
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"--runs = {str(folder)!r}: {there} is not a folder one can write to")
    return folder


def _list(_: argparse.Namespace) -> int:
    from clframe.cli.plugins import listing
    from clframe.registry import snapshot

    with snapshot():
        print("\n".join(listing()))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from clframe.cli.plugins import description

    print("\n".join(description(arguments.name)))
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from clframe.cli.new import write

    print(write(arguments.kind, arguments.name))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from clframe.grid.check import check

    return check(arguments.name, arguments.words)


def _run(arguments: argparse.Namespace) -> int:
    from clframe.config.load import load_run

    cfg = load_run(arguments.words)
    from clframe.grid.runner import run_one

    return run_one(cfg, runs_folder(arguments))


def _grid(arguments: argparse.Namespace) -> int:
    from clframe.config.grid import load_grid

    if arguments.workers < 1:
        raise ConfigError(f"--workers = {arguments.workers}: expected at least 1")
    spec = load_grid(_grid_file(arguments.file), arguments.words)
    from clframe.grid.runner import run_grid

    runs = runs_folder(arguments)
    code = run_grid(spec, runs, arguments.workers, dry_run=arguments.dry_run)
    if spec.audit is None or arguments.dry_run or code not in (0, 1):
        return code
    return _judge(runs / spec.name, arguments.workers) or code


def _audit(arguments: argparse.Namespace) -> int:
    from clframe.cli.show import grid_folder

    if arguments.workers < 1:
        raise ConfigError(f"--workers = {arguments.workers}: expected at least 1")
    runs = runs_folder(arguments)
    folder = grid_folder(arguments.grid, runs)
    from clframe.report.load import check_folder

    check_folder(folder)
    return _judge(folder, arguments.workers)


def _judge(folder: Path, workers: int) -> int:
    """Audit a grid and show it in MLflow; the last line is its folder."""
    from clframe.audit.run import audit
    from clframe.grid.runner import show_audit

    code = audit(folder, workers)
    show_audit(folder)
    print(folder)
    return code


def _grid_file(given: Path) -> Path:
    """A grid file, or by its bare name one of conf/grid, here or clframe's own."""
    from clframe.registry import conf_folders

    if given.exists() or given.suffix or len(given.parts) > 1:
        return given
    places = [folder / "grid" / f"{given}.yaml" for folder in conf_folders()]
    return next((place for place in places if place.exists()), given)


def _report(arguments: argparse.Namespace) -> int:
    from clframe.cli.show import report

    return report(arguments.grid, runs_folder(arguments), arguments.baseline)


def _ui(arguments: argparse.Namespace) -> int:
    from clframe.cli.show import ui

    return ui(runs_folder(arguments), arguments.words, arguments.port)


def _cell(arguments: argparse.Namespace) -> int:
    from clframe.grid.cell import run

    return run(arguments.folder)
