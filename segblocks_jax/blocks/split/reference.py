"""The definition of split, in jnp."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.grid import BlockGrid


def split(image: Float[Array, "n h w c"], grid: BlockGrid) -> Float[Array, "p c"]:
    """Returns the packed pixels of the image's blocks; see `segblocks_jax.split`."""
    n, h, _, channels = image.shape
    _, gh, gw = grid.mask.shape
    side = h // gh
    blocks = image.reshape(n, gh, side, gw, side, channels).swapaxes(2, 3)
    blocks = blocks.reshape(n * gh * gw, side, side, channels)
    high = blocks[grid.high_cells]
    low = mean_pool(blocks[grid.low_cells], grid.low_factor)
    return jnp.concatenate([high.reshape(-1, channels), low.reshape(-1, channels)])


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
