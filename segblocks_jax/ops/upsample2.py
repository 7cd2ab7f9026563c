"""Upsampling of maps by whole factors, in jnp; indexed_upsample2: by 2, of pixels that are found by index."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

from segblocks_jax.ops import by_index, extension
from segblocks_jax.ops.patches import IndexPatches, gather, gather_bytes


@functools.partial(jax.jit, static_argnames=("factor",))
def upsample_nearest(
    blocks: Shaped[Array, "m b b c"], factor: int
) -> Shaped[Array, "m b*{factor} b*{factor} c"]:
    """Repeats every pixel factor x factor times."""
    return jnp.repeat(jnp.repeat(blocks, factor, axis=1), factor, axis=2)


@functools.partial(jax.jit, static_argnames=("factor",))
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


@jax.named_scope("indexed_upsample2")
def indexed_upsample2(
    rows: Shaped[Array, "r c"],
    patches: IndexPatches,
    residual: Float[Array, "p c"] | None = None,
    following: tuple[Float[Array, "c"], Float[Array, "c"]] | None = None,
    *,
    implementation: str | None = None,
) -> Shaped[Array, "p c"]:
    """Doubles the size of every patch's inside, half-pixel centers; then adds, normalizes, rectifies.

    ``y = upsampled + residual``; with `following`, ``relu(y * following[0] + following[1])``. Not
    differentiable; `segblocks_jax.nn.upsample2` is.

    Args:
        rows: the pixel list, float32 or bfloat16; or uint8, rounded up in the middle, with neither of the two below.
        patches: units padded by 1, with indices everywhere: see `index_patches` for the borders.
        residual: like the output.
        following: scale and bias in float32.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.
    """
    if rows.dtype == "uint8" and (residual is not None or following is not None):
        raise ValueError("indexed_upsample2: rows of bytes have no residual and no second output")
    if extension.resolve(implementation) != "ffi":
        return _reference(rows, patches, residual, following)
    if rows.dtype != "uint8":
        return _compiled(rows, patches, residual, following)
    return lax.platform_dependent(rows, patches, cpu=_compiled, default=_reference)


@jax.named_scope("indexed_upsample2")
def indexed_upsample2_of_halos(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    *,
    halos: Float[Array, "g c"] | None = None,
    lends: int = 0,
) -> tuple[Float[Array, "p c"], Float[Array, "l c"] | None]:
    """The compiled `indexed_upsample2` of a GPU; `halos` and `lends` as `indexed_conv_of_halos` has them."""
    return _run(rows, patches, None, None, halos, lends)


def _compiled(
    rows: Array,
    patches: IndexPatches,
    residual: Array | None = None,
    following: tuple[Array, Array] | None = None,
) -> Array:
    return _run(rows, patches, residual, following)[0]


def _run(
    rows: Array,
    patches: IndexPatches,
    residual: Array | None,
    following: tuple[Array, Array] | None,
    halos: Array | None = None,
    lends: int = 0,
) -> tuple[Array, Array | None]:
    channels = rows.shape[1]
    pixels = sum(m * (h - 2) * (w - 2) * 4 for m, h, w in (patches.high.shape, patches.low.shape))
    nothing = jnp.zeros(0, jnp.float32)
    residual = jnp.zeros((0, channels), rows.dtype) if residual is None else residual
    units, height, _ = patches.high.shape
    ring = by_index.lent_halos(units, 2 * (height - 2), lends)
    out, *lent = by_index.call(
        "segblocks_indexed_upsample2",
        (rows, patches, (residual, *(following or (nothing, nothing))), halos),
        ((pixels, channels),),
        ((ring, channels),) if ring else (),
    )
    return out, lent[0] if lent else None


def _reference(
    rows: Array,
    patches: IndexPatches,
    residual: Array | None = None,
    following: tuple[Array, Array] | None = None,
) -> Array:
    found = (
        gather_bytes(rows, jnp.zeros(1, rows.dtype), patches)
        if rows.dtype == "uint8"
        else gather(rows, patches)
    )
    wide = (part.astype(jnp.float32) for part in found)
    inner = [upsample_bilinear(part, 2)[:, 2:-2, 2:-2] for part in wide]
    out = jnp.concatenate([part.reshape(-1, rows.shape[1]) for part in inner])
    if residual is not None:
        out = out + residual.astype(jnp.float32)
    if following is not None:
        out = jax.nn.relu(out * following[0][None] + following[1][None])
    if rows.dtype == "uint8":
        out = jnp.floor(out + 0.5)
    return out.astype(rows.dtype)
