"""The definition of block_pad, in jnp."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segblocks_jax.blocks.combine.reference import paste, upsample_nearest
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.split.reference import mean_pool


def pad(
    pixels: Float[Array, "p c"], grid: BlockGrid, padding: tuple[int, int]
) -> tuple[Float[Array, "n_high bh bw c"], Float[Array, "n_low lh lw c"]]:
    """Returns the padded high and low blocks; see `segblocks_jax.block_pad`.

    Every padded block is the window around it in the whole image at its own resolution, with zeros
    around the image.
    """
    blocks = DualRes(pixels, grid)
    factor = grid.low_factor
    high_image = paste(jnp.concatenate([blocks.high, upsample_nearest(blocks.low, factor)]), grid)
    high = _windows(high_image, grid.high_cells, grid, padding)
    if not grid.num_low:
        low_size = (blocks.low_size + 2 * padding[0], blocks.low_size + 2 * padding[1])
        return high, jnp.zeros((0, *low_size, pixels.shape[1]), pixels.dtype)
    low_image = paste(jnp.concatenate([mean_pool(blocks.high, factor), blocks.low]), grid)
    return high, _windows(low_image, grid.low_cells, grid, padding)


def _windows(
    image: Float[Array, "n h w c"],
    cells: Int[Array, "m"],
    grid: BlockGrid,
    padding: tuple[int, int],
) -> Float[Array, "m wh ww c"]:
    _, gh, gw = grid.mask.shape
    side = image.shape[1] // gh
    py, px = padding
    padded = jnp.pad(image, ((0, 0), (py, py), (px, px), (0, 0)))
    rows = (cells // gw % gh * side)[:, None] + jnp.arange(side + 2 * py)[None]
    columns = (cells % gw * side)[:, None] + jnp.arange(side + 2 * px)[None]
    return padded[(cells // (gh * gw))[:, None, None], rows[:, :, None], columns[:, None, :]]
