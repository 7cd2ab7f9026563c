"""Which blocks of a batch run at high resolution (BlockGrid), and the packed list of their pixels (DualRes).

Blocks of all images share one order: the high blocks first, then the low ones, each kind by its
flattened grid position ``n * gh * gw + row * gw + column``.
"""

import dataclasses
import functools
import math
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Num, Shaped

from segblocks_jax.ops import no_type_check


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class BlockGrid:
    """The resolution of every block of a batch, and the block order that follows from it.

    Build it with `from_mask`: the other fields are derived from the mask.

    Attributes:
        mask: True where the block runs at high resolution.
        slots: position of each block in the block order; high blocks have 0 .. n_high-1.
        high_cells: flattened grid position of each high block, ascending.
        low_cells: flattened grid position of each low block, ascending.
        low_factor: side of a high block over the side of a low one.
    """

    mask: Bool[Array, "n gh gw"]
    slots: Int[Array, "n gh gw"]
    high_cells: Int[Array, "n_high"]
    low_cells: Int[Array, "n_low"]
    low_factor: int = dataclasses.field(default=2, metadata={"static": True})

    @classmethod
    def from_mask(
        cls,
        mask: Bool[Array | np.ndarray, "n gh gw"],
        num_high: int | None = None,
        scores: Num[Array | np.ndarray, "n gh gw"] | None = None,
        low_factor: int = 2,
    ) -> "BlockGrid":
        """Lays out the blocks of `mask`, with exactly `num_high` of them high.

        Where `num_high` exceeds the number of True, the best-scored low blocks turn high; where it is
        smaller, the worst-scored high ones turn low. Ties, and missing scores, go by grid position.

        Args:
            mask: True = high resolution.
            num_high: number of high blocks in the whole batch, static; needed under `jax.jit`.
                Default: the number of True.
            scores: the higher, the sooner a block is high. NaN ranks last.
            low_factor: side of a high block over the side of a low one, at least 1.

        Raises:
            TypeError: the mask is not boolean.
            ValueError: wrong rank, shape or count, or a traced mask without `num_high`.

        Example:
            >>> grid = BlockGrid.from_mask(np.array([[[True, False, True]]]))
            >>> grid.slots.tolist(), grid.high_cells.tolist(), grid.low_cells.tolist()
            ([[[0, 2, 1]]], [0, 2], [1])
        """
        _check_mask(mask)
        if scores is not None and scores.shape != mask.shape:
            raise ValueError(
                f"BlockGrid: scores have shape {scores.shape}, the mask {mask.shape}; give one score a block"
            )
        if low_factor < 1:
            raise ValueError(f"BlockGrid: low_factor is {low_factor}; it must be at least 1")
        if num_high is None:
            num_high = _concrete_count(mask)
        if not 0 <= num_high <= mask.size:
            raise ValueError(
                f"BlockGrid: num_high is {num_high}, but the batch has {mask.size} blocks; give 0 .. {mask.size}"
            )
        high, slots, high_cells, low_cells = _laid_out(mask, scores, num_high)
        return cls(high, slots, high_cells, low_cells, low_factor)

    @property
    def num_high(self) -> int:
        """Number of high blocks in the batch."""
        return self.high_cells.shape[-1]

    @property
    def num_low(self) -> int:
        """Number of low blocks in the batch."""
        return self.low_cells.shape[-1]

    @property
    def num_blocks(self) -> int:
        """Number of blocks in the batch."""
        return self.num_high + self.num_low

    def num_pixels(self, block_size: int) -> int:
        """Length of the packed pixel list where a high block has sides of `block_size` pixels."""
        return self.num_high * block_size**2 + self.num_low * (block_size // self.low_factor) ** 2


def _check_mask(mask: Array | np.ndarray) -> None:
    if mask.ndim != 3:
        raise ValueError(
            f"BlockGrid: the mask has shape {mask.shape}; expected (images, grid rows, grid columns)"
        )
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"BlockGrid: the mask has dtype {mask.dtype}; expected bool, e.g. probabilities > 0.5"
        )


@functools.partial(jax.jit, static_argnames="num_high")
def _laid_out(mask: Array, scores: Array | None, num_high: int) -> tuple[Array, ...]:
    """The arrays of a grid; see `BlockGrid.from_mask`."""
    is_low = ~mask.reshape(-1)
    if scores is None:
        by_rank = jnp.argsort(is_low, stable=True)
    else:
        by_rank = jnp.lexsort((_reversed(scores.reshape(-1)), is_low))
    cells = jnp.arange(mask.size, dtype=jnp.int32)
    high = jnp.zeros(mask.size, bool).at[by_rank[:num_high]].set(True)
    high_before = jnp.cumsum(high, dtype=jnp.int32) - high.astype(jnp.int32)
    slots = jnp.where(high, high_before, num_high + cells - high_before)
    by_slot = jnp.zeros_like(cells).at[slots].set(cells)
    maps = high.reshape(mask.shape), slots.reshape(mask.shape)
    return *maps, by_slot[:num_high], by_slot[num_high:]


def _reversed(scores: Array) -> Array:
    # The negative of an unsigned or of the smallest integer wraps around.
    return ~scores if jnp.issubdtype(scores.dtype, jnp.integer) else -scores


def _concrete_count(mask: Array | np.ndarray) -> int:
    if isinstance(mask, jax.core.Tracer):
        raise ValueError(
            "BlockGrid: the mask is traced, so its number of high blocks is unknown and shapes can't be"
            " static; pass num_high=k, or build the grid outside of jit, vmap and grad"
        )
    return int(np.count_nonzero(np.asarray(mask)))


@jax.tree_util.register_dataclass
@no_type_check
@final
@dataclasses.dataclass(frozen=True, eq=False)
class DualRes:
    """Feature maps in blocks: a pixel list and the grid that says where each pixel belongs.

    The list holds every block's pixels in row-major order, high blocks first, in block order. So pointwise functions,
    batch norm and 1x1 convolutions run once, over `pixels`: ``dataclasses.replace(blocks, pixels=f(blocks.pixels))``.

    Attributes:
        pixels: ``n_high * b**2 + n_low * (b / low_factor)**2`` pixels of c channels, where b is `block_size`.
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
