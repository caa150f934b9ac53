"""The product of two activations in bytes, as in attention whose softmax is not a kernel with its products."""

from __future__ import annotations

from collections.abc import Sequence

from ..batched import broadcast, project
from ..emit import Emitter
from ..kernel import VECTOR_UNITS, Dim, Epilogue, Expr, ExtraOperand, Kernel, VectorUnit, identity
from ..query_rows import QueryRows
from ..tile import RegisterTile
from .fixed import Rescale
from .product import ByteProduct, Side

__all__ = ["batched_int8"]

FEWEST_ROWS = 4
"""With fewer rows, copying the other matrix takes longer than the product."""


def batched_int8(
    a_shape: Sequence[Dim],
    b_shape: Sequence[Dim],
    a: Side,
    b: Side,
    *,
    out_dtype: str = "int32",
    rescale: Rescale | None = None,
    epilogue: Epilogue = identity,
    extras: Sequence[ExtraOperand] = (),
    unit: VectorUnit = VECTOR_UNITS["avx512_vnni"],
) -> Kernel | None:
    """(a[.., M, K] - za) @ (b[.., K, N] - zb) in int32, exactly; leading dimensions broadcast as in NumPy.

    The epilogue gets the sum, rescaled by the one factor of `rescale` if there is one. Leading dimensions may be
    symbolic. None for vectors, for symbolic M, K or N, for few rows, and for shapes that do not match.
    """
    a_shape, b_shape = tuple(a_shape), tuple(b_shape)
    if len(a_shape) < 2 or len(b_shape) < 2:
        return None
    rows, depth, columns = a_shape[-2], a_shape[-1], b_shape[-1]
    if not all(isinstance(d, int) for d in (rows, depth, columns)) or depth != b_shape[-2] or rows < FEWEST_ROWS:
        return None
    if any(isinstance(d, int) and d < 1 for d in (*a_shape, *b_shape)):
        return None
    leading = broadcast(a_shape[:-2], b_shape[:-2])
    if leading is None:
        return None
    out_shape = (*leading, rows, columns)

    emit = Emitter()
    with emit.function():
        left, right = emit.arg("a", a_shape, a.dtype), emit.arg("b", b_shape, b.dtype)
        extra = emit.extra_args(tuple(extras))
        out = emit.arg("out", out_shape, out_dtype)
        queries = QueryRows(emit, rows)
        product = ByteProduct(emit, unit, queries.height, depth, columns, a, b)
        with queries.tasks(leading) as task:
            index = task.batch
            a_at, b_at = project(index, a_shape[:-2]), project(index, b_shape[:-2])
            product.allocate()
            product.copy_columns(lambda k, n: right[(*b_at, k, n)])
            with queries.each(task) as (_, start):
                product.copy_rows(lambda row, k: left[(*a_at, start + row, k)])

                def use(sums: RegisterTile, row: Expr, column: Expr, vectors: int) -> None:
                    if rescale is not None:
                        sums.update(lambda acc, r, v: rescale.uniform(emit, acc, unit.lanes))

                    def store(valid: int) -> None:
                        sums.store(
                            range(0, valid, unit.lanes),
                            valid,
                            lambda r, j: (*index, start + row + r, column + j),
                            out,
                            epilogue,
                            extra,
                        )

                    product.valid(column, vectors, store)

                product.run(use)
    return Kernel(emit.func, (None, None), (a_shape, b_shape), out_shape)
