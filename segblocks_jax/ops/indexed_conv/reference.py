"""The definition of indexed_conv, in jnp: gather, then one product for each tap of the kernel."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops.indexed_conv.operands import Epilogue, PackedKernel
from segblocks_jax.ops.patches import IndexPatches


def indexed_conv(
    rows: Float[Array, "r c"],
    patches: IndexPatches,
    kernel: PackedKernel,
    stride: int,
    epilogue: Epilogue,
) -> tuple[Float[Array, "p k"] | None, Float[Array, "p k"] | None]:
    """See `segblocks_jax.ops.indexed_conv.api.indexed_conv`."""
    high, low = (
        _convolve(part, kernel, stride).reshape(-1, kernel.features)
        for part in gather(rows, patches)
    )
    # Low units follow the high ones that are live; with all live, this changes nothing.
    out = jnp.concatenate([high, low])
    if high.shape[0] and low.shape[0]:
        start = patches.counts[0] * (high.shape[0] // patches.high.shape[0])
        out = lax.dynamic_update_slice(out, low, (start, jnp.zeros_like(start)))
    return _finish(out, epilogue, rows.dtype)


def gather(
    rows: Float[Array, "r c"], patches: IndexPatches
) -> tuple[Float[Array, "mh hh hw c"], Float[Array, "ml lh lw c"]]:
    """The pixels of all patches."""
    zero = jnp.zeros((1, rows.shape[1]), rows.dtype)
    halos = rows.astype(jnp.float32)[patches.means].mean(1).astype(rows.dtype)
    source = jnp.concatenate([zero, rows, halos])
    return source[patches.high + 1], source[patches.low + 1]


def _convolve(maps: Array, kernel: PackedKernel, stride: int) -> Array:
    # Sums of products of one tap round less than one long product: half the error at 9 x 64 terms.
    kh, kw = kernel.size
    m, h, w, channels = maps.shape
    ho, wo = (h - kh) // stride + 1, (w - kw) // stride + 1
    weights = _taps(kernel.plain())
    out = jnp.zeros((m, ho, wo, kernel.features), jnp.float32)
    if not m:
        return out
    for i in range(kh):
        for j in range(kw):
            stop = (m, i + stride * (ho - 1) + 1, j + stride * (wo - 1) + 1, channels)
            tap = lax.slice(maps, (0, i, j, 0), stop, (1, stride, stride, 1))
            weight = weights[i * kw + j]
            if kernel.depthwise:
                product = tap.astype(jnp.float32) * weight.astype(jnp.float32)[None, None, None]
            else:
                product = jnp.einsum(
                    "mhwc,ck->mhwk", tap, weight, preferred_element_type=jnp.float32
                )
            out = out + product
    return out


def _taps(kernel: PackedKernel) -> Array:
    """(kh kw, c, k), or (kh kw, c) of a depthwise kernel."""
    if kernel.depthwise:
        return kernel.weights
    flat = kernel.weights.swapaxes(0, 1).reshape(kernel.weights.shape[1], -1)[:, : kernel.features]
    return flat.reshape(kernel.size[0] * kernel.size[1], -1, kernel.features)


def _finish(
    out: Array, epilogue: Epilogue, dtype: jax.typing.DTypeLike
) -> tuple[Array | None, Array | None]:
    if epilogue.scale is not None:
        out = out * epilogue.scale[None]
    if epilogue.bias is not None:
        out = out + epilogue.bias[None]
    if epilogue.residual is not None:
        out = out + epilogue.residual.astype(jnp.float32)
    activation = {"none": lambda x: x, "relu": jax.nn.relu, "relu6": jax.nn.relu6}
    out = activation[epilogue.activation](out)
    second = None
    if epilogue.following is not None:
        scale, bias = epilogue.following
        second = jax.nn.relu(out * scale[None] + bias[None]).astype(dtype)
    return (out.astype(dtype) if epilogue.keep else None), second
