"""Writing finished vectors of channels to a tensor in either layout, with the zeros that the blocked one wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..conv_call import ConvCall
from ..emit import Emitter
from ..kernel import Dim, Epilogue, Expr, VectorUnit, ceil_div, cover
from ..layout import Blocked, Layout
from ..tile import RegisterTile, stack_chunks

__all__ = ["Output"]


class Output:
    """The result [N, C, H, W] of a kernel, its last parameter; whatever is stored goes through the epilogue.

    Blocks are numbered along the channels. Kernels must store every pixel of every block, and call `fill_halo` once a
    block.
    """

    def __init__(
        self,
        emit: Emitter,
        layout: Layout,
        shape: tuple[Dim, ...],
        epilogue: Epilogue,
        extras: tuple[Any, ...],
        unit: VectorUnit,
        dtype: str = "float32",
        fill: float = 0,
    ) -> None:
        self._emit, self._layout, self._lanes, self._fill_value = emit, layout, unit.lanes, fill
        self._epilogue, self._extras = epilogue, extras
        self.shape = shape
        self._buffer = emit.arg("out", layout.shape(shape), dtype)

    @classmethod
    def of(cls, emit: Emitter, call: ConvCall, extras: tuple[Any, ...]) -> Output:
        """The result of a convolution."""
        unit, dtype = call.unit, call.out_dtype
        return cls(emit, call.out_layout, call.out_shape, call.epilogue, extras, unit, dtype, call.fill)

    @property
    def blocks(self) -> int:
        return ceil_div(self.shape[1], self._lanes)

    @property
    def buffer(self) -> Any:
        """The memory, for kernels that store what is no vector of channels."""
        return self._buffer

    def store(self, n: Expr, block: Expr, h: Expr, w: Expr, value: Callable[[Expr], Expr]) -> None:
        """Store one pixel of a block; value(lane) is the accumulator of one channel, read only where there is one."""
        full, rest = divmod(self.shape[1], self._lanes)

        def channels(count: int) -> Callable[[], None]:
            return lambda: self._store(n, block, h, w, value, count)

        if not rest:
            channels(self._lanes)()
        elif not full:
            channels(rest)()
        else:
            self._emit.branch(block < full, channels(self._lanes), channels(rest))

    def _store(self, n: Expr, block: Expr, h: Expr, w: Expr, value: Callable[[Expr], Expr], channels: int) -> None:
        emit = self._emit
        for start, width in cover(channels, self._lanes):
            with emit.lanes(width) as lane:
                at = (n, block * self._lanes + (start + lane), h, w)
                result = self._epilogue(value(start + lane), at, self._extras)
                emit.store(self._buffer, self._layout.index(at), result)
        if isinstance(self._layout, Blocked):
            *pixel, _ = self._layout.index((n, block * self._lanes, h, w))
            emit.fill_row(self._buffer, pixel, channels, self._lanes - channels, self._fill_value, self._lanes)

    def store_tile(
        self,
        tile: RegisterTile,
        pixels: int,
        blocks: int,
        n: Expr,
        block: Expr,
        pixel: Callable[[Expr], tuple[Expr, Expr]],
    ) -> None:
        """Store a tile of `pixels` rows and `blocks` vectors; row i is the pixel (h, w) = pixel(i).

        It goes through the stack, so that the code of a long epilogue exists once and not once an accumulator; of a
        short one LLVM unrolls the loop, and the detour is gone.
        """
        emit, lanes = self._emit, self._lanes
        for some in stack_chunks(pixels, lanes):
            for b in range(blocks):
                stack = emit.registers(len(some) * lanes, dtype=tile.dtype)
                tile.spill_vector(stack, b, some)
                self.store_pixels(
                    len(some),
                    n,
                    block + b,
                    lambda i, first=some.start: pixel(first + i),  # type: ignore[misc]
                    lambda i, lane, stack=stack: stack[i * lanes + lane],  # type: ignore[misc]
                )

    def store_pixels(
        self,
        pixels: int,
        n: Expr,
        block: Expr,
        pixel: Callable[[Expr], tuple[Expr, Expr]],
        value: Callable[[Expr, Expr], Expr],
    ) -> None:
        """Store a block of several pixels; value(i, lane) is the accumulator of pixel(i)."""
        if pixels == 1:
            self.store(n, block, *pixel(0), lambda lane: value(0, lane))
        else:
            with self._emit.serial(pixels) as i:
                self.store(n, block, *pixel(i), lambda lane: value(i, lane))

    def fill_halo(self, n: Expr, block: Expr) -> None:
        """Zeros around the image of one block."""
        if not isinstance(self._layout, Blocked):
            return
        halo, (height, width) = self._layout.halo, self.shape[2:]
        pitch = halo.left + width + halo.right
        self._fill(n, block, 0, 0, halo.top * pitch)
        self._fill(n, block, halo.top + height, 0, halo.bottom * pitch)
        if halo.left or halo.right:
            with self._emit.serial(height) as h:
                self._fill(n, block, halo.top + h, 0, halo.left)
                self._fill(n, block, halo.top + h, halo.left + width, halo.right)

    def _fill(self, n: Expr, block: Expr, row: Expr, column: Expr, pixels: int) -> None:
        """Zeros in consecutive pixels; they may run on into the next rows."""
        emit = self._emit

        def pixel(i: Expr) -> None:
            emit.fill_row(self._buffer, [n, block, row, column + i], 0, self._lanes, self._fill_value, self._lanes)

        if pixels <= 2:
            for i in range(pixels):
                pixel(i)
        else:
            with emit.serial(pixels) as i:
                pixel(i)
