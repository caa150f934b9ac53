"""Programs for given sizes beside the one for all: same results, few compilations, any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.compiler.api import load_artifact
from intaglio.compiler.specialise import Specialised
from intaglio.ir import Editor, IntaglioError, Module, Tensor, dim
from intaglio.ir.interpret import as_array

N = dim("N")


def model() -> Module:
    e = Editor()
    x = e.input("x", Tensor((N, 6), "f32"))
    w = e.constant(np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32), "w")
    e.output(e.emit("nn.softmax", e.emit("math.relu", e.emit("nn.matmul", x, w))), "y")
    return Module("m", {"main": e.freeze()}, {"N": (1, 8)})


def batch(n: int) -> Any:
    return np.random.default_rng(n).standard_normal((n, 6)).astype(np.float32)


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_results_are_the_general_program_s(target: str, tmp_path: Path) -> None:
    if target == "cpu":
        pytest.importorskip("tvm")
    general = intaglio.compile(model(), target)
    special = intaglio.compile(model(), target, specialise=2)
    special.save(tmp_path / "out")
    loaded = load_artifact(tmp_path / "out", specialise=1)
    for n in (1, 3, 1, 8, 3):
        want = general(batch(n))
        np.testing.assert_allclose(special(batch(n)), want, rtol=1e-6)
        np.testing.assert_allclose(loaded(batch(n)), want, rtol=1e-6)
    with pytest.raises(IntaglioError, match="IG0604"):
        special(batch(9))


class _Counting:
    """A program that says for which sizes it was made."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)

    def run(self, arrays: Any) -> list[Any]:
        assert arrays[0].shape[0] == self.sizes["N"]
        return [self.sizes["N"]]

    def save(self, folder: Path) -> dict[str, Any]:
        return {}


def test_the_programs_used_last_are_kept() -> None:
    made: list[int] = []

    def build(sizes: Mapping[str, int]) -> _Counting:
        made.append(sizes["N"])
        return _Counting(sizes)

    program = Specialised(model(), _Counting({}), build, 2)
    assert [program.run([batch(n)]) for n in (1, 2, 1, 3, 1, 2)] == [[1], [2], [1], [3], [1], [2]]
    assert made == [1, 2, 3, 2]  # 3 took the place of 2, which 1 had outlived


def test_threads_compile_a_size_once() -> None:
    made: list[int] = []
    gate = threading.Barrier(6)

    def build(sizes: Mapping[str, int]) -> _Counting:
        made.append(sizes["N"])
        return _Counting(sizes)

    program = Specialised(model(), _Counting({}), build, 4)
    results: list[Any] = []

    def work(n: int) -> None:
        gate.wait(timeout=30)
        results.append((n, program.run([batch(n)])))

    threads = [threading.Thread(target=work, args=(1 + i % 2,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(made) == [1, 2]
    assert sorted(results) == [(1, [1])] * 3 + [(2, [2])] * 3


def test_tensors_of_other_libraries_come_and_go_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    x = batch(3)
    compiled = intaglio.compile(model(), "reference")
    want = compiled(x)
    given = torch.from_numpy(x)
    assert as_array(given).ctypes.data == x.ctypes.data

    class OnlyDLPack:
        def __dlpack__(self, **options: Any) -> Any:
            return given.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return given.__dlpack_device__()

    assert as_array(OnlyDLPack()).ctypes.data == x.ctypes.data
    for tensor in (given, OnlyDLPack()):
        got = torch.from_dlpack(compiled(tensor))
        np.testing.assert_array_equal(got.numpy(), want)
