"""Templates of the heavy fp32 CPU kernels, as functions that build scheduled TIR.

Activations keep their plain layout (NCHW, or row-major matrices); constant weights are packed at compile time
by the functions in `Kernel.packers`. A template returns None where it does not apply.
"""

from .batched import batched_matmul
from .conv import conv
from .conv_call import ConvCall, conv_call
from .kernel import AVX512, VECTOR_UNITS, Epilogue, ExtraOperand, Kernel, VectorUnit, identity
from .matmul import matmul
from .pool import average_pool, global_average_pool, max_pool

__all__ = [
    "AVX512",
    "VECTOR_UNITS",
    "ConvCall",
    "Epilogue",
    "ExtraOperand",
    "Kernel",
    "VectorUnit",
    "average_pool",
    "batched_matmul",
    "conv",
    "conv_call",
    "global_average_pool",
    "identity",
    "matmul",
    "max_pool",
]
