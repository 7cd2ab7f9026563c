"""block_pad: checks its arguments and picks an implementation."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.pad import ffi, reference
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import check_dtype, no_type_check

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
    run = ffi.pad if extension.resolve(implementation) == "ffi" else reference.pad
    return PaddedBlocks(*run(pixels, blocks.grid, (py, px)))
