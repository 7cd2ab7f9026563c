"""Convolution of patches that were gathered, in jnp: what `indexed_conv` is defined by."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from segblocks_jax.ops.patches import IndexPatches, Taps


def in_order(high: Array, low: Array, patches: IndexPatches) -> Array:
    """Maps (m, h, w, k) of high and of low units as the list of output rows: low units follow the live high ones."""
    units, (high, low) = patches.high.shape[0], (x.reshape(-1, x.shape[-1]) for x in (high, low))
    out = jnp.concatenate([high, low])
    if high.shape[0] and low.shape[0]:
        start = patches.counts[0] * (high.shape[0] // units)
        out = lax.dynamic_update_slice(out, low, (start, jnp.zeros_like(start)))
    return out


def convolved(
    maps: Array, taps: Array, window: Taps, dtype: jax.typing.DTypeLike = "float32"
) -> Array:
    """Maps (m, h, w, c) convolved with taps, see `PackedKernel.taps`; products and sums are of `dtype`."""
    # Sums of products of one tap round less than one long product: half the error at 9 x 64 terms.
    (_, kw), (eh, ew), stride = window.size, window.extent, window.stride
    m, h, w, channels = maps.shape
    ho, wo = (h - eh) // stride + 1, (w - ew) // stride + 1
    out = jnp.zeros((m, ho, wo, taps.shape[-1]), dtype)
    if not m:
        return out
    for t, weight in enumerate(taps):
        y, x = t // kw * window.dilation, t % kw * window.dilation
        stop = (m, y + stride * (ho - 1) + 1, x + stride * (wo - 1) + 1, channels)
        tap = lax.slice(maps, (0, y, x, 0), stop, (1, stride, stride, 1))
        if taps.ndim == 2:
            product = tap.astype(dtype) * weight.astype(dtype)[None, None, None]
        else:
            product = jnp.einsum("mhwc,ck->mhwk", tap, weight, preferred_element_type=dtype)
        out = out + product
    return out
