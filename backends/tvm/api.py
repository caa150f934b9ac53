"""The door to TVM's compiler; `runtime.py` is the one to its runtime, and there is no other.

TVM renames its Python API at each release, so the rest of the backend sees only the functions below. TVM is imported on
first use; importing this module stays cheap.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .runtime import LoadedModule, hidden_torch, without_chatter

ISA_NAMES = ("avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "baseline")
"""Widest first. `avx512_vnni` is Cascade Lake and later; `avx512_bf16` is Sapphire Rapids, Zen 4 and later;
`avx2_vnni` is Alder Lake and later, without AVX-512.
"""

_AVX2 = frozenset({"avx2", "fma", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"}
_AVX512_VNNI = _AVX512 | {"avx512_vnni"}
_ISA_FEATURES: Mapping[str, frozenset[str]] = {
    "avx512_bf16": _AVX512_VNNI | {"avx512_bf16", "avx512_vpopcntdq"},
    "avx512_vnni": _AVX512_VNNI,
    "avx512": _AVX512,
    "avx2_vnni": _AVX2 | {"avx_vnni"},
    "avx2": _AVX2,
    "baseline": frozenset(),
}
# (CPU that LLVM tunes for, what is added to its instructions). Skylake's tuning prefers 256-bit vectors; explicit
# 512-bit vectors need the preference lifted.
_ISA_LLVM: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "avx512_bf16": (
        "skylake-avx512",
        ("-prefer-256-bit", "+avx512vnni", "+avx512bf16", "+avx512vpopcntdq"),
    ),
    "avx512_vnni": ("skylake-avx512", ("-prefer-256-bit", "+avx512vnni")),
    "avx512": ("skylake-avx512", ("-prefer-256-bit",)),
    "avx2_vnni": ("haswell", ("+avxvnni",)),
    "avx2": ("haswell", ()),
    "baseline": ("x86-64", ()),
}


@functools.cache
def modules() -> SimpleNamespace:
    """TVM and the parts of it in use: `tvm`, `tirx`, `relax`, `script` (TIR statement builders),
    `IRBuilder`.
    """
    with hidden_torch():
        import tvm
        from tvm import relax, tirx
        from tvm.script.ir_builder import IRBuilder
        from tvm.tirx.script.builder import ir as script
    return SimpleNamespace(tvm=tvm, tirx=tirx, relax=relax, script=script, IRBuilder=IRBuilder)


def symbolic_dim(name: str) -> Any:
    """A symbolic dimension, for shapes of kernels and of Relax tensors."""
    return modules().tirx.Var(name, "int64")


# --- targets
# -------------------------------------------------------------------------------------------------------


@functools.cache
def host_cpu_flags() -> frozenset[str]:
    """CPU feature flags as the Linux kernel names them; empty where /proc/cpuinfo does not exist."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def host_isa() -> str:
    """The widest of `ISA_NAMES` that this machine executes."""
    return next(name for name in ("avx512", "avx2", "baseline") if host_runs(name))


