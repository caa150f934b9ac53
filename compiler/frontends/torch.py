"""The torch front end: `load_torch(model, example_inputs) -> Module`, by way of torch's own ONNX exporter.

    torch.export.export        traces the module into a graph of ATen operators (no Python left in it)
    torch.onnx.export          translates that graph into a ModelProto, in memory
    load_onnx                  imports it as any other ONNX model

Why not convert the ATen graph directly? ATen has some 2,000 operators, its core set about 180, and each means the same
as some ONNX ops with other attributes: a second table as long as the ONNX importer's, to be kept up with every torch
release. The exporter is that table, kept by torch's developers; the importer behind it is held to ONNX's conformance
suite, so a bug is fixed once for both. What a direct conversion would win is little: the exporter costs about two
seconds a model and the package onnxscript, while names survive (below), and operators without an ONNX form, such as
`linalg.svd`, are ones no target of ours runs. Should a dtype or an operator that matters to us be lost on the way, the
ATen graph is there after the first step.

Constants are called as in the `state_dict`, inputs as the parameters of `forward`, outputs by the keys of the
dictionary that `forward` returns, else `output`, `output0`, `output1`, ...; nodes are located by their submodule.
The exporter's optimizer stays off: it merges equal weights under one name and renames what it folds, and folding is a
pass of ours.
"""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import PurePath
from typing import Any

from ...ir.diagnostics import error
from ...ir.dims import Dim, symbols
from ...ir.graph import Module
from .onnx import load_onnx

__all__ = ["load_torch"]

BATCH = "N"  # the symbol that `dynamic_batch` gives to the first axis
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter says which submodule a node comes from


def load_torch(
    model: Any, example_inputs: Any = None, *, dynamic_batch: bool = False, dynamic_shapes: Any = None
) -> Module:
    """A `torch.nn.Module` in evaluation mode, or a `torch.export.ExportedProgram`, as a module.

    `example_inputs` are the arguments to trace with: a tuple, one tensor, or a mapping of keyword arguments; tensors or
    NumPy arrays. With `dynamic_batch`, the first axis of every input becomes the symbol `N`; `dynamic_shapes` is
    torch.export's own way to say which axes may vary. An ExportedProgram has both in it. Raises IG012x for what torch
    cannot do.
    """
    torch = _import_torch()
    with _quiet():
        if isinstance(model, torch.export.ExportedProgram):
            if dynamic_batch or dynamic_shapes is not None:
                raise error(
                    "IG0121", "which axes of an ExportedProgram vary was settled when it was exported",
                    hint="give dynamic_shapes to torch.export.export",
                )  # fmt: skip
            name, program = "exported", model
        elif isinstance(model, torch.nn.Module):
            _check_evaluation_mode(model)
            args, kwargs = _arguments(torch, example_inputs)
            if dynamic_batch:
                if dynamic_shapes is not None:
                    raise error("IG0121", "both dynamic_batch and dynamic_shapes are given", hint="give one of them")
                args, kwargs, dynamic_shapes = _vary_batch(torch, model, args, kwargs)
            name = type(model).__name__
            program = _trace(torch, model, args, kwargs, dynamic_shapes)
        else:
            raise error("IG0121", f"a {type(model).__name__} is no torch module", hint="give a torch.nn.Module")
        program = _functional(program)
        proto = _convert(torch, program, dynamic_shapes)
    if dynamic_batch:
        _name_batch(proto)
    _locate(proto)
    module = load_onnx(proto)
    return replace(module, name=name, dims={**module.dims, **_ranges(program, module)})


def _import_torch() -> Any:
    """Torch, with what its exporter needs."""
    try:
        import onnxscript  # noqa: F401  # imported by the exporter; missing, it fails late and at length
        import torch
        import torch.onnx
    except ImportError as e:
        missing = e.name or str(e)
        raise error(
            "IG0120", f"torch models need the package `{missing}`", hint="pip install intaglio[torch]"
        ) from None
    return torch


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's progress lines, warnings and log records: what matters of them is in the exception."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# --- before tracing ---------------------------------------------------------------------------------------------------


