"""combine: checks its arguments and picks an implementation."""

from typing import Literal

import jax
from jaxtyping import Array, Float

from segblocks_jax.blocks.combine import ffi, reference
from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import check_dtype


@jax.named_scope("combine")
def combine(
    blocks: DualRes,
    low_upsampling: Literal["bilinear", "nearest"] = "bilinear",
    *,
    implementation: str | None = None,
) -> Float[Array, "n h w c"]:
    """Puts blocks back together: high ones are copied, low ones upsampled by the low factor.

    Each low block is upsampled alone: bilinear has half-pixel centers and clamps at the block's own
    border; nearest repeats pixels.

    Args:
        blocks: blocks of float32, bfloat16 or float16 pixels.
        low_upsampling: "bilinear" or "nearest".
        implementation: "ffi", "xla", or None for the compiled handler where there is one.

    Raises:
        TypeError: wrong dtype.
        ValueError: unknown `low_upsampling`, or pixels that are no whole blocks.

    Source: SegBlocks (arXiv 2011.12025), section 3.2.
    """
    if low_upsampling not in ("bilinear", "nearest"):
        raise ValueError(
            f"combine: low_upsampling is {low_upsampling!r}; expected 'bilinear' or 'nearest'"
        )
    pixels = check_dtype("combine", "blocks", blocks.pixels)
    run = ffi.combine if extension.resolve(implementation) == "ffi" else reference.combine
    return run(pixels, blocks.grid, low_upsampling)