def host_runs(isa: str) -> bool:
    """Whether this machine executes code for an instruction set of `ISA_NAMES`."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return isa == "baseline" or (x86 and _ISA_FEATURES[isa] <= host_cpu_flags())


def cpu_target(isa: str | None = None, *, cores: int | None = None) -> Any:
    """An LLVM target for an instruction set of `ISA_NAMES` (default: this machine's widest)."""
    isa = isa or host_isa()
    if isa not in ISA_NAMES:
        raise ValueError(f"unknown instruction set {isa!r}; expected one of {', '.join(ISA_NAMES)}")
    spec: dict[str, Any] = {"kind": "llvm", "num-cores": cores or os.cpu_count() or 1}
    if platform.machine().lower() in ("x86_64", "amd64"):
        spec["mcpu"], attributes = _ISA_LLVM[isa]
        if attributes:
            spec["mattr"] = list(attributes)
    return modules().tvm.target.Target(spec)


# --- building and loading
# ------------------------------------------------------------------------------------------


def opaque_pipeline() -> Any:
    """Relax passes that lower a main function made of `call_tir` only and leave the PrimFuncs' schedules
    alone.
    """
    api = modules()
    t = api.relax.transform
    return api.tvm.transform.Sequential(
        [
            t.ToNonDataflow(),
            t.RemovePurityChecking(),
            t.CallTIRRewrite(),
            t.StaticPlanBlockMemory(),
            t.LowerAllocTensor(),
            t.KillAfterLastUse(),
            t.LowerRuntimeBuiltin(),
            t.ComputePrimValue(),
            t.VMShapeLower(),
            t.AttachGlobalSymbol(),
        ]
    )


@functools.cache
def _loops_pipeline() -> str:
    """The name of the TIR passes for kernels that are loops and buffers from the start: a third of TVM's own.

    What is left out plans blocks, threads and copies, of which there are none, or does what LLVM does anyway.
    """
    tvm = modules().tvm
    t, s = tvm.tirx.transform, tvm.s_tir.transform

    def make() -> tuple[Any, Any, Any]:
        passes = [
            s.PlanAndUpdateBufferAllocationLocation(),
            s.ConvertBlocksToOpaque(),
            s.LowerOpaqueBlock(),
            t.FlattenBuffer(),
            t.BF16ComputeLegalize(),
            t.NarrowDataType(32),
            s.LoopPartition(),
            t.VectorizeLoop(True),
            t.StorageRewrite(),
            t.UnrollLoop(),
            s.RenormalizeSplitPattern(),
            t.StmtSimplify(),
            t.RemoveNoOp(),
            s.RewriteUnsafeSelect(),
            t.FP8ComputeLegalize(),
            t.VerifyMemory(),
            t.AnnotateEntryFunc(),
            t.SplitHostDevice(),
            t.MakePackedAPI(),
            t.FP8StorageLegalize(),
            t.BF16StorageLegalize(),
        ]
        finish = lambda: tvm.ir.transform.Sequential([t.LowerTVMBuiltin(), t.LowerIntrin()])  # noqa: E731
        return tvm.ir.transform.Sequential(passes), finish, finish

    tvm.tirx.register_tir_pipeline("intaglio_loops", make)
    return "intaglio_loops"


def build_module(module: Any, target: Any) -> Any:
    """Compile an IRModule of a Relax main and scheduled PrimFuncs into an executable."""
    loops = "default" if target.kind.name != "llvm" else _loops_pipeline()
    return modules().relax.build(module, target, relax_pipeline=opaque_pipeline(), tir_pipeline=loops)


def build_kernel(func: Any, target: Any) -> Any:
    """Compile one PrimFunc alone; returns a callable on TVM tensors (inputs, extras, output)."""
    tvm = modules().tvm
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target)["main"]


def kernel_assembly(func: Any, target: Any) -> str:
    """The assembly text of one PrimFunc, for checks on spills and instruction choice."""
    tvm = modules().tvm
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return str(tvm.compile(module, target).mod.inspect_source("asm"))


def single_call_module(func: Any, arg_shapes: Sequence[tuple[Any, ...]], out_shape: tuple[Any, ...]) -> Any:
    """An IRModule whose `main(*args)` calls one fp32 PrimFunc: the smallest thing `build_module` accepts."""
    api = modules()
    relax = api.relax
    builder = relax.BlockBuilder()
    args = [relax.Var(f"arg{i}", relax.TensorType(s, "float32")) for i, s in enumerate(arg_shapes)]
    kernel = builder.add_func(func, "kernel")
    with builder.function("main", args):
        with builder.dataflow():
            result = builder.emit_output(relax.call_tir(kernel, args, relax.TensorType(out_shape, "float32")))
        builder.emit_func_output(result)
    return builder.get()


def chain_module(func: Any, shape: tuple[int, ...], count: int) -> Any:
    """An IRModule whose `main(x)` calls a PrimFunc from one fp32 tensor to another `count` times in a row."""
    api = modules()
    relax = api.relax
    builder = relax.BlockBuilder()
    type = relax.TensorType(shape, "float32")
    x = relax.Var("x", type)
    kernel = builder.add_func(func, "kernel")
    with builder.function("main", [x]):
        with builder.dataflow():
            result: Any = x
            for _ in range(count - 1):
                result = builder.emit(relax.call_tir(kernel, [result], type))
            result = builder.emit_output(relax.call_tir(kernel, [result], type))
        builder.emit_func_output(result)
    return builder.get()


def export_library(executable: Any, path: str | os.PathLike[str]) -> None:
    """Write an executable of `build_module` as a shared library."""
    with without_chatter():
        executable.export_library(os.fspath(path))


def load_executable(executable: Any, device: str = "cpu") -> LoadedModule:
    """Bind an executable of `build_module` in this process, without a file."""
    api = modules()
    return LoadedModule(api.relax.VirtualMachine(executable, api.tvm.device(device, 0)))
