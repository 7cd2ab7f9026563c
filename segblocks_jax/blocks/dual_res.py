"""DualRes: a batch of feature maps in blocks of two resolutions, as one packed list of pixels."""

import dataclasses
import math
from typing import final

import jax
from jaxtyping import Array, Shaped

from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.ops.checks import no_type_check


@jax.tree_util.register_dataclass
@no_type_check
@final
@dataclasses.dataclass(frozen=True, eq=False)
class DualRes:
    """Feature maps in blocks: a pixel list and the grid that says where each pixel belongs.

    The list holds every block's pixels in row-major order, high blocks first, in block order. So
    pointwise functions, batch norm and 1x1 convolutions run once, over `pixels`:
    ``dataclasses.replace(blocks, pixels=f(blocks.pixels))``.

    Attributes:
        pixels: ``n_high * b**2 + n_low * (b / low_factor)**2`` pixels of c channels, where b is
            `block_size`.
        grid: the blocks' resolutions and order.
    """

    pixels: Shaped[Array, "p c"]
    grid: BlockGrid

    @property
    def block_size(self) -> int:
        """Side b of a high block in pixels, at this layer; it follows from the length of `pixels`."""
        return block_size(self.pixels.shape[0], self.grid)

    @property
    def low_size(self) -> int:
        """Side of a low block in pixels, at this layer."""
        return self.block_size // self.grid.low_factor

    @property
    def high(self) -> Shaped[Array, "n_high b b c"]:
        """The high blocks."""
        side = self.block_size
        return self.pixels[: self.grid.num_high * side**2].reshape(
            self.grid.num_high, side, side, self.pixels.shape[1]
        )

    @property
    def low(self) -> Shaped[Array, "n_low lb lb c"]:
        """The low blocks."""
        side = self.low_size
        return self.pixels[self.grid.num_high * self.block_size**2 :].reshape(
            self.grid.num_low, side, side, self.pixels.shape[1]
        )


def block_size(num_pixels: int, grid: BlockGrid) -> int:
    """Returns the b for which ``grid.num_pixels(b) == num_pixels``; 0 for a batch without blocks.

    Raises:
        ValueError: no b gives this length.
    """
    area = grid.num_high * grid.low_factor**2 + grid.num_low
    side = math.isqrt(num_pixels * grid.low_factor**2 // area) if area else 0
    if grid.num_pixels(side) != num_pixels or (grid.num_low and side % grid.low_factor):
        raise ValueError(
            f"DualRes: {num_pixels} pixels don't fill {grid.num_high} high and {grid.num_low} low blocks"
            f" (low factor {grid.low_factor}) of any size; replace `pixels` by a list of whole blocks"
        )
    return side
