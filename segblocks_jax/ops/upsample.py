"""Upsampling of maps by whole factors, in jnp."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped


def upsample_nearest(
    blocks: Shaped[Array, "m b b c"], factor: int
) -> Shaped[Array, "m b*{factor} b*{factor} c"]:
    """Repeats every pixel factor x factor times."""
    return jnp.repeat(jnp.repeat(blocks, factor, axis=1), factor, axis=2)


def upsample_bilinear(
    blocks: Float[Array, "m h w c"], factor: int
) -> Float[Array, "m h*{factor} w*{factor} c"]:
    """Bilinear upsampling of each block alone: half-pixel centers, edges clamped, float32 arithmetic."""
    wide = blocks.astype(jnp.float32)
    return _interpolate(_interpolate(wide, 1, factor), 2, factor).astype(blocks.dtype)


def _interpolate(blocks: Array, axis: int, factor: int) -> Array:
    # Output pixel i lies at (i + 1/2) / factor - 1/2 of the input. For each of the `factor` phases the
    # weights are constants and the two pixels read are the input shifted by one.
    side = blocks.shape[axis]
    if not blocks.size:
        return jnp.repeat(blocks, factor, axis)
    first = lax.slice_in_dim(blocks, 0, 1, axis=axis)
    last = lax.slice_in_dim(blocks, side - 1, side, axis=axis)
    clamped = jnp.concatenate([first, blocks, last], axis)
    phases = []
    for phase in range(factor):
        position = (phase + 0.5) / factor - 0.5
        shift = math.floor(position)
        weight = position - shift
        near, far = (
            lax.slice_in_dim(clamped, 1 + shift + i, 1 + shift + i + side, axis=axis)
            for i in (0, 1)
        )
        phases.append((1 - weight) * near + weight * far)
    stacked = jnp.stack(phases, axis + 1)
    return stacked.reshape(*blocks.shape[:axis], side * factor, *blocks.shape[axis + 1 :])
