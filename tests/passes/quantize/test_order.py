"""`integer` finds codes whatever pass has run before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.ir import Graph
from intaglio.passes.canonicalize import canonicalize
from intaglio.passes.definition import Context
from intaglio.passes.fold import fold
from intaglio.passes.integer import integer
from intaglio.passes.quantize.evaluate import evaluate
from intaglio.passes.quantize.quantize import quantize


@pytest.mark.parametrize("between", [fold, canonicalize])
def test_small_weights_stay_codes(network: Graph, batches: Any, between: Any) -> None:
    """The weights of this network have 40 to 216 elements: `fold` could make floats of all of them."""
    made = quantize(network, Context(calibration=batches))
    told = [Context(), Context()]
    direct, detour = integer(made, told[0]), integer(between(made), told[1])
    assert told[0].notes == told[1].notes == ["12 nodes in integers"]
    x = batches[0]["x"]
    np.testing.assert_array_equal(evaluate(direct, [x])[0], evaluate(detour, [x])[0])
