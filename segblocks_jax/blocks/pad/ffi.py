"""block_pad on the compiled handlers."""

from jaxtyping import Array, Float

from segblocks_jax.blocks.dual_res import block_size
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops.linear_call import LinearCall


def pad(
    pixels: Float[Array, "p c"], grid: BlockGrid, padding: tuple[int, int]
) -> tuple[Float[Array, "n_high bh bw c"], Float[Array, "n_low lh lw c"]]:
    """Returns the padded high and low blocks; see `segblocks_jax.block_pad`."""
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
