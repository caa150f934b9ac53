"""The text form: `ig.lark` is its definition, `parse` reads it, `print_module` and `print_graph` write it.

    ig 1
    module @tiny weights("tiny.safetensors") {
      dim N in 1..64
      graph @main(%x: f32[N, 3]) -> (y: f32[N, 3]) {
        %c = const 0.5 : f32[]
        %0 = math.mul(%x, %c) : f32[N, 3] loc("scale")
        return %0
      }
    }

Mistakes are `IntaglioError`s with a place in the text (IG03xx, and IG02xx for what verification finds).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from ..diagnostics import error
from ..dims import symbols
from ..graph import Graph, Module
from ..host import collector_paused
from ..types import Type
from ..weights import replace_file, save_weights
from .build import Builder, TooMany
from .fault import Fault, located
from .lexer import Part
from .parser import parse as parse_text
from .printer import Printer, symbol_text

__all__ = [
    "constants_of",
    "parse",
    "parse_file",
    "parse_graph",
    "parse_type",
    "print_graph",
    "print_module",
    "write_file",
]

T = TypeVar("T")
Weights = Mapping[str, npt.NDArray[Any]]


def parse(text: str, weights: Weights | None = None, file: str = "<text>") -> Module:
    """The module that `text` writes, with its constants from `weights`.

    A text that is a single graph is taken as a module of it, without limits on its dimensions.
    """
    return _module(text, Builder(weights), file)


def parse_graph(text: str, weights: Weights | None = None, file: str = "<text>") -> Graph:
    """The graph that `text` writes (`graph @name(...) -> (...) {...}`), or the main graph of a module."""

    module = parse(text, weights, file)
    return next(iter(module.graphs.values())) if len(module.graphs) == 1 else module.main


def parse_type(text: str, weights: Weights | None = None, file: str = "<text>") -> Type:
    """The type that `text` writes, for example `f32[N, 3]`."""
    builder = Builder(weights)
    return _read(text, file, builder, lambda: builder.type(parse_text(Part.of(text, 0), "type")))


def print_module(module: Module, weights: str | None = None) -> str:
    """The text of a module. `weights` names the file that holds (or will hold) its constants."""
    printer = Printer()
    printer.module(module, weights)
    return printer.text


def print_graph(graph: Graph) -> str:
    """The text of one graph."""
    printer = Printer()
    printer.graph(graph, f"graph {symbol_text(graph.name)}", "")
    return printer.text


def constants_of(program: Module | Graph) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the printed text of `program` refers to, by the names it gives them."""
    printer = Printer()
    if isinstance(program, Graph):
        printer.graph(program, "graph", "")
    else:
        printer.module(program)
    return {name: c.array for name, c in printer.constants.items()}


def _module(text: str, builder: Builder, file: str) -> Module:
    alone = re.match(r"(?:\s|//[^\n]*+)*+graph\b", text) is not None
    if not alone:
        return _read(text, file, builder, lambda: builder.module(parse_text(text, "file")))
    graph = _read(text, file, builder, lambda: builder.alone(parse_text(text, "graph")))
    free = sorted({s for v in graph.inputs for s in symbols(v.type.shape)})
    return Module(graph.name, {graph.name: graph}, {s: (0, None) for s in free})


def _read(text: str, file: str, builder: Builder, build: Callable[[], T]) -> T:
    """What `build` gives, or everything it complained about, with places."""
    result: T | None = None
    with collector_paused():
        try:
            result = build()
        except TooMany:
            pass
        except Fault as found:
            builder.faults.append(found)
    if builder.faults:
        raise located(sorted(builder.faults, key=lambda f: f.pos), text, file)
    return result  # type: ignore[return-value]


def parse_file(path: str | os.PathLike[str]) -> Module:
    """The module in a file, with its constants from the weights file that it names (beside it)."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error("IG0001", f"there is no file `{path}`") from None
    except OSError as e:
        raise error("IG0001", f"`{path}` cannot be read: {e.strerror}") from None
    except ValueError:
        hint = "IR texts end in .ig, their weights in .safetensors"
        raise error("IG0301", f"`{path}` is no UTF-8 text", hint=hint) from None
    return _module(text, Builder(None, Path(path).parent), str(path))


def write_file(module: Module, path: str | os.PathLike[str]) -> None:
    """Write a module to `path`, and the constants that are not part of the text to a .safetensors file beside it."""
    weights = Path(path).with_suffix(".safetensors")
    if weights == Path(path):
        raise error("IG0005", f"`{path}` is the name of a weights file", hint=f"write the text to {Path(path).stem}.ig")
    printer = Printer()
    printer.module(module, weights.name)
    if printer.constants:  # first, so that no text ever names a file that is not there
        save_weights(weights, {name: c.array for name, c in printer.constants.items()})
    else:
        printer = Printer()
        printer.module(module)
    replace_file(path, [printer.text.encode()])
