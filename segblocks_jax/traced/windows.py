"""Rules of windows: convolutions, also transposed ones, and maxima, minima and sums over windows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax import lax
from jaxtyping import Array

from segblocks_jax.blocks import DualRes, block_conv
from segblocks_jax.ops.image_conv import image_conv
from segblocks_jax.traced.runtime import HALO_DTYPES, Runtime
from segblocks_jax.traced.trace import Tracer
from segblocks_jax.traced.values import Map, NotInBlocks, Plain

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Windows:
    """The details of a node that reads windows.

    Attributes:
        size, stride, dilation: of the window, (vertical, horizontal).
        before: pixels that the first window reads before the image.
        groups: of a convolution.
        kernel: number of the HWIO kernel of a convolution.
        up: a transposed convolution makes so many times as many rows and columns.
    """

    size: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    groups: int = 1
    kernel: int | None = None
    up: Pair = (1, 1)

    @property
    def reach(self) -> Pair:
        """How far the last tap is from the first."""
        v, h = (d * (k - 1) for d, k in zip(self.dilation, self.size, strict=True))
        return v, h

    @property
    def halo(self) -> Pair:
        """Pixels around a block that are read."""
        v, h = (
            max(0, b, r - b - s + 1)
            for b, r, s in zip(self.before, self.reach, self.stride, strict=True)
        )
        return v, h

    @property
    def shift(self) -> Pair | None:
        """Of `block_conv` whose padding is half the reach; None where it has no such window."""
        found = []
        for reach, before, stride in zip(self.reach, self.before, self.stride, strict=True):
            padding = reach // 2
            shift = padding - before
            if not 0 <= shift < stride - (reach - 2 * padding):
                return None
            found.append(shift)
        return found[0], found[1]

    @property
    def plain(self) -> bool:
        """Whether `block_conv` has it."""
        equal = self.stride[0] == self.stride[1] and self.dilation[0] == self.dilation[1]
        return equal and self.shift is not None and self.stride[0] >= 1


def check_windows(
    tracer: Tracer, value: Map, windows: Windows, sizes: Sequence[tuple[int, int]]
) -> Pair:
    """The sides of blocks behind the windows; `sizes` are (inputs, outputs) along each axis."""
    factor = tracer.geometry.low_factor
    sides = []
    for side, stride, (length, outputs) in zip(value.side, windows.stride, sizes, strict=True):
        if outputs * stride != length:
            raise NotInBlocks(
                f"its {outputs} windows don't cover the {length} pixels evenly; pad it by half of its reach"
            )
        if side % (stride * factor):
            raise NotInBlocks(
                f"its stride of {stride} doesn't divide the {side // factor} pixels of low blocks here"
            )
        sides.append(side // stride)
    return sides[0], sides[1]


def windows_run(
    windows: Windows,
    side: Pair,
    outside: float | str,
    function: Callable[..., Array],
) -> Callable[..., Array]:
    """Runs a function of padded images (m, h, w, c) without padding on the parts."""
    halo = windows.halo

    def run(runtime: Runtime, pixels: Array, *beside: Array) -> Array:
        parts = runtime.pad(pixels, side, halo, outside)
        made = []
        for part, own in zip(parts, (side, runtime.low(side)), strict=True):
            for axis in (0, 1):
                start = halo[axis] - windows.before[axis]
                stride = windows.stride[axis]
                length = own[axis] - stride + windows.reach[axis] + 1
                part = lax.slice_in_dim(part, start, start + length, axis=axis + 1)
            made.append(function(part, *beside))
        return runtime.join(*made)

    return run


def convolved(
    tracer: Tracer,
    value: Map,
    kernel: Plain,
    windows: Windows,
    result: Map,
    macs: int,
    **changes: Any,
) -> Map:
    """Appends a convolution."""
    own, options = value.side, tracer.options
    windows = dataclasses.replace(windows, kernel=kernel.number)
    stride, dilation, groups, shift = (
        windows.stride,
        windows.dilation,
        windows.groups,
        windows.shift,
    )
    dtype = result.dtype
    flat = len(result.rest)
    if windows.plain and value.dtype == dtype and dtype in HALO_DTYPES:
        padding = windows.reach[0] // 2, windows.reach[1] // 2
        assert shift is not None

        def run(runtime: Runtime, pixels: Array, weights: Array) -> Array:
            pixels = pixels.reshape(pixels.shape[0], -1)
            given: Any = {"dilation": dilation[0], "shift": shift}
            if runtime.whole:
                image = pixels.reshape(runtime.grid.num_high, *own, -1)
                out = image_conv(image, weights, stride[0], padding, groups, **given)
                out = out.reshape(-1, out.shape[-1])
            else:
                given["padding_mode"] = options.padding
                blocks = DualRes(pixels, runtime.grid)
                out = block_conv(blocks, weights, stride[0], padding, groups, **given).pixels
            return out.astype(dtype).reshape(out.shape[0], *(1,) * (flat - 1), out.shape[1])

        if own[0] != own[1] and (tracer.geometry.rows, tracer.geometry.columns) != (1, 1):
            run = _by_xla(windows, own, result)
    else:
        run = _by_xla(windows, own, result)
    about: Any = {"how": "blocks", "details": windows, "macs": macs} | changes
    return tracer.mapped("conv_general_dilated", run, (value, kernel), result, **about)


def _by_xla(windows: Windows, side: Pair, result: Map) -> Callable[..., Array]:
    dtype, rest = result.dtype, result.rest

    def convolve(part: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            part,
            kernel,
            windows.stride,
            "VALID",
            rhs_dilation=windows.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=windows.groups,
            preferred_element_type=dtype,
        )

    run = windows_run(windows, side, 0.0, convolve)
    return lambda *given: run(*given).reshape(-1, *rest)
