"""The ONNX front end: `load_onnx(path | bytes | ModelProto) -> Module`.

Every opset that the `onnx` package knows; ops with function bodies by expansion; external data memory-mapped; QDQ
models keep their quantisation as types. Symbolic dimensions stay symbols; what only a run can tell stays `dyn.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....ir.diagnostics import IntaglioError, error
from ....ir.dims import symbols
from ....ir.graph import Module
from ....ir.host import collector_paused
from . import control_ops, image_ops, index_ops, math_ops, nn_ops, qlinear_ops, quant_ops, reduce_ops, shape_ops
from .call import CONVERTERS
from .functions import model_functions, opset_versions
from .importer import Importer
from .tensors import text

__all__ = ["load_onnx", "load_specialized", "supported_ops"]

# importing these fills CONVERTERS; naming them here makes the list of converter modules explicit
_MODULES = (control_ops, image_ops, index_ops, math_ops, nn_ops, qlinear_ops, quant_ops, reduce_ops, shape_ops)


def supported_ops() -> list[str]:
    """Default-domain ops with a converter of their own (those with a function body import as well)."""
    return sorted(name for name in CONVERTERS if "::" not in name)


def load_onnx(
    source: str | Path | bytes | Any, *, folder: Path | None = None, bound: Mapping[str, Any] | None = None
) -> Module:
    """A model file, its bytes or a ModelProto as a module; raises IG01xx for what is broken or not supported.

    `folder` is where external data lies when `source` is not a path. Inputs in `bound` are constants of that value.
    """
    if isinstance(source, (str, Path)):
        folder = Path(source).parent
    return _import(_parse(source), folder, bound or {})[0]


def load_specialized(source: Any, inputs: Mapping[str, Any], *, static: bool) -> tuple[Module, tuple[str, ...]]:
    """A module for these input values, in which those that decide about shapes are constants; also the inputs left.

    Only those are bound that the import cannot do without, or with `static` also those behind `dyn.apply`.
    """
    model = _parse(source)
    bound: dict[str, Any] = {}
    while True:
        blocking: set[str] = set()
        try:
            module, found = _import(model, None, bound, blocking)
            more = found if static else set()
        except IntaglioError:
            more = blocking
            if not more & set(inputs) - set(bound):
                raise
        fresh = more & set(inputs) - set(bound)
        if not fresh:
            return module, tuple(v.name for v in module.main.inputs)
        bound.update({name: inputs[name] for name in fresh})


def _import(
    model: Any, folder: Path | None, bound: Mapping[str, Any], blocking: set[str] | None = None
) -> tuple[Module, set[str]]:
    """The module, and the inputs that keep it from being static; these also in `blocking`, filled even on failure."""
    if not model.HasField("graph"):
        raise error("IG0101", "the file is an ONNX container without a graph", hint="is it really an ONNX model?")
    importer = Importer({"": 1, **opset_versions(model.opset_import)}, folder, model_functions(model), bound)
    try:
        with collector_paused():
            graph = importer.run(model.graph)
    finally:
        if blocking is not None:
            blocking |= importer.blocking
    name = text(model.graph.name) or "model"
    free = sorted({s for v in graph.inputs for s in symbols(v.type.shape)})
    return Module(name, {"main": graph}, {s: (1, None) for s in free}), importer.blocking


def _parse(source: Any) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            if not path.is_file():
                raise error("IG0001", f"there is no file `{path}`")
            data = path.read_bytes()
        except OSError as e:
            raise error("IG0001", f"`{path}` cannot be read: {e.strerror}") from None
        what = f"`{path}`"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data, what = bytes(source), "the data"
    else:
        raise error("IG0101", f"a {type(source).__name__} is no ONNX model", hint="give a path, bytes or a ModelProto")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise error(
            "IG0101", f"{what} is not an ONNX model, or is cut short", hint="was the download complete?"
        ) from None
    return model
