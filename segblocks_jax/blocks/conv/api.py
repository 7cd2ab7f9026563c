"""block_conv: checks its arguments; pads the blocks, then convolves them."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.conv.reference import valid_convolution
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.pad import PaddedBlocks, block_pad


def block_conv(
    blocks: DualRes,
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: Float[Array, "k"] | None = None,
    *,
    implementation: str | None = None,
) -> DualRes:
    """Convolves blocks with the pixels around them: the convolution of `block_pad(blocks, padding)`.

    On an all-high grid this is the convolution of the zero-padded image, on an all-low grid that of the
    averaged image.

    Args:
        blocks: blocks of c channels.
        kernel: HWIO, of the blocks' dtype.
        stride: divides the side of every block.
        padding: pixels on each side, or (vertical, horizontal); (k - 1) / 2 for a kernel of side k
            keeps whole blocks.
        groups: number of channel groups.
        bias: added to every output pixel.
        implementation: of the padding: "ffi", "xla", or None.

    Raises:
        TypeError: kernel or bias of another dtype than the blocks.
        ValueError: channels, stride or padding that don't fit.
    """
    _check(blocks, kernel, stride, padding, groups, bias)
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding in (0, (0, 0)) and groups == 1:
        pixels = blocks.pixels @ kernel[0, 0]
    else:
        padded = (
            PaddedBlocks(blocks.high, blocks.low)
            if padding in (0, (0, 0))
            else block_pad(blocks, padding, implementation=implementation)
        )
        high = valid_convolution(padded.high, kernel, stride, groups)
        low = valid_convolution(padded.low, kernel, stride, groups)
        pixels = jnp.concatenate([x.reshape(-1, kernel.shape[3]) for x in (high, low)])
    return dataclasses.replace(blocks, pixels=pixels if bias is None else pixels + bias[None])


def _check(
    blocks: DualRes,
    kernel: Array,
    stride: int,
    padding: int | tuple[int, int],
    groups: int,
    bias: Array | None,
) -> None:
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
    py, px = padding if isinstance(padding, tuple) else (padding, padding)
    if blocks.grid.num_blocks and not (
        0 <= kernel.shape[0] - 1 - 2 * py < stride and 0 <= kernel.shape[1] - 1 - 2 * px < stride
    ):
        raise ValueError(
            f"block_conv: padding {padding} doesn't keep whole blocks under a {kernel.shape[0]} x {kernel.shape[1]}"
            f" kernel of stride {stride}; use {((kernel.shape[0] - 1) // 2, (kernel.shape[1] - 1) // 2)}"
        )
