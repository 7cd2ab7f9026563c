"""split on the compiled handlers."""

from jaxtyping import Array, Float

from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops.linear_call import LinearCall


def split(image: Float[Array, "n h w c"], grid: BlockGrid) -> Float[Array, "p c"]:
    """Returns the packed pixels of the image's blocks; see `segblocks_jax.split`."""
    side = image.shape[1] // grid.slots.shape[1]
    call = LinearCall(
        target="segblocks_split",
        transpose="segblocks_split_backward",
        operands=(image.shape,),
        results=((grid.num_pixels(side), image.shape[3]),),
        attributes=(("num_high", grid.num_high), ("low_factor", grid.low_factor)),
    )
    (pixels,) = call(image, slots=grid.slots)
    return pixels
