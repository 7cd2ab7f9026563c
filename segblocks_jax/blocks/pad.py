"""block_pad; index_patches, which tells where a padded block finds its pixels; both by definition or compiled."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from segblocks_jax.blocks.grid import BlockGrid, DualRes, block_size
from segblocks_jax.blocks.split import mean_pool, paste
from segblocks_jax.ops import extension, ffi_call, no_type_check
from segblocks_jax.ops.ffi_call import check_dtype, linear_call
from segblocks_jax.ops.patches import BORDERS, Border, IndexPatches, ring_size, surround
from segblocks_jax.ops.upsample2 import upsample_nearest

PADDING_MODES = ("block", "zero", "clamp")
_LAYERS_A_CALL = 16  # What the compiled handler takes.


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class PaddedBlocks:
    """Blocks with their padding, ready for a convolution or pooling without padding.

    Attributes:
        high: (n_high, b + 2 py, b + 2 px, c).
        low: (n_low, b / low_factor + 2 py, b / low_factor + 2 px, c).
    """

    high: Float[Array, "n_high bh bw c"]
    low: Float[Array, "n_low lh lw c"]


@jax.named_scope("block_pad")
def block_pad(
    blocks: DualRes,
    padding: int | tuple[int, int],
    *,
    mode: str = "block",
    implementation: str | None = None,
) -> PaddedBlocks:
    """Pads every block on all sides with the pixels that lie there in the image.

    A padding pixel outside the image is zero. Any other belongs to the block at its place, at the padded block's own
    resolution: a high block reads a low neighbor's nearest pixel (position // low_factor), a low one the mean of a
    high neighbor's pixels. Corners read the diagonal neighbor. So on an all-high grid the padded blocks are windows
    of the zero-padded image, and on an all-low grid windows of the averaged one.

    Args:
        blocks: blocks of float32, bfloat16 or float16 pixels.
        padding: pixels on each side, at each block's own resolution, across as many blocks as it takes; or
            (vertical, horizontal).
        mode: "block", as above; for comparison, blocks that know nothing of each other: "zero" surrounds
            every block with zeros, "clamp" repeats its outermost pixels, at the border of the image too.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtype.
        ValueError: negative padding, or an unknown mode.

    Source: BlockPad of SegBlocks (arXiv 2011.12025), section 3.3.
    """
    pixels = check_dtype("block_pad", "blocks", blocks.pixels)
    py, px = padding if isinstance(padding, tuple) else (padding, padding)
    if min(py, px) < 0:
        raise ValueError(f"block_pad: padding is {padding}; it can't be negative")
    if mode not in PADDING_MODES:
        raise ValueError(f"block_pad: mode is {mode!r}; expected one of {PADDING_MODES}")
    if mode != "block":
        around = ((0, 0), (py, py), (px, px), (0, 0))
        how = "constant" if mode == "zero" else "edge"
        return PaddedBlocks(*(jnp.pad(part, around, how) for part in (blocks.high, blocks.low)))
    run = _compiled if extension.resolve(implementation) == "ffi" else reference
    return PaddedBlocks(*run(pixels, blocks.grid, (py, px)))


def reference(
    pixels: Shaped[Array, "p c"], grid: BlockGrid, padding: tuple[int, int]
) -> tuple[Shaped[Array, "n_high bh bw c"], Shaped[Array, "n_low lh lw c"]]:
    """The definition of `block_pad`: the padded high and low blocks."""
    blocks = DualRes(pixels, grid)
    averaged = mean_pool(blocks.high, grid.low_factor) if grid.num_low else None
    return windows_of(blocks, averaged, padding, 0)


@functools.partial(jax.jit, static_argnames=("padding", "outside"))
def windows_of(
    blocks: DualRes,
    averaged: Shaped[Array, "n_high lb lb c"] | None,
    padding: tuple[int, int],
    outside: int | str,
) -> tuple[Shaped[Array, "n_high bh bw c"], Shaped[Array, "n_low lh lw c"]]:
    """Every block's window in the whole image at its own resolution, with (vertical, horizontal) padding.

    `averaged` has the high blocks as low ones see them, where there are low blocks; `outside` is the value beyond the
    image, or "edge" to repeat its outermost pixels.
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
    image: Array, cells: Array, grid: BlockGrid, padding: tuple[int, int], outside: int | str
) -> Array:
    _, gh, gw = grid.mask.shape
    side = image.shape[1] // gh
    py, px = padding
    around = ((0, 0), (py, py), (px, px), (0, 0))
    options = {"mode": "edge"} if outside == "edge" else {"constant_values": outside}
    padded = jnp.pad(image, around, **options)
    rows = (cells // gw % gh * side)[:, None] + jnp.arange(side + 2 * py)[None]
    columns = (cells % gw * side)[:, None] + jnp.arange(side + 2 * px)[None]
    return padded[(cells // (gh * gw))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _compiled(pixels: Array, grid: BlockGrid, padding: tuple[int, int]) -> tuple[Array, ...]:
    py, px = padding
    channels = pixels.shape[1]
    side = block_size(pixels.shape[0], grid)
    low_side = side // grid.low_factor
    return linear_call(
        "segblocks_pad",
        pixels,
        grid.slots,
        results=(
            (grid.num_high, side + 2 * py, side + 2 * px, channels),
            (grid.num_low, low_side + 2 * py, low_side + 2 * px, channels),
        ),
        num_high=grid.num_high,
        low_factor=grid.low_factor,
        padding_y=py,
        padding_x=px,
    )


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
        padding: pixels on each side, at each block's own resolution, across as many blocks as it takes.
        border: what lies outside of the image: "zero"; "image" repeats the outermost pixels of the
            image; "block" those of the block, and no neighbor is read.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        ValueError: an unknown border, or negative padding.
    """
    (patches,) = layer_patches(grid, [(block_size, padding, border)], implementation=implementation)
    return patches


def layer_patches(
    grid: BlockGrid, layers: Sequence[tuple[int, int, Border]], *, implementation: str | None = None
) -> list[IndexPatches]:
    """`index_patches` of several layers of a network, each (block size, padding, border), in few compiled calls.

    Raises:
        ValueError: as `index_patches`.
    """
    for _, padding, border in layers:
        if border not in BORDERS:
            raise ValueError(f"index_patches: border is {border!r}; expected one of {BORDERS}")
        if padding < 0:
            raise ValueError(f"index_patches: padding is {padding}; it can't be negative")
    counts = jnp.asarray(np.array([grid.num_high, grid.num_low], np.int32))
    tables: list[Array] = []
    if extension.resolve(implementation) == "ffi":
        for first in range(0, len(layers), _LAYERS_A_CALL):
            tables += _compiled_patches(grid, layers[first : first + _LAYERS_A_CALL])
    else:
        for layer in layers:
            tables += _reference_patches(grid, *layer)
    parts = zip(tables[::3], tables[1::3], tables[2::3], strict=True)
    return [IndexPatches(high, low, means, counts) for high, low, means in parts]


def _compiled_patches(
    grid: BlockGrid, layers: Sequence[tuple[int, int, Border]]
) -> tuple[Array, ...]:
    shapes: list[tuple[int, ...]] = []
    for size, padding, _ in layers:
        low_size = size // grid.low_factor
        side, low_side = size + 2 * padding, low_size + 2 * padding
        halos = grid.num_high * ring_size(low_size, padding)
        shapes += [(grid.num_high, side, side), (grid.num_low, low_side, low_side)]
        shapes += [(halos, grid.low_factor**2)]
    return ffi_call.call(
        "segblocks_layer_tables",
        (grid.mask, grid.slots, grid.high_cells, grid.low_cells),
        [(shape, jnp.int32) for shape in shapes],
        low_factor=grid.low_factor,
        block_sizes=[size for size, _, _ in layers],
        paddings=[padding for _, padding, _ in layers],
        borders=[BORDERS.index(border) for _, _, border in layers],
    )


@functools.partial(jax.jit, static_argnames=("block_size", "padding", "border"))
def _reference_patches(
    grid: BlockGrid, block_size: int, padding: int, border: Border
) -> tuple[Array, ...]:
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
