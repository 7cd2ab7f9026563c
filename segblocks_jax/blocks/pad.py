"""block_pad: the definition, the compiled call, and the function that picks one."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from segblocks_jax.blocks.combine import paste
from segblocks_jax.blocks.dual_res import DualRes, block_size
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.split import mean_pool
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import check_dtype, no_type_check
from segblocks_jax.ops.ffi_call import LinearCall
from segblocks_jax.ops.upsample import upsample_nearest

PADDING_MODES = ("block", "zero", "clamp")


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

    A padding pixel outside the image is zero. Any other belongs to the block at its place, at the
    padded block's own resolution: a high block reads a low neighbor's nearest pixel
    (position // low_factor), a low one the mean of a high neighbor's pixels. Corners read the diagonal
    neighbor. So on an all-high grid the padded blocks are windows of the zero-padded image, and on an
    all-low grid windows of the averaged one.

    Args:
        blocks: blocks of float32, bfloat16 or float16 pixels.
        padding: pixels on each side, at each block's own resolution; or (vertical, horizontal). At
            most the side of a high block; beyond a low block's side it reads past the neighbor.
        mode: "block", as above; for comparison, blocks that know nothing of each other: "zero" surrounds
            every block with zeros, "clamp" repeats its outermost pixels, at the border of the image too.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtype.
        ValueError: negative padding, padding larger than a block, or an unknown mode.

    Source: BlockPad of SegBlocks (arXiv 2011.12025), section 3.3.
    """
    pixels = check_dtype("block_pad", "blocks", blocks.pixels)
    py, px = padding if isinstance(padding, tuple) else (padding, padding)
    if min(py, px) < 0:
        raise ValueError(f"block_pad: padding is {padding}; it can't be negative")
    if max(py, px) > blocks.block_size and blocks.grid.num_blocks:
        raise ValueError(
            f"block_pad: padding {padding} is larger than the blocks, which are {blocks.block_size} pixels"
            f" wide here; use a larger block size or a smaller kernel"
        )
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


def _compiled(
    pixels: Float[Array, "p c"], grid: BlockGrid, padding: tuple[int, int]
) -> tuple[Float[Array, "n_high bh bw c"], Float[Array, "n_low lh lw c"]]:
    py, px = padding
    channels = pixels.shape[1]
    side = block_size(pixels.shape[0], grid)
    low_side = side // grid.low_factor
    call = LinearCall(
        target="segblocks_pad",
        transpose="segblocks_pad_backward",
        operands=(pixels.shape,),
        results=(
            (grid.num_high, side + 2 * py, side + 2 * px, channels),
            (grid.num_low, low_side + 2 * py, low_side + 2 * px, channels),
        ),
        attributes=(
            ("num_high", grid.num_high),
            ("low_factor", grid.low_factor),
            ("padding_y", py),
            ("padding_x", px),
        ),
    )
    high, low = call(pixels, slots=grid.slots)
    return high, low
