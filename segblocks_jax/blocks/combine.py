"""combine: the definition, the compiled call, and the function that picks one."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from segblocks_jax.blocks.dual_res import DualRes, block_size
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import check_dtype
from segblocks_jax.ops.ffi_call import LinearCall
from segblocks_jax.ops.upsample import upsample_bilinear, upsample_nearest


@jax.named_scope("combine")
def combine(
    blocks: DualRes,
    low_upsampling: Literal["bilinear", "nearest"] = "bilinear",
    *,
    implementation: str | None = None,
) -> Float[Array, "n h w c"]:
    """Puts blocks back together: high ones are copied, low ones upsampled by the low factor.

    Each low block is upsampled alone: bilinear has half-pixel centers and clamps at the block's own
    border; nearest repeats pixels.

    Args:
        blocks: blocks of float32, bfloat16 or float16 pixels.
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
    pixels = check_dtype("combine", "blocks", blocks.pixels)
    run = _compiled if extension.resolve(implementation) == "ffi" else reference
    return run(pixels, blocks.grid, low_upsampling)


def reference(
    pixels: Float[Array, "p c"], grid: BlockGrid, low_upsampling: str
) -> Float[Array, "n h w c"]:
    """The definition of `combine`: the image of packed blocks."""
    blocks = DualRes(pixels, grid)
    upsample = {"bilinear": upsample_bilinear, "nearest": upsample_nearest}[low_upsampling]
    return paste(jnp.concatenate([blocks.high, upsample(blocks.low, grid.low_factor)]), grid)


def paste(blocks: Shaped[Array, "m b b c"], grid: BlockGrid) -> Shaped[Array, "n h w c"]:
    """Puts blocks of one size, given in block order, at their places."""
    n, gh, gw = grid.mask.shape
    _, side, _, channels = blocks.shape
    cells = blocks[grid.slots]
    return cells.swapaxes(2, 3).reshape(n, gh * side, gw * side, channels)


def _compiled(
    pixels: Float[Array, "p c"], grid: BlockGrid, low_upsampling: str
) -> Float[Array, "n h w c"]:
    images, rows, columns = grid.slots.shape
    side = block_size(pixels.shape[0], grid)
    call = LinearCall(
        target="segblocks_combine",
        transpose="segblocks_combine_backward",
        operands=(pixels.shape,),
        results=((images, rows * side, columns * side, pixels.shape[1]),),
        attributes=(
            ("num_high", grid.num_high),
            ("low_factor", grid.low_factor),
            ("bilinear", low_upsampling == "bilinear"),
        ),
    )
    (image,) = call(pixels, slots=grid.slots)
    return image
