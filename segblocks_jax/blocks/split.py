"""split and combine: of each the definition, the compiled call, and the function that picks one."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, Shaped

from segblocks_jax.blocks.grid import BlockGrid, DualRes, block_size
from segblocks_jax.ops import extension
from segblocks_jax.ops.ffi_call import check_dtype, linear_call
from segblocks_jax.ops.upsample2 import upsample_bilinear, upsample_nearest


@jax.named_scope("split")
def split(
    image: Float[Array | np.ndarray, "n h w c"],
    mask: Bool[Array | np.ndarray, "n gh gw"] | BlockGrid,
    *,
    num_high: int | None = None,
    scores: Num[Array | np.ndarray, "n gh gw"] | None = None,
    low_factor: int = 2,
    implementation: str | None = None,
) -> DualRes:
    """Cuts images into square blocks: high ones are copied, low ones averaged.

    With b = h / gh, the block at grid position (i, g, k) is ``image[i, g*b:(g+1)*b, k*b:(k+1)*b]``; a
    low block holds the means of its ``low_factor x low_factor`` pixels. The gradient of a low pixel
    goes to its pixels in equal parts.

    Args:
        image: float32, bfloat16 or float16.
        mask: True = high resolution; or a ready grid, with which the next three are not given.
        num_high: static number of high blocks; needed where the mask is traced. See `BlockGrid.from_mask`.
        scores: decides which blocks change where `num_high` is not the number of True.
        low_factor: side of a high block over the side of a low one.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtypes.
        ValueError: the image is no whole number of square blocks, or the grid is of another batch.

    Source: SegBlocks (arXiv 2011.12025), section 3.2.
    """
    if isinstance(mask, BlockGrid):
        if num_high is not None or scores is not None or low_factor != 2:
            raise ValueError(
                "split: a BlockGrid already fixes num_high, scores and low_factor; give it alone"
            )
        grid = mask
    else:
        grid = BlockGrid.from_mask(mask, num_high, scores, low_factor)
    image = check_dtype("split", "image", image)
    _check_shapes(image.shape, grid)
    run = _split_compiled if extension.resolve(implementation) == "ffi" else _split_reference
    return DualRes(run(image, grid), grid)


def _check_shapes(shape: tuple[int, ...], grid: BlockGrid) -> None:
    if len(shape) != 4:
        raise ValueError(
            f"split: the image has shape {shape}; expected (images, height, width, channels)"
        )
    images, rows, columns = grid.mask.shape
    if shape[0] != images:
        raise ValueError(
            f"split: {shape[0]} images, but the mask is for {images}; give one grid an image"
        )
    if not grid.num_blocks:
        return
    for name, size, count in (("height", shape[1], rows), ("width", shape[2], columns)):
        if size % count or not size:
            raise ValueError(
                f"split: image {name} {size} is not a multiple of the mask's {count} blocks;"
                f" pad it to {max(1, -(-size // count)) * count} or give a mask of another size"
            )
    side = shape[1] // rows
    if shape[2] // columns != side:
        raise ValueError(
            f"split: blocks of {side} x {shape[2] // columns} pixels (image {shape[1]} x {shape[2]}, mask"
            f" {rows} x {columns}); blocks must be square"
        )
    if side % grid.low_factor:
        raise ValueError(
            f"split: block size {side} is not a multiple of the low factor {grid.low_factor};"
            " give a coarser mask or pad the image"
        )


@jax.jit
def _split_reference(image: Float[Array, "n h w c"], grid: BlockGrid) -> Float[Array, "p c"]:
    """The definition of `split`: the packed pixels of the image's blocks."""
    n, h, _, channels = image.shape
    _, gh, gw = grid.mask.shape
    side = h // gh
    blocks = image.reshape(n, gh, side, gw, side, channels).swapaxes(2, 3)
    blocks = blocks.reshape(n * gh * gw, side, side, channels)
    high = blocks[grid.high_cells]
    low = mean_pool(blocks[grid.low_cells], grid.low_factor)
    return jnp.concatenate([high.reshape(-1, channels), low.reshape(-1, channels)])


