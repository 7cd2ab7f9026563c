"""block_conv: a differentiable convolution of blocks with the pixels around them."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.grid import BlockGrid, DualRes
from segblocks_jax.blocks.pad import PaddedBlocks, block_pad, index_patches
from segblocks_jax.ops.gradients import input_gradient
from segblocks_jax.ops.image_conv import Window, convolve, pair, resolve
from segblocks_jax.ops.patches import IndexPatches


@jax.named_scope("block_conv")
def block_conv(
    blocks: DualRes,
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: Float[Array, "k"] | None = None,
    *,
    dilation: int = 1,
    shift: int | tuple[int, int] = 0,
    padding_mode: str = "block",
    implementation: str | None = None,
) -> DualRes:
    """Convolves blocks with the pixels around them: the convolution of `block_pad(blocks, padding)`.

    On an all-high grid this is the convolution of the zero-padded image, on an all-low grid that of the
    averaged image.

    Args:
        blocks: blocks of c channels.
        kernel: HWIO, of the blocks' dtype.
        stride: divides the side of every block.
        padding: pixels on each side, or (vertical, horizontal); dilation (k - 1) / 2 for a kernel of
            side k keeps whole blocks.
        groups: number of channel groups.
        bias: added to every output pixel.
        dilation: distance of neighboring taps of the kernel, at each block's own resolution.
        shift: pixels by which all windows lie further down and to the right, or (vertical, horizontal), below the
            stride. With 1 at stride 2, a kernel of odd side has TensorFlow's SAME padding.
        padding_mode: of `block_pad`.
        implementation: "ffi", the compiled `indexed_conv`; "reference", its definition; "xla", XLA's own convolution
            of `block_pad`'s result. None: what `segblocks_jax.ops.extension.resolve` says where that has the case, on
            GPUs and elsewhere "xla". Gradients gather, so they are deterministic, whatever the number of threads: of
            float32 with one group a channel on a CPU by index too, all others the way of "xla".

    Raises:
        TypeError: kernel or bias of another dtype than the blocks.
        ValueError: channels, stride, padding, dilation or shift that don't fit; "ffi" or "reference" for float16,
            groups that are neither one nor one per channel, or another padding mode.
    """
    if padding_mode != "block" and implementation not in (None, "xla"):
        raise ValueError(
            f"block_conv: implementation {implementation!r} finds the neighbors' pixels by index, so it has"
            f" no padding_mode {padding_mode!r}; use implementation='xla'"
        )
    if padding_mode != "block":
        implementation = "xla"
    implementation = resolve("block_conv", implementation, blocks.pixels, kernel, groups, dilation)
    window = _Window(
        stride, pair(padding), groups, dilation, implementation, pair(shift), padding_mode
    )
    _check(blocks, kernel, window, bias)
    pixels = convolve(blocks.pixels, kernel, blocks.grid, window, (blocks.grid.slots,))
    return dataclasses.replace(blocks, pixels=pixels if bias is None else pixels + bias[None])


@dataclasses.dataclass(frozen=True)
class _Window(Window):
    padding_mode: str = "block"

    def patches(self, maps: Array, grid: BlockGrid) -> IndexPatches:
        py, px = self.padding
        padding, side = max(py, px), DualRes(maps, grid).block_size
        patches = index_patches(grid, side, padding, implementation=self.implementation)
        return patches.inset(padding - py, padding - px, self.shift)

    def shape(self, maps: Array, kernel: Array) -> tuple[int, ...]:
        return -1, kernel.shape[3]

    def padded(self, maps: Array, kernel: Array, grid: BlockGrid) -> Array:
        if self.pointwise(kernel) and self.groups == 1:
            return maps @ kernel[0, 0]
        parts = self._pad(maps, grid)
        outputs = [self.valid(part, kernel) for part in (parts.high, parts.low)]
        return jnp.concatenate([x.reshape(-1, kernel.shape[3]) for x in outputs])

    def maps_gradient(
        self, cotangents: Array, maps: Array, kernel: Array, grid: BlockGrid
    ) -> Array:
        parts, transpose = jax.vjp(lambda maps: self._pad(maps, grid), maps)
        taps = self.taps(kernel)
        before = -self.shift[0], -self.shift[1]
        gradients, start = [], 0
        for part in (parts.high, parts.low):
            units, *sides, _ = part.shape
            outputs = [
                (side + first - reach) // self.stride + 1
                for side, first, reach in zip(sides, before, taps.extent, strict=True)
            ]
            stop = start + units * math.prod(outputs)
            these = cotangents[start:stop].reshape(units, *outputs, kernel.shape[3])
            gradients.append(input_gradient(these, kernel, (sides[0], sides[1]), taps, before))
            start = stop
        return transpose(PaddedBlocks(*gradients))[0]

    def _pad(self, maps: Array, grid: BlockGrid) -> PaddedBlocks:
        blocks = DualRes(maps, grid)
        if not any(self.padding):
            return PaddedBlocks(blocks.high, blocks.low)
        return block_pad(blocks, self.padding, mode=self.padding_mode)


def _check(blocks: DualRes, kernel: Array, window: Window, bias: Array | None) -> None:
    stride, padding, groups = window.stride, window.padding, window.groups
    if kernel.ndim != 4:
        raise ValueError(
            f"block_conv: the kernel has shape {kernel.shape}; expected (kh, kw, c / groups, k)"
        )
    for name, array in (("kernel", kernel), ("bias", bias)):
        if array is not None and array.dtype != blocks.pixels.dtype:
            raise TypeError(
                f"block_conv: {name} is {array.dtype}, the blocks are {blocks.pixels.dtype}; cast one of them"
            )
    channels = blocks.pixels.shape[1]
    if kernel.shape[2] * groups != channels or kernel.shape[3] % groups:
        raise ValueError(
            f"block_conv: kernel {kernel.shape} with {groups} groups doesn't fit {channels} channels;"
            f" expected (kh, kw, {channels // groups}, a multiple of {groups})"
        )
    size = blocks.low_size if blocks.grid.num_low else blocks.block_size
    if size % stride:
        raise ValueError(
            f"block_conv: stride {stride} doesn't divide the block side {size} at this layer; use a larger block size"
        )
    reach = [window.dilation * (k - 1) for k in kernel.shape[:2]]
    beyond = [r - 2 * p for r, p in zip(reach, padding, strict=True)]
    if blocks.grid.num_blocks and not all(0 <= pixels < stride for pixels in beyond):
        raise ValueError(
            f"block_conv: padding {padding} doesn't keep whole blocks under a {kernel.shape[0]} x {kernel.shape[1]}"
            f" kernel of stride {stride} and dilation {window.dilation}; use {(reach[0] // 2, reach[1] // 2)}"
        )
    limits = tuple(stride - pixels for pixels in beyond)
    if not all(0 <= s < limit for s, limit in zip(window.shift, limits, strict=True)):
        raise ValueError(
            f"block_conv: shift {window.shift} doesn't keep whole blocks; expected 0 or more, and below {limits}"
        )
