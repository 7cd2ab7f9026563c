"""IndexPatches: where a window operation on a packed list finds its pixels, halos included."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from segblocks_jax.ops import no_type_check

Border = Literal["zero", "image", "block"]
BORDERS = ("zero", "image", "block")


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class IndexPatches:
    """For every block, the rows of a packed pixel list that its padded patch consists of.

    An index is -1 for zeros, below the length R of the list a row of it, and from R on a *halo mean*: number
    g is the mean of the rows ``means[g]``. Units of any shape will do, down to single pixels, so masks
    finer than blocks can be served as well.

    Attributes:
        high: (units, height, width), int32.
        low: (units, height, width), int32; units of another size, which follow in the output.
        means: (halos, q), int32; one that no patch reads may have -1.
        counts: (2,), int32: how many units of `high` and `low` there are to do, the first ones.
    """

    high: Int[Array, "mh hh hw"]
    low: Int[Array, "ml lh lw"]
    means: Int[Array, "g q"]
    counts: Int[Array, "2"]

    def inset(
        self, vertical: int, horizontal: int, shift: tuple[int, int] = (0, 0)
    ) -> "IndexPatches":
        """The patches without their outer `vertical` rows and `horizontal` columns, and `shift` more at the start."""
        inner = (slice(None), _inner(vertical, shift[0]), _inner(horizontal, shift[1]))
        return dataclasses.replace(self, high=self.high[inner], low=self.low[inner])

    def num_outputs(self, window: tuple[int, int], stride: int) -> int:
        """Number of output pixels of a window operation, when all units run."""
        return sum(
            units * ((height - window[0]) // stride + 1) * ((width - window[1]) // stride + 1)
            for units, height, width in (self.high.shape, self.low.shape)
            if units
        )


def _inner(margin: int, shift: int) -> slice:
    return slice(margin + shift, -margin or None)


@dataclasses.dataclass(frozen=True)
class Taps:
    """A window of taps: its (height, width), how far windows and how far neighboring taps are apart."""

    size: tuple[int, int]
    stride: int
    dilation: int

    @property
    def extent(self) -> tuple[int, int]:
        """What it covers of a patch."""
        height, width = (self.dilation * (side - 1) + 1 for side in self.size)
        return height, width


@functools.partial(jax.jit, static_argnames=("shape", "padding", "border"))
def image_patches(
    shape: tuple[int, int, int], padding: tuple[int, int], border: Border = "zero"
) -> IndexPatches:
    """The patches of whole images of (n, h, w), each one unit; `border` as for `index_patches`.

    The dense network runs on them through the same convolution as the blocks.
    """
    n, h, w = shape
    py, px = padding
    rows = jnp.arange(n * h * w, dtype=jnp.int32).reshape(shape)
    return IndexPatches(
        high=surround(rows, ((0, 0), (py, py), (px, px)), border),
        low=jnp.zeros((0, 2 * py + 1, 2 * px + 1), jnp.int32),
        means=jnp.zeros((0, 1), jnp.int32),
        counts=jnp.asarray(np.array([n, 0], np.int32)),
    )


def list_patches(pixels: int) -> IndexPatches:
    """Every pixel of a list, in order: for a 1x1 convolution."""
    return image_patches((1, pixels, 1), (0, 0))


@jax.jit
def gather(
    rows: Float[Array, "r c"], patches: IndexPatches
) -> tuple[Float[Array, "mh hh hw c"], Float[Array, "ml lh lw c"]]:
    """The pixels of all patches."""
    zero = jnp.zeros((1, rows.shape[1]), rows.dtype)
    halos = rows.astype(jnp.float32)[patches.means].mean(1).astype(rows.dtype)
    source = jnp.concatenate([zero, rows, halos])
    return source[patches.high + 1], source[patches.low + 1]


@jax.jit
def gather_bytes(
    rows: UInt8[Array, "r c"], zero: UInt8[Array, "1"], patches: IndexPatches
) -> tuple[UInt8[Array, "mh hh hw c"], UInt8[Array, "ml lh lw c"]]:
    """The pixels of all patches of bytes, of which `zero` lies outside; halo means are rounded, up in the middle."""
    reads = patches.means.shape[1]
    halos = (2 * rows.astype(jnp.int32)[patches.means].sum(1) + reads) // (2 * reads)
    outside = jnp.broadcast_to(zero[:, None], (1, rows.shape[1]))
    source = jnp.concatenate([outside, rows, halos.astype(jnp.uint8)])
    return source[patches.high + 1], source[patches.low + 1]


def surround(
    indices: Int[Array, "m h w"], around: tuple[tuple[int, int], ...], border: Border
) -> Int[Array, "m ph pw"]:
    """Index maps with indices around them: -1 for "zero", else those at their edges."""
    if border == "zero":
        return jnp.pad(indices, around, constant_values=-1)
    return jnp.pad(indices, around, "edge")


def ring_size(side: int, padding: int) -> int:
    """Number of pixels within `padding` of the border of a square."""
    return side**2 - max(side - 2 * padding, 0) ** 2
