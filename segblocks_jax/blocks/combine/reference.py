"""The definition of combine, in jnp."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops.upsample import upsample_bilinear, upsample_nearest


def combine(
    pixels: Float[Array, "p c"], grid: BlockGrid, low_upsampling: str
) -> Float[Array, "n h w c"]:
    """Returns the image of packed blocks; see `segblocks_jax.combine`."""
    blocks = DualRes(pixels, grid)
    upsample = {"bilinear": upsample_bilinear, "nearest": upsample_nearest}[low_upsampling]
    return paste(jnp.concatenate([blocks.high, upsample(blocks.low, grid.low_factor)]), grid)


def paste(blocks: Shaped[Array, "m b b c"], grid: BlockGrid) -> Shaped[Array, "n h w c"]:
    """Puts blocks of one size, given in block order, at their places."""
    n, gh, gw = grid.mask.shape
    _, side, _, channels = blocks.shape
    cells = blocks[grid.slots]
    return cells.swapaxes(2, 3).reshape(n, gh * side, gw * side, channels)
