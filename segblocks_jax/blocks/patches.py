"""index_patches: where a window operation on blocks finds its pixels, halos included."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.pad import windows_of
from segblocks_jax.ops import extension, ffi_call
from segblocks_jax.ops.patches import BORDERS, Border, IndexPatches, ring_size, surround


def index_patches(
    grid: BlockGrid,
    block_size: int,
    padding: int,
    border: Border = "zero",
    *,
    implementation: str | None = None,
) -> IndexPatches:
    """The patches of blocks padded on all sides, as `segblocks_jax.block_pad` pads them.

    Args:
        grid: the blocks.
        block_size: side of a high block, in pixels of the layer.
        padding: pixels on each side, at each block's own resolution.
        border: what lies outside of the image: "zero"; "image" repeats the outermost pixels of the
            image; "block" those of the block, and no neighbor is read.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        ValueError: an unknown border, or padding larger than a high block.
    """
    if border not in BORDERS:
        raise ValueError(f"index_patches: border is {border!r}; expected one of {BORDERS}")
    if not 0 <= padding <= block_size:
        raise ValueError(
            f"index_patches: padding is {padding}; expected 0 to the block size, {block_size}"
        )
    counts = jnp.asarray(np.array([grid.num_high, grid.num_low], np.int32))
    if extension.resolve(implementation) == "ffi":
        return IndexPatches(*_compiled(grid, block_size, padding, border), counts)
    return IndexPatches(*_reference(grid, block_size, padding, border), counts)


def _compiled(
    grid: BlockGrid, block_size: int, padding: int, border: Border
) -> tuple[Array, Array, Array]:
    side, low_side = block_size + 2 * padding, block_size // grid.low_factor + 2 * padding
    halos = grid.num_high * ring_size(block_size // grid.low_factor, padding)
    shapes = (
        (grid.num_high, side, side),
        (grid.num_low, low_side, low_side),
        (halos, grid.low_factor**2),
    )
    high, low, means = ffi_call.call(
        "segblocks_index_tables",
        (grid.mask, grid.slots, grid.high_cells, grid.low_cells),
        [(shape, jnp.int32) for shape in shapes],
        (
            ("block_size", block_size),
            ("low_factor", grid.low_factor),
            ("padding", padding),
            ("border", BORDERS.index(border)),
        ),
    )
    return high, low, means


def _reference(
    grid: BlockGrid, block_size: int, padding: int, border: Border
) -> tuple[Array, Array, Array]:
    rows = jnp.arange(grid.num_pixels(block_size), dtype=jnp.int32)
    blocks = DualRes(rows[:, None], grid)
    halos, means = _halo_means(blocks, padding)
    if border == "block":
        around = ((0, 0), (padding, padding), (padding, padding))
        high, low = (surround(part[..., 0], around, border) for part in (blocks.high, blocks.low))
        return high, low, means
    high, low = windows_of(blocks, halos, (padding, padding), "edge" if border == "image" else -1)
    return high[..., 0], low[..., 0], means


def _halo_means(blocks: DualRes, padding: int) -> tuple[Array, Array]:
    """The high blocks averaged, as indices of halo means (-1 where no patch reads), and what each averages."""
    factor, low_side = blocks.grid.low_factor, blocks.low_size
    position = np.arange(low_side)
    near = (position < padding) | (position >= low_side - padding)
    ring = (near[:, None] | near[None, :]).reshape(-1)
    positions = np.where(ring, np.cumsum(ring) - 1, -1).reshape(1, low_side, low_side, 1)
    block = np.arange(blocks.grid.num_high)[:, None, None, None]
    first = blocks.pixels.shape[0] + block * ring.sum()
    halos = np.where(positions >= 0, first + positions, -1).astype(np.int32)
    sources = blocks.high.reshape(-1, low_side, factor, low_side, factor).swapaxes(2, 3)
    means = sources.reshape(-1, low_side**2, factor**2)[:, np.flatnonzero(ring)]
    return jnp.asarray(halos), means.reshape(-1, factor**2)
