"""combine on the compiled handlers."""

from jaxtyping import Array, Float

from segblocks_jax.blocks.dual_res import block_size
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops.linear_call import LinearCall


def combine(
    pixels: Float[Array, "p c"], grid: BlockGrid, low_upsampling: str
) -> Float[Array, "n h w c"]:
    """Returns the image of packed blocks; see `segblocks_jax.combine`."""
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
