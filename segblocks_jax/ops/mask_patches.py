"""Sites: the active pixels of a mask as a list and its inverse, and the patches of a convolution at those alone.

`segblocks_jax.ops.mask_tables` makes the same by a compiled handler.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.patches import IndexPatches, Taps


def dilate(mask: Shaped[Array | np.ndarray, "..."], stride: int = 1) -> Bool[Array, "n sh sw"]:
    """The pixels that 3x3 windows around a mask's active pixels read.

    Active pixel (i, j) activates ``stride * i + a, stride * j + b`` for a and b in -1, 0, 1, within a mask `stride`
    times as large. No gradient flows through it.

    Args:
        mask: bool, or numbers, active where above 0.5.
        stride: of the convolution from the dilated mask's pixels to the mask's.

    Raises:
        InputError: the mask has no three axes, or the stride is below 1.
    """
    mask = jnp.asarray(mask)
    if mask.ndim != 3:
        raise InputError(f"dilate: mask has shape {mask.shape}; expected (n, h, w)")
    if stride < 1:
        raise InputError(f"dilate: stride is {stride}; expected at least 1")
    active = mask if mask.dtype == bool else mask > jnp.asarray(0.5, mask.dtype)
    between = (0, stride - 1, stride - 1)
    active = jax.lax.pad(active, jnp.bool_(False), [(0, 0, 0), between, between])
    for axis in (1, 2):
        side = active.shape[axis]
        around = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(active, around)
        first, middle, last = (
            jax.lax.slice_in_dim(padded, i, i + side, axis=axis) for i in range(3)
        )
        active = first | middle | last
    return active


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
        return single_units(every[:, None, None], self.counts)

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
        return single_units(padded.reshape(-1)[places], self.counts)


def pixel_numbers(shape: tuple[int, int, int]) -> Int[Array, "n h w"]:
    """The number of each pixel of images of (n, h, w)."""
    n, h, w = shape
    return jnp.arange(n * h * w, dtype=jnp.int32).reshape(shape)


def single_units(high: Int[Array, "p kh kw"], counts: Int[Array, "2"]) -> IndexPatches:
    """Patches of one size only."""
    _, kh, kw = high.shape
    low, means = jnp.zeros((0, kh, kw), jnp.int32), jnp.zeros((0, 1), jnp.int32)
    return IndexPatches(high, low, means, counts)
