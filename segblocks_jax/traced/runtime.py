"""What a plan needs while it runs: pixel lists of blocks of any sides as parts, padded, combined and split."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from segblocks_jax.blocks import BlockGrid, DualRes, block_pad, combine, split
from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.nn.resampling import clamp_at_image_border

Pixels = Shaped[Array, "p ..."]
Parts = tuple[Shaped[Array, "n_high bh bw ..."], Shaped[Array, "n_low lh lw ..."]]
Side = tuple[int, int]
HALO_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The blocks of one call, and how they run."""

    grid: BlockGrid
    options: BlockOptions

    @property
    def whole(self) -> bool:
        """Whether every image is a single high block: nothing lies around it."""
        return self.grid.mask.shape[1:] == (1, 1) and not self.grid.num_low

    def low(self, side: Side) -> Side:
        """Sides of low blocks."""
        return side[0] // self.grid.low_factor, side[1] // self.grid.low_factor

    def count(self, side: Side) -> int:
        """Length of a list."""
        low = self.low(side)
        return self.grid.num_high * side[0] * side[1] + self.grid.num_low * low[0] * low[1]

    def parts(self, pixels: Pixels, side: Side) -> Parts:
        """High and low blocks of a list."""
        grid, low = self.grid, self.low(side)
        end = grid.num_high * side[0] * side[1]
        rest = pixels.shape[1:]
        return (
            pixels[:end].reshape(grid.num_high, *side, *rest),
            pixels[end:].reshape(grid.num_low, *low, *rest),
        )

    def join(self, high: Array, low: Array) -> Pixels:
        """The list of high and low blocks."""
        rest = high.shape[3:]
        flat = [
            x.reshape(x.shape[0] * x.shape[1] * x.shape[2], *rest) for x in (high, low) if x.size
        ]
        if not flat:
            return high.reshape(0, *rest)
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat)

    def image_of(self, cells: Array) -> Array:
        """The image that each block belongs to."""
        _, rows, columns = self.grid.mask.shape
        return cells // (rows * columns)

    def per_pixel(self, values: Shaped[Array, "n ..."], side: Side) -> Pixels:
        """An array with an entry for each image, repeated for its pixels."""
        parts = []
        sides = (side, self.low(side))
        for cells, (h, w) in zip((self.grid.high_cells, self.grid.low_cells), sides, strict=True):
            own = values[self.image_of(cells)][:, None, None]
            parts.append(jnp.broadcast_to(own, (cells.shape[0], h, w, *values.shape[1:])))
        return self.join(*parts)

    def combine(self, pixels: Pixels, side: Side) -> Shaped[Array, "n h w ..."]:
        """The image of blocks: low ones upsampled, each alone; what isn't a float is repeated."""
        rest = pixels.shape[1:]
        n, rows, columns = self.grid.mask.shape
        if self.whole:
            return pixels.reshape(n, *side, *rest)
        flat = pixels.reshape(pixels.shape[0], int(np.prod(rest)))
        if side[0] == side[1] and flat.dtype in HALO_DTYPES:
            image = combine(DualRes(flat, self.grid), self.options.low_upsampling)
        else:
            high, low = self.parts(flat, side)
            image = self._paste(high, _repeat(low, self.grid.low_factor), self.grid.slots)
        return image.reshape(n, rows * side[0], columns * side[1], *rest)

    def split(self, image: Shaped[Array, "n h w ..."], side: Side) -> Pixels:
        """The blocks of an image: low ones averaged; of what isn't a float, the first of each pixels is kept."""
        n, h, w, *rest = image.shape
        factor = self.grid.low_factor
        if self.whole:
            return image.reshape(n * h * w, *rest)
        flat = image.reshape(n, h, w, int(np.prod(rest)))
        if side[0] == side[1] and flat.dtype in HALO_DTYPES:
            return split(flat, self.grid).pixels.reshape(-1, *rest)
        cells = self._cells(flat, side)
        high, low = cells[self.grid.high_cells], cells[self.grid.low_cells]
        if jnp.issubdtype(flat.dtype, jnp.inexact):
            m, lh, lw = low.shape[0], *self.low(side)
            low = low.reshape(m, lh, factor, lw, factor, low.shape[3]).mean((2, 4))
        else:
            low = low[:, ::factor, ::factor]
        return self.join(high, low).reshape(-1, *rest)

    def pad(self, pixels: Pixels, side: Side, padding: Side, outside: float | str = 0.0) -> Parts:
        """Blocks with the pixels around them, as `block_pad` has them; axes behind the pixels are one.

        `outside` is the value beyond the image, or "edge" for its outermost pixels.
        """
        flat = pixels.reshape(pixels.shape[0], int(np.prod(pixels.shape[1:])))
        py, px = padding
        if self.whole:
            around = ((0, 0), (py, py), (px, px), (0, 0))
            high, low = self.parts(flat, side)
            given: Any = {"mode": "edge"} if outside == "edge" else {"constant_values": outside}
            return jnp.pad(high, around, **given), jnp.pad(low, around)
        if side[0] == side[1] and flat.dtype in HALO_DTYPES:
            padded = block_pad(DualRes(flat, self.grid), padding, mode=self.options.padding)
            high, low = padded.high, padded.low
            if self.options.padding == "clamp":
                return high, low
        else:
            high, low = self._windows(flat, side, padding)
        if outside == 0.0:
            return high, low
        cells = (self.grid.high_cells, self.grid.low_cells)
        filled = [
            self._beyond(part, own, padding, outside)
            for part, own in zip((high, low), cells, strict=True)
        ]
        return filled[0], filled[1]

    def _beyond(self, part: Array, cells: Array, padding: Side, outside: float | str) -> Array:
        if not part.size:
            return part
        if outside == "edge":
            return clamp_at_image_border(part, cells, self.grid.mask.shape, padding)
        _, rows, columns = self.grid.mask.shape
        inside = jnp.ones((1, 1, 1), bool)
        places = ((cells // columns % rows, rows), (cells % columns, columns))
        for axis, (place, number) in enumerate(places):
            size = part.shape[1 + axis]
            at = jnp.arange(size)[None]
            p = padding[axis]
            near = ((at >= p) | (place[:, None] > 0)) & (
                (at < size - p) | (place[:, None] < number - 1)
            )
            inside = inside & (near[:, :, None] if axis == 0 else near[:, None, :])
        return jnp.where(inside[..., None], part, jnp.asarray(outside, part.dtype))

    def _cells(self, image: Array, side: Side) -> Array:
        n, rows, columns = self.grid.mask.shape
        cells = image.reshape(n, rows, side[0], columns, side[1], *image.shape[3:])
        return cells.swapaxes(2, 3).reshape(n * rows * columns, *side, *image.shape[3:])

    def _paste(self, high: Array, low: Array, slots: Array) -> Array:
        n, rows, columns = slots.shape
        h, w = high.shape[1:3]
        blocks = jnp.concatenate([high, low])[slots].swapaxes(2, 3)
        return blocks.reshape(n, rows * h, columns * w, *high.shape[3:])

    def _windows(self, flat: Array, side: Side, padding: Side) -> Parts:
        """`block_pad` of blocks that are not square."""
        high, low = self.parts(flat, side)
        factor, grid = self.grid.low_factor, self.grid
        image = self._paste(high, _repeat(low, factor), grid.slots)
        windows = [self._cut(image, grid.high_cells, side, padding)]
        m, lh, lw = high.shape[0], *self.low(side)
        if grid.num_low:
            averaged = high.reshape(m, lh, factor, lw, factor, high.shape[3]).mean((2, 4))
            averaged = averaged.astype(high.dtype)
            image = self._paste(averaged, low, grid.slots)
            windows.append(self._cut(image, grid.low_cells, (lh, lw), padding))
        else:
            size = (lh + 2 * padding[0], lw + 2 * padding[1])
            windows.append(jnp.zeros((0, *size, flat.shape[1]), flat.dtype))
        return windows[0], windows[1]

    def _cut(self, image: Array, cells: Array, side: Side, padding: Side) -> Array:
        (py, px), (_, rows, columns) = padding, self.grid.mask.shape
        padded = jnp.pad(image, ((0, 0), (py, py), (px, px), (0, 0)))
        down = (cells // columns % rows * side[0])[:, None] + jnp.arange(side[0] + 2 * py)[None]
        along = (cells % columns * side[1])[:, None] + jnp.arange(side[1] + 2 * px)[None]
        return padded[self.image_of(cells)[:, None, None], down[:, :, None], along[:, None, :]]


def _repeat(blocks: Array, factor: int) -> Array:
    return jnp.repeat(jnp.repeat(blocks, factor, axis=1), factor, axis=2)


def dense_runtime(images: int, options: BlockOptions) -> Runtime:
    """The runtime of whole images, each one block."""
    mask = np.ones((images, 1, 1), bool)
    return Runtime(BlockGrid.from_mask(mask), options)


def checkpointed(run: Any, **options: Any) -> Any:
    """A function whose insides the backward pass computes again."""
    return jax.checkpoint(run, **options)
