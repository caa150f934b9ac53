"""The door to TVM's compiler; `runtime.py` is the one to its runtime, and there is no other.

TVM renames its Python API at each release, so the rest of the backend sees only the functions below. TVM is imported on
first use; importing this module stays cheap.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from .cross import Linker
from .isa import ISA_NAMES, host_isa, llvm_spec
from .runtime import LoadedModule, ffi, hidden_torch, without_chatter


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


def cpu_target(isa: str | None = None, *, cores: int | None = None) -> Any:
    """An LLVM target for an instruction set of `ISA_NAMES` (default: this machine's widest)."""
    isa = isa or host_isa()
    if isa not in ISA_NAMES:
        raise ValueError(f"unknown instruction set {isa!r}; expected one of {', '.join(ISA_NAMES)}")
    return modules().tvm.target.Target(llvm_spec(isa, cores))


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
            api.tvm.transform.module_pass(_without_checks, opt_level=0),
            t.AttachGlobalSymbol(),
        ]
    )


def _without_checks(module: Any, _: Any) -> Any:
    """Drop what compares the arguments' types with the signature, two calls an argument: weights are ours, and inputs
    are compared before they get here. Where there are symbolic dimensions, the same calls find their sizes.
    """
    relax = modules().relax
    main = module["main"]

    def called(binding: Any) -> str:
        value = binding.value
        names = [value.op, *value.args[:1]] if isinstance(value, relax.Call) else []  # by itself, or with the machine
        return next((n.global_symbol for n in names if isinstance(n, relax.ExternFunc)), "")

    blocks = [list(block.bindings) for block in main.body.blocks]
    if any(called(b) == "vm.builtin.alloc_shape_heap" for block in blocks for b in block):
        return module
    checks = ("vm.builtin.check_tensor_info", "vm.builtin.match_shape")
    kept = [relax.BindingBlock([b for b in block if called(b) not in checks]) for block in blocks]
    body = relax.SeqExpr(kept, main.body.body)
    module = module.clone()
    module["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return module


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


def _tir_pipeline(target: Any) -> str:
    return "default" if target.kind.name != "llvm" else _loops_pipeline()


def build_module(module: Any, target: Any) -> Any:
    """Compile an IRModule of a Relax main and scheduled PrimFuncs into an executable."""
    return modules().relax.build(module, target, relax_pipeline=opaque_pipeline(), tir_pipeline=_tir_pipeline(target))


def _alone(func: Any, target: Any) -> Any:
    tvm = modules().tvm
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target, tir_pipeline=_tir_pipeline(target))


def build_kernel(func: Any, target: Any) -> Any:
    """Compile one PrimFunc alone; returns a callable on TVM tensors (inputs, extras, output)."""
    return _alone(func, target)["main"]


def same_function(a: Any, b: Any) -> bool:
    """Whether two PrimFuncs compute the same in the same way."""
    return bool(ffi().structural_equal(a, b))


def parameters(func: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each buffer that a PrimFunc takes, with 1 for each symbolic dimension."""
    return [(tuple(int(getattr(d, "value", 1)) for d in p.shape), str(p.dtype)) for p in func.params]


def kernel_assembly(func: Any, target: Any) -> str:
    """The assembly text of one PrimFunc, for checks on spills and instruction choice."""
    return str(_alone(func, target).mod.inspect_source("asm"))


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


def export_library(executable: Any, path: str | os.PathLike[str], linker: Linker | None = None) -> None:
    """Write an executable of `build_module` as a shared library, by this machine's linker or another one."""
    other = {} if linker is None else {"cc": linker.command, "options": list(linker.options)}
    with without_chatter():
        executable.export_library(os.fspath(path), **other)


def load_executable(executable: Any, device: str = "cpu") -> LoadedModule:
    """Bind an executable of `build_module` in this process, without a file."""
    api = modules()
    return LoadedModule(api.relax.VirtualMachine(executable, api.tvm.device(device, 0)))


# --- CUDA
# -------------------------------------------------------------------------------------------


def cuda_target(arch: str) -> Any:
    """A CUDA target such as `sm_90`, with this machine's kind of CPU as its host."""
    spec = {"kind": "cuda", "arch": arch, "max_threads_per_block": 1024, "thread_warp_size": 32}
    return modules().tvm.target.Target({**spec, "max_shared_memory_per_block": 49152}, host=cpu_target("baseline"))


@contextlib.contextmanager
def cuda_compiler(complete: Callable[[str], str], compile: Callable[[str], bytes]) -> Iterator[None]:
    """Have the CUDA source that TVM generates go through `complete`, and `compile` make machine code of it."""
    tvm = modules().tvm
    hooks = {
        "tvm_callback_cuda_compile": compile,
        "tvm_callback_cuda_postproc": lambda code, target: complete(code),
    }
    before = {name: tvm.get_global_func(name, allow_missing=True) for name in hooks}
    for name, function in hooks.items():
        tvm.register_global_func(name, function, override=True)
    try:
        yield
    finally:
        for name, function in before.items():  # one cannot be taken back: without one before, source stays as it is
            tvm.register_global_func(name, function or (lambda code, target: code), override=True)
