"""IndexPatches: where a window operation on blocks finds its pixels, halos included."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from segblocks_jax.blocks import extension, ffi_call
from segblocks_jax.blocks.checks import no_type_check
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.pad import reference as pad_reference

Border = Literal["zero", "image", "block"]
_BORDERS = ("zero", "image", "block")


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class IndexPatches:
    """For every block, the rows of a packed pixel list that its padded patch consists of.

    An index is -1 for zeros, below the length R of the list a row of it, and from R on a *ghost*: ghost
    g is the mean of the rows ``means[g]``. Units of any shape will do, down to single pixels, so masks
    finer than blocks can be served as well.

    Attributes:
        high: (units, height, width), int32.
        low: (units, height, width), int32; units of another size, which follow in the output.
        means: (ghosts, q), int32; a ghost that no patch reads may have -1.
        counts: (2,), int32: how many units of `high` and `low` there are to do, the first ones.
    """

    high: Int[Array, "mh hh hw"]
    low: Int[Array, "ml lh lw"]
    means: Int[Array, "g q"]
    counts: Int[Array, "2"]

    def inset(self, vertical: int, horizontal: int) -> "IndexPatches":
        """The patches without their outer `vertical` rows and `horizontal` columns."""
        inner = (slice(None), _inner(vertical), _inner(horizontal))
        return dataclasses.replace(self, high=self.high[inner], low=self.low[inner])

    def num_outputs(self, window: tuple[int, int], stride: int) -> int:
        """Number of output pixels of a window operation, when all units run."""
        return sum(
            units * ((height - window[0]) // stride + 1) * ((width - window[1]) // stride + 1)
            for units, height, width in (self.high.shape, self.low.shape)
            if units
        )


def _inner(margin: int) -> slice:
    return slice(margin, -margin) if margin else slice(None)


def index_patches(
    grid: BlockGrid,
    block_size: int,
    padding: int,
    border: Border = "zero",
    *,
    implementation: str | None = None,
) -> IndexPatches:
    """The patches of blocks padded on all sides, as `segblocks_jax.block_pad` pads them.

    Args:
        grid: the blocks.
        block_size: side of a high block, in pixels of the layer.
        padding: pixels on each side, at each block's own resolution.
        border: what lies outside of the image: "zero"; "image" repeats the outermost pixels of the
            image; "block" those of the block, and no neighbour is read.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        ValueError: an unknown border, or padding larger than a high block.
    """
    if border not in _BORDERS:
        raise ValueError(f"index_patches: border is {border!r}; expected one of {_BORDERS}")
    if not 0 <= padding <= block_size:
        raise ValueError(
            f"index_patches: padding is {padding}; expected 0 to the block size, {block_size}"
        )
    counts = jnp.asarray(np.array([grid.num_high, grid.num_low], np.int32))
    if extension.resolve(implementation) == "ffi":
        return IndexPatches(*_compiled(grid, block_size, padding, border), counts)
    return IndexPatches(*_reference(grid, block_size, padding, border), counts)


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
        high=_surround(rows, ((0, 0), (py, py), (px, px)), border),
        low=jnp.zeros((0, 2 * py + 1, 2 * px + 1), jnp.int32),
        means=jnp.zeros((0, 1), jnp.int32),
        counts=jnp.asarray(np.array([n, 0], np.int32)),
    )


def list_patches(pixels: int) -> IndexPatches:
    """Every pixel of a list, in order: for a 1x1 convolution."""
    return image_patches((1, pixels, 1), (0, 0))


def _compiled(
    grid: BlockGrid, block_size: int, padding: int, border: Border
) -> tuple[Array, Array, Array]:
    side, low_side = block_size + 2 * padding, block_size // grid.low_factor + 2 * padding
    ghosts = grid.num_high * ring_size(block_size // grid.low_factor, padding)
    shapes = (
        (grid.num_high, side, side),
        (grid.num_low, low_side, low_side),
        (ghosts, grid.low_factor**2),
    )
    high, low, means = ffi_call.call(
        "segblocks_index_tables",
        (grid.mask, grid.slots, grid.high_cells, grid.low_cells),
        [(shape, jnp.int32) for shape in shapes],
        (
            ("block_size", block_size),
            ("low_factor", grid.low_factor),
            ("padding", padding),
            ("border", _BORDERS.index(border)),
        ),
    )
    return high, low, means


def _reference(
    grid: BlockGrid, block_size: int, padding: int, border: Border
) -> tuple[Array, Array, Array]:
    rows = jnp.arange(grid.num_pixels(block_size), dtype=jnp.int32)
    blocks = DualRes(rows[:, None], grid)
    ghosts, means = _ghosts(blocks, padding)
    if border == "block":
        around = ((0, 0), (padding, padding), (padding, padding))
        high, low = (_surround(part[..., 0], around, border) for part in (blocks.high, blocks.low))
        return high, low, means
    high, low = pad_reference.windows_of(
        blocks, ghosts, (padding, padding), "edge" if border == "image" else -1
    )
    return high[..., 0], low[..., 0], means


def _surround(
    indices: Int[Array, "m h w"], around: tuple[tuple[int, int], ...], border: Border
) -> Int[Array, "m ph pw"]:
    if border == "zero":
        return jnp.pad(indices, around, constant_values=-1)
    return jnp.pad(indices, around, "edge")


def ring_size(side: int, padding: int) -> int:
    """Number of pixels within `padding` of the border of a square."""
    return side**2 - max(side - 2 * padding, 0) ** 2


def _ghosts(blocks: DualRes, padding: int) -> tuple[Array, Array]:
    """The high blocks averaged, as ghost indices (-1 where no patch reads), and what each averages."""
    factor, low_side = blocks.grid.low_factor, blocks.low_size
    position = np.arange(low_side)
    near = (position < padding) | (position >= low_side - padding)
    ring = (near[:, None] | near[None, :]).reshape(-1)
    positions = np.where(ring, np.cumsum(ring) - 1, -1).reshape(1, low_side, low_side, 1)
    block = np.arange(blocks.grid.num_high)[:, None, None, None]
    first = blocks.pixels.shape[0] + block * ring.sum()
    ghosts = np.where(positions >= 0, first + positions, -1).astype(np.int32)
    sources = blocks.high.reshape(-1, low_side, factor, low_side, factor).swapaxes(2, 3)
    means = sources.reshape(-1, low_side**2, factor**2)[:, np.flatnonzero(ring)]
    return jnp.asarray(ghosts), means.reshape(-1, factor**2)
