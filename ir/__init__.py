"""The language: types, ops, graphs, text, meaning."""

from .constants import Constant
from .diagnostics import Diagnostic, IntaglioError
from .dims import Dim, dim
from .edit import Editor
from .graph import Graph, Location, Module, Node, Value
from .interpret import evaluate
from .op import Op
from .ops import OPS
from .text import parse, print_graph, print_module
from .types import Affine, Bool, Cipher, Float, Int, Pow2, Sign, Tensor
from .verify import verify

__all__ = [
    "OPS",
    "Affine",
    "Bool",
    "Cipher",
    "Constant",
    "Diagnostic",
    "Dim",
    "Editor",
    "Float",
    "Graph",
    "Int",
    "IntaglioError",
    "Location",
    "Module",
    "Node",
    "Op",
    "Pow2",
    "Sign",
    "Tensor",
    "Value",
    "dim",
    "evaluate",
    "parse",
    "print_graph",
    "print_module",
    "verify",
]
