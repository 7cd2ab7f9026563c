"""The named table of shapes and grids on which block operations are tested and timed."""

import dataclasses

import jax.numpy as jnp
import numpy as np

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Case:
    """A batch of images in blocks.

    Attributes:
        grid: images, rows and columns of blocks.
        block_size: side of a high block in pixels.
        channels: of the image.
        share: of high blocks.
        low_factor: side of a high block over the side of a low one.
        large: of a published network's size: for benchmarks, too slow for numpy loops.
    """

    grid: tuple[int, int, int]
    block_size: int
    channels: int
    share: float = 0.5
    low_factor: int = 2
    large: bool = False

    @property
    def low_size(self) -> int:
        """Side of a low block in pixels."""
        return self.block_size // self.low_factor

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(n, h, w, c)."""
        n, rows, columns = self.grid
        return n, rows * self.block_size, columns * self.block_size, self.channels

    def mask(self) -> np.ndarray:
        """A random mask with exactly the share, rounded, of high blocks."""
        total = int(np.prod(self.grid))
        ranks = np.random.default_rng(1).permutation(total)
        return (ranks < round(self.share * total)).reshape(self.grid)

    def integers(self, shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
        """Whole numbers from -4 to 4: their means and interpolations round nowhere in float32."""
        values = np.random.default_rng(seed).integers(-4, 5, shape)
        return values.astype(jnp.dtype(dtype))

    def image(self, dtype: str = "float32", seed: int = 0) -> np.ndarray:
        """Normally distributed pixels."""
        values = np.random.default_rng(seed).standard_normal(self.image_shape)
        return values.astype(jnp.dtype(dtype))


CASES = {
    "two_images": Case((2, 3, 4), 8, 5),
    "prime_grid": Case((1, 5, 7), 4, 3, share=0.4),
    "three_images_one_row": Case((3, 1, 5), 6, 2, share=0.6),
    "one_pixel_low": Case((2, 3, 2), 2, 1),
    "single_block": Case((1, 1, 1), 4, 3, share=1.0),
    "all_high": Case((2, 2, 3), 4, 19, share=1.0),
    "all_low": Case((2, 2, 3), 4, 19, share=0.0),
    "factor4": Case((2, 2, 3), 8, 3, low_factor=4),
    "factor4_one_pixel": Case((1, 3, 3), 4, 19, low_factor=4),
    "cityscapes_image": Case((1, 8, 16), 128, 3, share=0.4, large=True),
    "cityscapes_stride4": Case((1, 8, 16), 32, 64, share=0.4, large=True),
    "cityscapes_stride8": Case((1, 8, 16), 16, 128, share=0.4, large=True),
    "cityscapes_stride16": Case((1, 8, 16), 8, 256, share=0.4, large=True),
    "cityscapes_stride32": Case((1, 8, 16), 4, 512, share=0.4, large=True),
}

SMALL = tuple(name for name, case in CASES.items() if not case.large)
