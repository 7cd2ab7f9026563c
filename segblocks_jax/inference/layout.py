"""Layout: where the pixels of a packed list lie, for blocks and for whole images alike."""

import dataclasses

from segblocks_jax.blocks import BlockGrid
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.ops.patches import Border, IndexPatches, image_patches

Cache = dict[tuple, IndexPatches]


@dataclasses.dataclass(frozen=True, eq=False)
class BlockLayout:
    """The layout of a `DualRes`.

    Attributes:
        grid: the blocks.
        block_size: side of a high block at this layer.
        cache: the patches made so far, of all sizes.
    """

    grid: BlockGrid
    block_size: int
    cache: Cache = dataclasses.field(default_factory=dict)

    def patches(self, padding: int, border: Border = "zero") -> IndexPatches:
        """Where the units of work find their pixels; made once, for all layers of a size."""
        key = (self.block_size, padding, border)
        if key not in self.cache:
            self.cache[key] = index_patches(self.grid, self.block_size, padding, border)
        return self.cache[key]

    def scaled(self, numerator: int, denominator: int = 1) -> "BlockLayout":
        """The layout of a layer with sides `numerator / denominator` times as long."""
        side = self.block_size * numerator // denominator
        return dataclasses.replace(self, block_size=side)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageLayout:
    """The layout of whole images, one unit of work each.

    Attributes:
        shape: (n, h, w).
        cache: the patches made so far, of all sizes.
    """

    shape: tuple[int, int, int]
    cache: Cache = dataclasses.field(default_factory=dict)

    def patches(self, padding: int, border: Border = "zero") -> IndexPatches:
        """Where the units of work find their pixels; made once, for all layers of a size."""
        key = (self.shape, padding, border)
        if key not in self.cache:
            self.cache[key] = image_patches(self.shape, (padding, padding), border)
        return self.cache[key]

    def scaled(self, numerator: int, denominator: int = 1) -> "ImageLayout":
        """The layout of a layer with sides `numerator / denominator` times as long."""
        n, *sides = self.shape
        h, w = (side * numerator // denominator for side in sides)
        return dataclasses.replace(self, shape=(n, h, w))


Layout = BlockLayout | ImageLayout
