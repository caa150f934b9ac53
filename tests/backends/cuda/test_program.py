"""The target as a whole, on machines without a GPU: artifacts, what is said where something is missing, real models."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("tvm")

import intaglio
from intaglio.backends import backend
from intaglio.backends.cuda import CudaOptions, driver, toolkit
from intaglio.backends.cuda.program import CODE
from intaglio.backends.cuda.toolkit import find_nvcc
from intaglio.compiler.api import compile as compile_model
from intaglio.compiler.api import load_artifact
from intaglio.ir import Editor, IntaglioError, Module, Tensor, dim, evaluate
from intaglio.ir.interpret import evaluate as interpret
from intaglio.passes.fuse import fuse

from ...zoo import data
from .emulator import Emulated, emulated, emulator_problem

CUDA = backend("cuda")
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc: pip install 'intaglio[cuda]'")
needs_emulator = pytest.mark.skipif(bool(emulator_problem()), reason=emulator_problem())
needs_data = pytest.mark.skipif(data.folder() is None, reason=data.MISSING)
without_gpu = pytest.mark.skipif(not driver.gpu_problem("sm_80"), reason="there is a GPU")
with_gpu = pytest.mark.skipif(bool(driver.gpu_problem("sm_80")), reason=f"no GPU: {driver.gpu_problem('sm_80')}")

ZOO = (
    "resnet8_cifar10",
    "ad01_autoencoder",
    "dscnn_kws",
    "resnet20_cifar10",
    "resnet56_cifar10",
    "mobilenet_v1_075_224",
    "squeezenet1_1",
    "efficientnet_lite0",
)


def network() -> Module:
    """A small network for any batch: convolution, pool, product, softmax."""
    rng, e = np.random.default_rng(0), Editor()

    def random(*shape: int) -> Any:
        return e.constant(rng.standard_normal(shape).astype(np.float32) / 8, f"w{len(e.nodes)}")

    x = e.input("x", Tensor((dim("N"), 8, 9, 9), "f32"))
    h = e.emit("math.relu", e.emit("nn.conv", x, random(16, 8, 3, 3), random(16), pads=(1, 1, 1, 1)))
    h = e.emit("shape.reshape", e.emit("nn.avg_pool", h, kernel=(9, 9)), shape=(dim("N"), 16))
    e.output(e.emit("nn.softmax", e.emit("nn.matmul", h, random(16, 10))), "y")
    return Module("net", {"main": e.freeze()}, {"N": (1, None)})


def said(found: Any) -> tuple[str, str]:
    """Code and whole text of a diagnostic."""
    return found.value.diagnostics[0].code, str(found.value)


# --- programs ---------------------------------------------------------------------------------------------------------


@needs_emulator
@pytest.mark.parametrize("fp16", [False, True])
def test_one_program_runs_for_any_batch(fp16: bool) -> None:
    module = network()
    target = Emulated()
    program = target.build(module.with_main(fuse(module.main)), CUDA.options(fp16=fp16))
    assert sorted(target.templates) == ["convolution", "matrix_product"]
    for n in (1, 2, 5):
        x = np.random.default_rng(n).standard_normal((n, 8, 9, 9)).astype(np.float32)
        for _ in range(2):
            np.testing.assert_allclose(program.run([x])[0], evaluate(module.main, [x])[0], atol=2e-3 if fp16 else 2e-6)


@needs_emulator
def test_kernels_are_told_apart() -> None:
    module = network()
    program = Emulated().build(module.with_main(fuse(module.main)), CUDA.options())
    predicted = program.kernel_costs()
    measured = program.kernel_costs([np.zeros((1, 8, 9, 9), np.float32)])
    assert [k.ops[-1] for k in predicted] == ["math.relu", "nn.avg_pool", "nn.matmul", "nn.softmax"]
    assert all(k.predicted > 0 and k.bound == "start" and k.measured is None for k in predicted)
    assert all(k.measured is not None and k.measured > 0 for k in measured)
    assert [k.name for k in measured] == [k.name for k in predicted]


def test_what_computes_nothing_takes_no_nvcc() -> None:
    e = Editor()
    e.output(e.input("x", Tensor((2, 3), "f32")), "y")
    with patch.object(toolkit, "find_nvcc", return_value=None):
        program = CUDA.build(Module("m", {"main": e.freeze()}, {}), CUDA.options())
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(program.run([x])[0], x)


@needs_nvcc
@without_gpu
def test_artifact(tmp_path: Path) -> None:
    """It is written and loaded anywhere, tells what it takes to run it, and says so when it is run."""
    compiled = compile_model(network(), "cuda", arch="sm_90", fp16=True)
    compiled.save(tmp_path / "net")
    recorded = json.loads((tmp_path / "net" / "manifest.json").read_text())["backend"]
    assert recorded["arch"] == "sm_90"
    kernels = recorded["resources"]
    assert len(kernels) >= len({name for name, _ in recorded["kernels"]}) and all(
        r["spills"] == 0 for r in kernels.values()
    )
    assert (tmp_path / "net" / CODE).read_bytes() == compiled.program.code  # type: ignore[attr-defined]
    loaded = load_artifact(tmp_path / "net")
    with pytest.raises(IntaglioError) as found:
        loaded(np.zeros((1, 8, 9, 9), np.float32))
    code, text = said(found)
    assert code == "IG0515" and "sm_90" in text and "--target cpu" in text


@needs_emulator
@without_gpu
def test_an_artifact_gets_as_far_as_the_driver(tmp_path: Path) -> None:
    """Its library is loaded, its weights are in the (emulated) device's memory; the first launch finds no driver."""
    compile_model(network(), "cuda").save(tmp_path / "net")
    with emulated(), patch.object(driver, "gpu_problem", return_value=""):
        program: Any = load_artifact(tmp_path / "net").program
        assert program.loaded.function("main") is not None
        with pytest.raises(RuntimeError, match="CUDA"):
            program.run([np.zeros((1, 8, 9, 9), np.float32)])


