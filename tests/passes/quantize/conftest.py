"""A small network with what matters: two convolutions, one of them depthwise, a residual sum, a pool, a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.ir import Editor, Graph, Tensor, dim
from intaglio.ir.types import Float

F32 = Float("f32")


def build(seed: int = 0, channels: int = 8) -> Graph:
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> Any:
        return (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)

    e = Editor(name="main")
    x = e.input("x", Tensor((dim("N"), 3, 8, 8), F32))
    a = e.emit("nn.conv", x, e.constant(weights(channels, 3, 3, 3), "stem"),
               e.constant(weights(channels, 1)[:, 0], "stem.bias"), pads=(1, 1, 1, 1), name="stem_out")  # fmt: skip
    a = e.emit("math.relu", a)
    b = e.emit("nn.conv", a, e.constant(weights(channels, 1, 3, 3), "dw"),
               e.constant(weights(channels, 1)[:, 0], "dw.bias"), pads=(1, 1, 1, 1), g=channels, name="dw")  # fmt: skip
    b = e.emit("math.minimum", e.emit("math.relu", b), e.constant(np.float32(6.0)))
    b = e.emit("nn.conv", b, e.constant(weights(channels, channels, 1, 1), "pw"),
               e.constant(weights(channels, 1)[:, 0], "pw.bias"), name="pw_out")  # fmt: skip
    c = e.emit("math.relu", e.emit("math.add", a, b))
    c = e.emit("nn.max_pool", c, kernel=(2, 2), strides=(2, 2))
    d = e.emit("math.reduce_mean", c, axes=(2, 3), keepdims=False)
    y = e.emit("nn.matmul", d, e.constant(weights(5, channels).T.copy(), "fc"), name="fc_out")
    y = e.emit("math.add", y, e.constant(np.linspace(-1, 1, 5).astype(np.float32), "fc.bias"))
    e.output(y, "y")
    return e.freeze()


def images(count: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="package")
def network() -> Graph:
    return build()


@pytest.fixture(scope="package")
def batches() -> list[dict[str, Any]]:
    return [{"x": images(64)}]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken from, or left in, the user's own cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