def _check_evaluation_mode(model: Any) -> None:
    """Compiled models are for inference. Switching the user's module over would change it behind their back."""
    for path, part in model.named_modules():
        if part.training:
            what = f"`{path}` ({type(part).__name__}) in it" if path else "it"
            why = f"`{type(model).__name__}` cannot be compiled while {what} is in training mode"
            raise error("IG0122", why, hint="call model.eval() first: dropout and batch norm differ in training")


def _arguments(torch: Any, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of `forward`, NumPy arrays made tensors."""
    import numpy as np

    def tensors(tree: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, tree)

    if given is None:
        what = "a torch module is traced on example inputs, and none are given"
        raise error("IG0121", what, hint="example_inputs=(x,)")
    if isinstance(given, Mapping):
        return (), tensors(dict(given))
    return tensors(tuple(given) if isinstance(given, (tuple, list)) else (given,)), {}


def _vary_batch(torch: Any, model: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """Arguments and dynamic shapes that let the first axis vary. An extent of 1 would count as fixed: it is doubled."""
    batch, shapes = torch.export.Dim(BATCH), torch.export.ShapesCollection()

    def vary(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.ndim > 0:
            x = torch.cat([x, x]) if len(x) == 1 else x
            shapes[x] = {0: batch}
        return x

    args, kwargs = torch.utils._pytree.tree_map(vary, (args, kwargs))
    return args, kwargs, shapes.dynamic_shapes(model, args, kwargs)


# --- torch's two steps ------------------------------------------------------------------------------------------------


def _trace(torch: Any, model: Any, args: Any, kwargs: Any, dynamic_shapes: Any) -> Any:
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as e:  # whatever the model's own code raises, too
        text = str(e)
        if "data-dependent" in text:
            hint = "the model branches on what is in a tensor; use torch.where, or torch.cond"
        elif "dynamic" in text and "specialized" in text:
            hint = (
                "the model needs that extent fixed: leave the axis static, or take the number out of the model's code"
            )
        elif dynamic_shapes is not None:
            hint = "do all inputs have that axis, and in the same extent? torch.export.export(model, ...) fails alike"
        else:
            hint = "does model(*example_inputs) run? torch.export.export(model, example_inputs) fails alike"
        raise error("IG0123", f"torch cannot trace `{type(model).__name__}`: {_reason(e)}", hint=hint) from e


def _functional(program: Any) -> Any:
    """The program without in-place operators; IG0124 if it keeps state from one call to the next."""
    try:
        program = program.run_decompositions({})
    except Exception as e:
        raise error("IG0125", f"torch cannot make the model functional: {_reason(e)}") from e
    signature = program.graph_signature
    if changed := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        raise error(
            "IG0124", f"the model writes to `{changed[0]}` when it runs; a compiled model keeps no state",
            hint="return the new value as an output, and take the old one as an input",
        )  # fmt: skip
    return program


def _convert(torch: Any, program: Any, dynamic_shapes: Any) -> Any:
    """The traced program as a ModelProto."""
    names = _output_names(program)
    try:
        made = torch.onnx.export(
            program, dynamo=True, optimize=False, verbose=False, dynamic_shapes=dynamic_shapes, output_names=names
        )
        _resolve_sequences(made.model)
        return made.model_proto
    except Exception as e:
        found = re.search(r"%(\w+) : .*target=torch\.ops\.([\w.]+)", _chain(e))
        what = f"torch operator `{found[2]}`{_place(program, found[1])}" if found else "the model"
        reason = _reason(e)
        why = "" if reason.startswith("No ONNX function found") else f": {reason}"
        hint = "write the model with other operators"
        raise error("IG0125", f"torch's exporter has no ONNX form of {what}{why}", hint=hint) from e


def _resolve_sequences(model: Any) -> None:
    """The exporter splits into a sequence and takes tensors from it: make that a plain Split, change nothing else."""
    from onnxscript import optimizer

    optimizer.fold_constants_ir(model, should_fold=lambda node: False)
    optimizer.remove_unused_nodes(model)


def _place(program: Any, name: str) -> str:
    """The line of the model's code that a node of the traced graph stands for, if it is known."""
    trace = next((str(n.meta.get("stack_trace") or "") for n in program.graph.nodes if n.name == name), "")
    lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
    return f" at {PurePath(lines[-1][0]).name}:{lines[-1][1]}" if lines else ""


def _chain(e: BaseException | None) -> str:
    """All that an exception and those behind it say."""
    texts = []
    while e is not None:
        texts.append(str(e))
        e = e.__cause__
    return "\n".join(texts)


def _reason(e: BaseException) -> str:
    """What went wrong, without the advice and the logs that torch adds."""
    while e.__cause__ is not None:
        e = e.__cause__
    first = str(e).strip().split("\n\n")[0]
    first = re.split(r"For more information|\(unhinted|Signature:", first)[0]
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", first).splitlines() if line.strip()]
    distinct = list(dict.fromkeys(line for line in lines if not line.startswith("Caused by")))
    return " ".join(distinct)[:500].rstrip() or type(e).__name__


def _output_names(program: Any) -> list[str]:
    """A name for each tensor that `forward` returns, from the structure that it returns them in."""
    count = program.call_spec.out_spec.num_leaves
    structure = program.call_spec.out_spec.unflatten(list(range(count)))
    paths: dict[int, str] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, Mapping):
            parts = list(tree.items())
        elif isinstance(tree, (tuple, list)):
            parts = list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
        else:
            paths[tree] = path or "output"
            return
        for key, part in parts:
            separator = "_" if path and isinstance(key, str) else ""
            walk(part, f"{path or ('' if isinstance(key, str) else 'output')}{separator}{key}")

    walk(structure, "")
    outputs = [s for s in program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
    names = []
    for i, spec in enumerate(outputs):
        value = getattr(spec.arg, "value", None)
        if value is not None:
            raise error(
                "IG0125", f"the model returns the constant {value!r} as `{paths[i]}`; it may return tensors only",
                hint="leave it out of what forward returns",
            )  # fmt: skip
        if not hasattr(spec.arg, "value"):  # None has the value None, and is left out by the exporter
            names.append(paths[i])
    return names


# --- after ------------------------------------------------------------------------------------------------------------


def _name_batch(proto: Any) -> None:
    """Call the one symbol among the inputs' extents `N`; the exporter keeps its name for flat arguments only."""
    for info in proto.graph.input:
        for extent in info.type.tensor_type.shape.dim:
            if extent.dim_param:
                extent.dim_param = BATCH


def _locate(proto: Any) -> None:
    """Name nodes by their place in the model, as in `layer1.0.conv1/conv2d`, for locations and diagnostics."""
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), "")
        try:
            parts = ast.literal_eval(scopes) if scopes else []
        except (ValueError, SyntaxError):
            continue
        if parts:
            node.name = "/".join(p for p in parts[-2:] if p)


def _ranges(program: Any, module: Module) -> dict[str, tuple[int, int | None]]:
    """The ranges of the symbols as torch has them; but a lower bound of 2 is an assumption of its tracer only."""
    shapes = {
        node.name: tuple(node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and hasattr(node.meta.get("val"), "shape")
    }
    found: dict[str, tuple[int, int | None]] = {}
    for v in module.main.inputs:
        for ours, theirs in zip(v.type.shape, shapes.get(v.name, ()), strict=False):
            if not isinstance(ours, Dim) or isinstance(theirs, int):
                continue
            names = list(symbols((ours,)))
            limits = program.range_constraints.get(theirs.node.expr)
            if limits is not None and names == [str(ours)]:
                low = int(limits.lower)
                high = int(limits.upper) if limits.upper.is_Integer else None
                found[names[0]] = (1 if low <= 2 else low, high)
    return found
