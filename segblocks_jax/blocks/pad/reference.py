"""The definition of block_pad, in jnp."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from segblocks_jax.blocks.combine.reference import paste
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.split.reference import mean_pool
from segblocks_jax.ops.upsample import upsample_nearest


def pad(
    pixels: Shaped[Array, "p c"], grid: BlockGrid, padding: tuple[int, int]
) -> tuple[Shaped[Array, "n_high bh bw c"], Shaped[Array, "n_low lh lw c"]]:
    """Returns the padded high and low blocks; see `segblocks_jax.block_pad`."""
    blocks = DualRes(pixels, grid)
    averaged = mean_pool(blocks.high, grid.low_factor) if grid.num_low else None
    return windows_of(blocks, averaged, padding, 0)


def windows_of(
    blocks: DualRes,
    averaged: Shaped[Array, "n_high lb lb c"] | None,
    padding: tuple[int, int],
    outside: int | str,
) -> tuple[Shaped[Array, "n_high bh bw c"], Shaped[Array, "n_low lh lw c"]]:
    """Every block's window in the whole image at its own resolution.

    Args:
        blocks: the blocks.
        averaged: the high blocks as low ones see them; needed where there are low blocks.
        padding: (vertical, horizontal).
        outside: value outside of the image, or "edge" to repeat its outermost pixels.
    """
    grid = blocks.grid
    low_as_high = upsample_nearest(blocks.low, grid.low_factor)
    image = paste(jnp.concatenate([blocks.high, low_as_high]), grid)
    high = _windows(image, grid.high_cells, grid, padding, outside)
    if averaged is None or not grid.num_low:
        low_size = (blocks.low_size + 2 * padding[0], blocks.low_size + 2 * padding[1])
        return high, jnp.zeros((0, *low_size, blocks.pixels.shape[1]), blocks.pixels.dtype)
    image = paste(jnp.concatenate([averaged, blocks.low]), grid)
    return high, _windows(image, grid.low_cells, grid, padding, outside)


def _windows(
    image: Shaped[Array, "n h w c"],
    cells: Int[Array, "m"],
    grid: BlockGrid,
    padding: tuple[int, int],
    outside: int | str,
) -> Shaped[Array, "m wh ww c"]:
    _, gh, gw = grid.mask.shape
    side = image.shape[1] // gh
    py, px = padding
    around = ((0, 0), (py, py), (px, px), (0, 0))
    options = {"mode": "edge"} if outside == "edge" else {"constant_values": outside}
    padded = jnp.pad(image, around, **options)
    rows = (cells // gw % gh * side)[:, None] + jnp.arange(side + 2 * py)[None]
    columns = (cells % gw * side)[:, None] + jnp.arange(side + 2 * px)[None]
    return padded[(cells // (gh * gw))[:, None, None], rows[:, :, None], columns[:, None, :]]
