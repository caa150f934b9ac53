"""Models in whatever form a user has them: a path, an ONNX proto, a torch module, or a module of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..ir.diagnostics import error
from ..ir.graph import Module
from .manifest import Origin

__all__ = ["load_module", "origin_of", "readable"]

SUFFIXES = ".onnx, .ig, or the folder of an artifact"


def load_module(model: Any, example_inputs: Any = None, dynamic_batch: bool = False) -> Module:
    """The module of any kind of model; `dynamic_batch` lets the first axis vary of what is traced on example inputs."""
    if isinstance(model, Module):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(model))
    torch = sys.modules.get("torch")  # whoever holds a torch module has imported it
    if torch is not None and (isinstance(model, torch.nn.Module) or type(model).__name__ == "ExportedProgram"):
        from .frontends.torch import load_torch

        return load_torch(model, example_inputs, dynamic_batch=dynamic_batch)
    if type(model).__name__ == "ModelProto":
        from .frontends.onnx import load_onnx

        return load_onnx(model)
    what = f"a {type(model).__module__}.{type(model).__name__} is no model"
    raise error("IG0010", what, hint=f"give a path ({SUFFIXES}), an onnx.ModelProto, a torch.nn.Module, or a Module")


def origin_of(model: Any) -> Origin | None:
    """Where an ONNX model was read from."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix == ".onnx" and Path(model).is_file():
        from .files import sha256

        return Origin(os.fspath(model), sha256(Path(model)))
    return None


def readable(path: Path) -> Path:
    """The path itself, or IG0001 if there is no such file."""
    if not path.exists():
        near = _near(path)
        raise error("IG0001", f"there is no file `{path}`", hint=f"did you mean {near}?" if near else "")
    if not os.access(path, os.R_OK):
        raise error("IG0001", f"`{path}` cannot be read: permission denied")
    return path


def _near(path: Path) -> str:
    import difflib

    try:
        there = [p.name for p in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, there, n=1)
    return str(path.with_name(close[0])) if close else ""


def _from_path(path: Path) -> Module:
    readable(path)
    if path.is_dir():
        from .artifact import read_module

        return read_module(path)
    if path.suffix == ".ig":
        from ..ir.text import parse_file

        return parse_file(path)
    if path.suffix == ".onnx":
        from .frontends.onnx import load_onnx

        return load_onnx(path)
    raise error("IG0010", f"`{path}` is no model by its name", hint=f"a model is {SUFFIXES}")
