"""Layout: where the pixels of a fused network's lists lie, and the index tables that follow from it."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from segblocks_jax.blocks import BlockGrid
from segblocks_jax.blocks.pad import index_patches, layer_patches
from segblocks_jax.ops.patches import Border, IndexPatches, image_patches


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the pixels of a packed list lie.

    Attributes:
        units: the grid of the blocks; or the number of whole images, one unit of work each.
        sides: (block size,) of a high block at this layer; or (h, w) of the images.
        cache: the patches made so far, of all sizes.
    """

    units: BlockGrid | int
    sides: tuple[int, ...]
    cache: dict[tuple, IndexPatches] = dataclasses.field(default_factory=dict)

    def patches(self, padding: int, border: Border = "zero") -> IndexPatches:
        """Where the units of work find their pixels; made once, for all layers of a size."""
        key = (self.sides, padding, border)
        if key not in self.cache:
            if isinstance(self.units, BlockGrid):
                patches = index_patches(self.units, self.sides[0], padding, border)
            else:
                height, width = self.sides
                shape = (self.units, height, width)
                patches = image_patches(shape, (padding, padding), border)
            self.cache[key] = patches
        return self.cache[key]

    def blocks(self) -> IndexPatches:
        """The pixels of the blocks themselves, each block a unit of work."""
        assert isinstance(self.units, BlockGrid)
        (side,), grid = self.sides, self.units
        low_side = side // grid.low_factor
        rows = np.arange(grid.num_pixels(side), dtype=np.int32)
        high, low = np.split(rows, [grid.num_high * side**2])
        return IndexPatches(
            high=jnp.asarray(high.reshape(grid.num_high, side, side)),
            low=jnp.asarray(low.reshape(grid.num_low, low_side, low_side)),
            means=jnp.zeros((0, 1), jnp.int32),
            counts=jnp.asarray(np.array([grid.num_high, grid.num_low], np.int32)),
        )

    def prepare(self, keys: Sequence[tuple[tuple[int, ...], int, Border]]) -> None:
        """Makes the patches of blocks of so many (sides, padding, border) at once."""
        if isinstance(self.units, BlockGrid):
            layers = [(sides[0], padding, border) for sides, padding, border in keys]
            self.cache.update(zip(keys, layer_patches(self.units, layers), strict=True))

    def scaled(self, numerator: int, denominator: int = 1) -> "Layout":
        """The layout of a layer with sides `numerator / denominator` times as long, rounded up as strides do."""
        sides = tuple(-(-side * numerator // denominator) for side in self.sides)
        return dataclasses.replace(self, sides=sides)