@functools.partial(jax.jit, static_argnames=("factor",))
def mean_pool(
    blocks: Float[Array, "m b b c"], factor: int
) -> Float[Array, "m b//{factor} b//{factor} c"]:
    """Means over factor x factor pixels: float32 sums in row-major order, rounded once."""
    m, side, _, channels = blocks.shape
    parts = blocks.reshape(m, side // factor, factor, side // factor, factor, channels)
    total = jnp.zeros((m, side // factor, side // factor, channels), jnp.float32)
    for i in range(factor):
        for j in range(factor):
            total = total + parts[:, :, i, :, j].astype(jnp.float32)
    return (total * (1 / factor**2)).astype(blocks.dtype)


def _split_compiled(image: Float[Array, "n h w c"], grid: BlockGrid) -> Float[Array, "p c"]:
    side = image.shape[1] // grid.slots.shape[1]
    (pixels,) = linear_call(
        "segblocks_split",
        image,
        grid.slots,
        results=((grid.num_pixels(side), image.shape[3]),),
        num_high=grid.num_high,
        low_factor=grid.low_factor,
    )
    return pixels


@jax.named_scope("combine")
def combine(
    blocks: DualRes | Float[Array, "n h w c"],
    low_upsampling: Literal["bilinear", "nearest"] = "bilinear",
    *,
    implementation: str | None = None,
) -> Float[Array, "n h w c"]:
    """Puts blocks back together: high ones are copied, low ones upsampled by the low factor.

    Each low block is upsampled alone: bilinear has half-pixel centers and clamps at the block's own
    border; nearest repeats pixels.

    Args:
        blocks: blocks of float32, bfloat16 or float16 pixels. An image stays as it is: what `in_blocks` ends on the
            whole image.
        low_upsampling: "bilinear" or "nearest".
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtype.
        ValueError: unknown `low_upsampling`, or pixels that are no whole blocks.

    Source: SegBlocks (arXiv 2011.12025), section 3.2.
    """
    if low_upsampling not in ("bilinear", "nearest"):
        raise ValueError(
            f"combine: low_upsampling is {low_upsampling!r}; expected 'bilinear' or 'nearest'"
        )
    if isinstance(blocks, jax.Array):
        return blocks
    pixels = check_dtype("combine", "blocks", blocks.pixels)
    run = _combine_compiled if extension.resolve(implementation) == "ffi" else _combine_reference
    return run(pixels, blocks.grid, low_upsampling)


@functools.partial(jax.jit, static_argnames=("low_upsampling",))
def _combine_reference(pixels: Array, grid: BlockGrid, low_upsampling: str) -> Array:
    """The definition of `combine`: the image of packed blocks."""
    blocks = DualRes(pixels, grid)
    upsample = {"bilinear": upsample_bilinear, "nearest": upsample_nearest}[low_upsampling]
    return paste(jnp.concatenate([blocks.high, upsample(blocks.low, grid.low_factor)]), grid)


@jax.jit
def paste(blocks: Shaped[Array, "m b b c"], grid: BlockGrid) -> Shaped[Array, "n h w c"]:
    """Puts blocks of one size, given in block order, at their places."""
    n, gh, gw = grid.mask.shape
    _, side, _, channels = blocks.shape
    cells = blocks[grid.slots]
    return cells.swapaxes(2, 3).reshape(n, gh * side, gw * side, channels)


def _combine_compiled(pixels: Array, grid: BlockGrid, low_upsampling: str) -> Array:
    images, rows, columns = grid.slots.shape
    side = block_size(pixels.shape[0], grid)
    (image,) = linear_call(
        "segblocks_combine",
        pixels,
        grid.slots,
        results=((images, rows * side, columns * side, pixels.shape[1]),),
        num_high=grid.num_high,
        low_factor=grid.low_factor,
        bilinear=low_upsampling == "bilinear",
    )
    return image
