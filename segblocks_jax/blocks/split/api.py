"""split: checks its arguments and picks an implementation."""

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.split import ffi, reference
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import check_dtype


@jax.named_scope("split")
def split(
    image: Float[Array | np.ndarray, "n h w c"],
    mask: Bool[Array | np.ndarray, "n gh gw"] | BlockGrid,
    *,
    num_high: int | None = None,
    scores: Num[Array | np.ndarray, "n gh gw"] | None = None,
    low_factor: int = 2,
    implementation: str | None = None,
) -> DualRes:
    """Cuts images into square blocks: high ones are copied, low ones averaged.

    With b = h / gh, the block at grid position (i, g, k) is ``image[i, g*b:(g+1)*b, k*b:(k+1)*b]``; a
    low block holds the means of its ``low_factor x low_factor`` pixels. The gradient of a low pixel
    goes to its pixels in equal parts.

    Args:
        image: float32, bfloat16 or float16.
        mask: True = high resolution; or a ready grid, with which the next three are not given.
        num_high: static number of high blocks; needed where the mask is traced. See `BlockGrid.from_mask`.
        scores: decides which blocks change where `num_high` is not the number of True.
        low_factor: side of a high block over the side of a low one.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtypes.
        ValueError: the image is no whole number of square blocks, or the grid is of another batch.

    Source: SegBlocks (arXiv 2011.12025), section 3.2.
    """
    if isinstance(mask, BlockGrid):
        if num_high is not None or scores is not None or low_factor != 2:
            raise ValueError(
                "split: a BlockGrid already fixes num_high, scores and low_factor; give it alone"
            )
        grid = mask
    else:
        grid = BlockGrid.from_mask(mask, num_high, scores, low_factor)
    image = check_dtype("split", "image", image)
    _check_shapes(image.shape, grid)
    run = ffi.split if extension.resolve(implementation) == "ffi" else reference.split
    return DualRes(run(image, grid), grid)


def _check_shapes(shape: tuple[int, ...], grid: BlockGrid) -> None:
    if len(shape) != 4:
        raise ValueError(
            f"split: the image has shape {shape}; expected (images, height, width, channels)"
        )
    images, rows, columns = grid.mask.shape
    if shape[0] != images:
        raise ValueError(
            f"split: {shape[0]} images, but the mask is for {images}; give one grid an image"
        )
    if not grid.num_blocks:
        return
    for name, size, count in (("height", shape[1], rows), ("width", shape[2], columns)):
        if size % count or not size:
            raise ValueError(
                f"split: image {name} {size} is not a multiple of the mask's {count} blocks;"
                f" pad it to {max(1, -(-size // count)) * count} or give a mask of another size"
            )
    side = shape[1] // rows
    if shape[2] // columns != side:
        raise ValueError(
            f"split: blocks of {side} x {shape[2] // columns} pixels (image {shape[1]} x {shape[2]}, mask"
            f" {rows} x {columns}); blocks must be square"
        )
    if side % grid.low_factor:
        raise ValueError(
            f"split: block size {side} is not a multiple of the low factor {grid.low_factor};"
            " give a coarser mask or pad the image"
        )
