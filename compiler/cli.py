"""The command `intaglio`. This file finds the command and says how it went; each command is a module of commands/.

    0     done
    1     the user's mistake: a diagnostic on stderr, never a traceback
    2     our bug: a folder from which it can be made to happen again
    130   interrupted

Nothing heavy is imported before a command runs: `intaglio --help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__

__all__ = ["COMMANDS", "Parser", "main"]

COMMANDS: dict[str, str] = {
    "compile": "compile a model for a target",
    "run": "run a compiled model on inputs from a file",
    "bench": "measure how fast a compiled model runs, and against what",
    "opt": "run passes on a module",
    "import": "convert a model to the IR's text form",
    "export": "write a model as ONNX, a quantised one with its casts",
    "diff": "compare two modules node by node",
    "check": "property-test rewrite rules, or a pass with its rules",
    "he": "encrypted inference: keys, encryption, the server, and what its operations cost",
    "report": "write what is known of a compiled model as one HTML page",
    "targets": "list the targets and their options",
    "passes": "list the passes, or explain one",
    "ops": "list the ops of the IR, or explain one",
}

INTERRUPTED, BROKEN_PIPE = 130, 141


class Parser(argparse.ArgumentParser):
    """An argument parser that complains as everything else does."""

    def error(self, message: str) -> NoReturn:
        from ..ir.diagnostics import error

        raise error("IG0002", f"{self.prog}: {message}", hint=self._hint(message))

    def _hint(self, message: str) -> str:
        import difflib

        if "required" in message:
            return f"see `{self.prog} --help`"
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        words = [w.partition("=")[0] for w in message.split() if w.startswith("-")]
        close = [c for w in words for c in difflib.get_close_matches(w, flags, n=1) if w not in flags]
        return f"did you mean {close[0]}?" if close else f"see `{self.prog} --help`"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _polite_end():
            code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # whoever read our output has seen enough; a flush at exit must not complain
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("intaglio: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as e:
        return _explain(e, arguments)


@contextlib.contextmanager
def _polite_end() -> Iterator[None]:
    """A polite end on SIGTERM too: temporary files go."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        name = arguments[0]
        command = importlib.import_module(f".commands.{_module(name)}", __package__)
        parser = Parser(
            prog=f"intaglio {name}", description=command.__doc__, allow_abbrev=False, formatter_class=_Formatter
        )
        command.arguments(parser)
        return int(command.run(parser.parse_args(arguments[1:])))
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = Parser(
        prog="intaglio",
        usage="intaglio COMMAND ...",
        description="A neural-network compiler.",
        epilog=f"commands:\n{listed}\n\n`intaglio COMMAND --help` explains one.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"intaglio {__version__}")
    if not arguments:
        parser.print_help()
        return 0
    parser.parse_known_args([a for a in arguments[:1] if a.startswith("-")])
    _unknown(arguments[0])


def _unknown(word: str) -> NoReturn:
    import difflib

    from ..ir.diagnostics import error

    close = difflib.get_close_matches(word, COMMANDS, n=2)
    what = f"there is no flag `{word}` before a command" if word.startswith("-") else f"there is no command `{word}`"
    raise error(
        "IG0002", what, hint=f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(COMMANDS)}"
    )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with room for the flags."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)


def _module(name: str) -> str:
    return f"{name}_" if name == "import" else name


def _explain(e: Exception, arguments: list[str]) -> int:
    """Say what went wrong; 1 for the user's mistake, 2 for a bug of ours."""
    from pathlib import Path

    from ..ir.diagnostics import IntaglioError
    from .crash import InternalError, write_traceback

    if isinstance(e, IntaglioError):
        print(_coloured(str(e)), file=sys.stderr)
        return 1
    command = ["intaglio", *arguments]
    try:
        where = (
            e.write(Path.cwd(), command) if isinstance(e, InternalError) else write_traceback(Path.cwd(), e, command)
        )
        told = f"what is needed to see it again is in {where}"
    except Exception as again:
        import traceback

        traceback.print_exception(e)
        told = f"and writing down what is needed to see it again failed: {again}"
    print(
        f"intaglio: this is a bug of ours, not yours: {e if isinstance(e, InternalError) else repr(e)}\n{told}",
        file=sys.stderr,
    )
    return 2


def _coloured(text: str) -> str:
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        return text
    return text.replace("error[", "\033[1;31merror\033[0m[")


if __name__ == "__main__":
    sys.exit(main())
