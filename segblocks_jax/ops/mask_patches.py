"""Sites: the active pixels of a mask as a list and its inverse, and the patches of a convolution at those alone.

All is built on the device, of arrays as long as the mask has pixels; how many entries count is an array as well, so
that one executable serves every mask.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.patches import IndexPatches, Taps


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """The active pixels of a mask (n, h, w), in order; a packed list has a row for each.

    Attributes:
        pixels: (n h w,), the number of each site's pixel; behind the last site, 0.
        rows: (n, h, w), the number of each pixel's site; -1 where there is none.
        count: how many sites there are.
    """

    pixels: Int[Array, "p"]
    rows: Int[Array, "n h w"]
    count: Int[Array, ""]

    @classmethod
    def of(cls, mask: Bool[Array, "n h w"]) -> "Sites":
        """The sites of a mask."""
        flat = mask.reshape(-1)
        number = jnp.cumsum(flat, dtype=jnp.int32)
        rows = jnp.where(flat, number - 1, -1)
        total = flat.size
        every = jnp.arange(total, dtype=jnp.int32)
        places = jnp.where(flat, rows, total + every)
        pixels = jnp.zeros(total, jnp.int32).at[places].set(every, mode="drop", unique_indices=True)
        return cls(pixels, rows.reshape(mask.shape), jnp.sum(flat, dtype=jnp.int32))

    @property
    def counts(self) -> Int[Array, "2"]:
        """As `IndexPatches` has them."""
        return jnp.stack([self.count, jnp.zeros_like(self.count)])

    def in_order(self) -> IndexPatches:
        """Every site's own row: for a 1x1 convolution of the sites' list."""
        every = jnp.arange(self.pixels.size, dtype=jnp.int32)
        return _single(every[:, None, None], self.counts)

    def patches(
        self, source: Int[Array, "n sh sw"], window: Taps, padding: tuple[int, int]
    ) -> IndexPatches:
        """Where a zero-padded convolution of the map `source` finds its pixels, for the output pixels at the sites.

        `source` has the row of each pixel in the list that is convolved, -1 for zeros: pixel numbers where the list
        is the whole image, or another mask's `rows`.
        """
        _, h, w = self.rows.shape
        (py, px), (eh, ew) = padding, window.extent
        # A mask of a stride may be larger than the image divided by it.
        wanted = (h - 1) * window.stride + eh, (w - 1) * window.stride + ew
        around = [(0, 0, 0)] + [
            (p, size - side - p, 0)
            for p, size, side in zip((py, px), wanted, source.shape[1:], strict=True)
        ]
        padded = jax.lax.pad(source, jnp.int32(-1), around)
        image, y, x = self.pixels // (h * w), self.pixels // w % h, self.pixels % w
        ph, pw = wanted
        first = (image * ph + y * window.stride) * pw + x * window.stride
        dy = jnp.arange(window.size[0], dtype=jnp.int32) * window.dilation
        dx = jnp.arange(window.size[1], dtype=jnp.int32) * window.dilation
        offsets = dy[:, None] * pw + dx[None]
        places = first[:, None, None] + offsets[None]
        return _single(padded.reshape(-1)[places], self.counts)


def pixel_numbers(shape: tuple[int, int, int]) -> Int[Array, "n h w"]:
    """The number of each pixel of images of (n, h, w)."""
    n, h, w = shape
    return jnp.arange(n * h * w, dtype=jnp.int32).reshape(shape)


def _single(high: Int[Array, "p kh kw"], counts: Int[Array, "2"]) -> IndexPatches:
    _, kh, kw = high.shape
    low, means = jnp.zeros((0, kh, kw), jnp.int32), jnp.zeros((0, 1), jnp.int32)
    return IndexPatches(high, low, means, counts)
