"""List the targets and their options, or measure this machine for the predictions of one."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibrate", nargs="?", const="cpu", metavar="TARGET", help="measure this machine (default: for cpu)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.json", help="where the figures go (default: the user's cache folder)"
    )


def run(args: argparse.Namespace) -> int:
    from ...ir.diagnostics import error

    if args.calibrate is not None:
        return _calibrate(args.calibrate, args.output)
    if args.output is not None:
        raise error("IG0002", "--output is for the figures of --calibrate")
    return _list()


def _list() -> int:
    from ...backends import backend, names
    from ...backends.backend import Calibrated
    from ...passes.options import describe

    width = max(map(len, names()))
    for name in names():
        found = backend(name)
        usual = found.options()
        print(f"{name:{width}}  {found.summary}")
        rows = describe(found.options)
        if rows and not any(doc for *_, doc in rows) and found.options.__doc__:
            print(f"{'':{width}}    {found.options.__doc__.partition(chr(10))[0]}")
        for option, kind, default, doc in rows:
            print(f"{'':{width}}    {option}={default or '...'}  ({kind}){f'  {doc}' if doc else ''}")
        if isinstance(found, Calibrated):
            print(f"{'':{width}}    predictions: {found.figures(usual)}")
    return 0


def _calibrate(target: str, output: Path | None) -> int:
    from ...backends.backend import Calibrated
    from ...ir.diagnostics import error
    from ..files import new_file
    from ..progress import Progress
    from ..targets import parse_target

    found, options = parse_target(target)
    if not isinstance(found, Calibrated):
        raise error("IG0002", f"there is nothing to measure for target `{found.name}`")
    with Progress("calibrate", found.calibration_steps) as progress:
        usual, text = found.calibrate(options, progress.step)
    path = output or usual
    with new_file(path) as made:
        made.write_text(text, encoding="utf-8")
    print(text, end="")
    print(f"wrote {path}")
    return 0