@needs_nvcc
def test_loading_an_artifact_imports_no_compiler(tmp_path: Path) -> None:
    compile_model(network(), "cuda").save(tmp_path / "net")
    program = (
        "import sys; from intaglio.compiler.api import load_artifact; "
        f"load_artifact({str(tmp_path / 'net')!r}); assert 'tvm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True, env={**os.environ})


@needs_nvcc
def test_artifact_of_another_kind_of_machine(tmp_path: Path) -> None:
    program = CUDA.build(network(), CUDA.options())
    info = {**program.save(tmp_path), "architecture": "riscv64"}
    with pytest.raises(IntaglioError) as found:
        CUDA.load(tmp_path, info, network(), CUDA.options())
    assert said(found)[0] == "IG0505"


@with_gpu
@pytest.mark.parametrize("fp16", [False, True])
def test_on_the_gpu(fp16: bool, tmp_path: Path) -> None:
    """In processes of their own: in this one the emulator may have taken the GPU's place."""
    x = np.random.default_rng(0).standard_normal((3, 8, 9, 9)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    compile_model(network(), "cuda", fp16=fp16).save(tmp_path / "net")
    command = [sys.executable, "-P", "-m", "intaglio", "run", "net", "--input", "x.npz", "--output", "y.npz"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with np.load(tmp_path / "y.npz") as got:
        np.testing.assert_allclose(got["y"], evaluate(network().main, [x])[0], atol=2e-3 if fp16 else 2e-5)


# --- what is said where something is missing --------------------------------------------------------------------------


def test_no_such_architecture() -> None:
    with pytest.raises(IntaglioError) as found:
        CUDA.build(network(), CudaOptions(arch="sm_70"))
    code, text = said(found)
    assert code == "IG0504" and "sm_80" in text


def test_no_nvcc() -> None:
    with patch.object(toolkit, "find_nvcc", return_value=None), pytest.raises(IntaglioError) as found:
        CUDA.build(network(), CUDA.options())
    code, text = said(found)
    assert code == "IG0514" and "pip install 'intaglio[cuda]'" in text


@needs_nvcc
def test_nvcc_fails() -> None:
    with pytest.raises(IntaglioError) as found:
        toolkit.compile_code("this is no C++", "sm_80")
    code, text = said(found)
    assert code == "IG0516" and "error" in text


class _Driver:
    """A libcuda with one GPU, or none."""

    def __init__(self, version: int = 13000, capability: tuple[int, int] = (9, 0), broken: bool = False) -> None:
        self._values = {75: capability[0], 76: capability[1]}
        self._version, self._broken = version, broken

    def cuInit(self, flags: int) -> int:
        return 100 if self._broken else 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self._values[attribute]
        return 0


@pytest.mark.parametrize(
    ("found", "arch", "problem"),
    [
        (_Driver(), "sm_90", ""),
        (_Driver(capability=(12, 0)), "sm_90", ""),
        (_Driver(capability=(8, 6)), "sm_90", "the GPU has compute capability sm_86"),
        (_Driver(version=12080), "sm_80", "CUDA 12.8, and CUDA 13 is needed"),
        (_Driver(broken=True), "sm_80", "finds no GPU"),
        (OSError(), "sm_80", "no NVIDIA driver"),
    ],
)
def test_what_is_said_of_the_gpu(found: Any, arch: str, problem: str) -> None:
    effect = {"side_effect": found} if isinstance(found, OSError) else {"return_value": found}
    driver.capability.cache_clear()
    try:
        with patch.object(ctypes, "CDLL", **effect):
            text = driver.gpu_problem(arch)
    finally:
        driver.capability.cache_clear()
    assert problem in text and bool(problem) == bool(text)


@without_gpu
def test_the_benchmark_says_that_there_is_no_gpu() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_cuda.py"
    done = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=True)
    assert "no GPU to measure on" in done.stdout


# --- real models ------------------------------------------------------------------------------------------------------


@needs_emulator
@needs_data
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ["dscnn_kws", pytest.param("resnet8_cifar10", marks=pytest.mark.deep)])
def test_real_models_on_the_emulator(name: str, fp16: bool) -> None:
    """All kernels of a model, launched as on a GPU."""
    module = intaglio.load(str(data.file(f"models/{name}.onnx")))
    options = CUDA.options(fp16=fp16)
    prepared = intaglio.optimize(module, CUDA.pipeline(options), target="cuda")
    program = Emulated().build(prepared, options)
    shape = tuple(d if isinstance(d, int) else 1 for d in module.main.inputs[0].type.shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (want,) = interpret(module.main, [x])
    (got,) = program.run([x])
    np.testing.assert_allclose(got, want, rtol=0, atol=(2e-2 if fp16 else 1e-4) * np.abs(want).max())
    assert fp16 or got.argmax() == want.argmax()


@pytest.mark.deep
@needs_nvcc
@needs_data
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_zoo(name: str, fp16: bool, arch: str, tmp_path: Path) -> None:
    """Every model of the zoo becomes an artifact of which no kernel spills."""
    compiled = compile_model(str(data.file(f"models/{name}.onnx")), "cuda", arch=arch, fp16=fp16)
    compiled.save(tmp_path / name)
    resources = load_artifact(tmp_path / name).program.resources  # type: ignore[attr-defined]
    functions = {name for name, _ in compiled.program.kernels}  # type: ignore[attr-defined]
    assert {re.sub(r"_kernel(_\d+)?$", "", k) for k in resources} >= functions
    assert {k: r for k, r in resources.items() if r.spills or r.stack} == {}


def test_the_extra_names_what_is_looked_for() -> None:
    """The packages that `find_tool` looks into are those that the extra `cuda` installs."""
    import tomllib

    root = Path(__file__).resolve().parents[3]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    names = {line.partition(">=")[0] for line in extra}
    assert {f"nvidia-cuda-{t}" for t in ("nvcc", "cuobjdump", "nvdisasm", "runtime")} <= names
    assert importlib.util.find_spec("intaglio.backends.cuda") is not None
