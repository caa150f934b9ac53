"""List the targets and their options."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    from ...backends import backend, names
    from ...passes.options import describe

    width = max(map(len, names()))
    for name in names():
        found = backend(name)
        print(f"{name:{width}}  {found.summary}")
        rows = describe(found.options)
        if rows and not any(doc for *_, doc in rows) and found.options.__doc__:
            print(f"{'':{width}}    {found.options.__doc__.partition(chr(10))[0]}")
        for option, kind, default, doc in rows:
            print(f"{'':{width}}    {option}={default or '...'}  ({kind}){f'  {doc}' if doc else ''}")
    return 0
