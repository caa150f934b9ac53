"""The options of `quantize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..options import option

__all__ = ["SIGNALS", "Quantize", "Weights"]

SIGNALS = "signal to noise of layers' outputs, dB: "  # begins a note of the ledger that the report draws

Weights = Literal[8, 6, 5, 4, 3, 2, "ternary", "binary", "pow2", "fp8", "float"]


@dataclass(frozen=True)
class Quantize:
    weights: Literal[8, 6, 5, 4, 3, 2, "ternary", "binary", "pow2", "fp8", "float"] = option(
        8, "bits of weights, or their format"
    )
    activations: Literal[8, 4, 2, "float"] = option(
        8, "bits of activations that products read, others have 8; float leaves them and quantises weights only"
    )
    dynamic: Literal["none", "token"] = option(
        "none", "token: products find a scale for each row of their activations at run time, from max |x|"
    )
    method: Literal["round", "gptq", "adaround"] = option("round", "how weights are rounded")
    per: Literal["channel", "tensor", "group"] = option("channel", "what weights share a scale")
    group: int = option(32, "inputs that share a scale with per=group (products only; convolutions go by channel)")
    scales: Literal["l2.4", "mse", "minmax"] = option("l2.4", "the error that scales of weights minimise")
    symmetric: bool = option(True, "weights have no zero point")
    ranges: Literal["minmax", "percentile", "entropy", "mse", "l2.4"] = option(
        "mse", "how ranges of activations are chosen"
    )
    signed: bool = option(False, "activations are signed, without zero point")
    edges: Literal[8, 6, 5, 4, 3, 2] = option(8, "bits of the first and the last layer, if the others have fewer")
    keep: tuple[str, ...] = option((), "layers whose weights keep 8 bits, * and ? are wild")
    average: float | None = option(None, "bits a weight on average: layers get theirs by how much they suffer")
    loss: float | None = option(None, "largest error of the outputs, |y' - y| / |y|, on the calibration data")
    asymmetric: bool = option(True, "gptq: with the inputs of the quantised network, towards the original's outputs")
    bias: bool = option(True, "correct biases: outputs of layers keep their means")
    steps: int = option(1000, "adaround: steps of training for every two layers or residual block")
    cache: bool = option(True, "keep the result in the user's cache folder, and look there first")
    samples: int = option(1024, "how many samples of the calibration data are used")

    def __post_init__(self) -> None:
        if self.dynamic == "token":
            self._check_dynamic()
        if self.group < 2:
            raise ValueError("a group has at least 2 members")
        if self.average is not None and not isinstance(self.weights, int):
            raise ValueError("an average number of bits is for integer weights")
        if self.steps < 1:
            raise ValueError("training takes at least one step")
        if self.samples < 1:
            raise ValueError("calibration takes at least one sample")

    def _check_dynamic(self) -> None:
        """What an int32 sum, rescaled by its row and its column, cannot say."""
        if self.activations == "float":
            raise ValueError("dynamic=token is about activations in codes, and activations=float has none")
        if not (isinstance(self.weights, int) or self.weights == "ternary"):
            raise ValueError(f"dynamic=token multiplies integers, and weights={self.weights} are none")
        if self.per == "group":
            raise ValueError("dynamic=token sums up in integers, which scales for groups of inputs would interrupt")
        if not self.symmetric:
            raise ValueError("dynamic=token takes weights without zero points")
        if self.method == "adaround":
            raise ValueError("method=adaround learns with fixed ranges of activations: take method=gptq")
