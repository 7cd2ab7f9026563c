"""Convolution without padding of many equally sized maps, in jnp, by the fastest route of the backend.

XLA's CPU convolution of a batch of small maps runs at a third of the speed of one large map, and its
gradients at a tenth (docs/performance.md has the measurements); so on the CPU a batch becomes one tall
map, or products over gathered rows. All routes give the same numbers up to rounding.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.ops import ffi_call

_LAYOUT = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.jit, static_argnames=("stride", "groups", "dilation"))
def valid_convolution(
    maps: Float[Array, "m h w c"],
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "m ho wo k"]:
    """Convolves every map, without padding: ho = (h - dilation (kh - 1) - 1) // stride + 1, wo likewise."""
    kh, kw, channels, features = kernel.shape
    if kh == kw == groups == 1:
        maps = maps[:, ::stride, ::stride]
        return (maps.reshape(-1, channels) @ kernel[0, 0]).reshape(*maps.shape[:3], features)
    if not maps.size or jax.default_backend() != "cpu":
        return _convolve(maps, kernel, stride, groups, dilation)
    if groups == features == maps.shape[3]:
        return _depthwise(*ffi_call.vary_alike(maps, kernel), stride, dilation)
    if groups > 1:
        return _convolve(maps, kernel, stride, groups, dilation)
    if channels >= 256 or (channels >= 64 and stride > 1):
        return _products(maps, kernel, stride, dilation)
    if maps.shape[1] % stride == 0:
        return _tall(maps, kernel, stride, dilation)
    return _convolve(maps, kernel, stride, groups, dilation)


def _convolve(maps: Array, kernel: Array, stride: int, groups: int, dilation: int) -> Array:
    return lax.conv_general_dilated(
        maps,
        kernel,
        (stride, stride),
        "VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=groups,
    )


def _tall(maps: Array, kernel: Array, stride: int, dilation: int) -> Array:
    # The maps are stacked vertically, which moves no data; rows that mix two maps are dropped.
    m, h, w, channels = maps.shape
    extent = dilation * (kernel.shape[0] - 1) + 1
    # Negative where windows lie apart: the last rows are then dropped before.
    below = (0, extent - stride, 0)
    tall = lax.pad(
        maps.reshape(1, m * h, w, channels),
        jnp.zeros((), maps.dtype),
        ((0, 0, 0), below, (0, 0, 0), (0, 0, 0)),
    )
    out = _convolve(tall, kernel, stride, 1, dilation)
    rows = (h - extent) // stride + 1
    return out.reshape(m, h // stride, *out.shape[2:])[:, :rows]


def _depthwise_sum(maps: Array, kernel: Array, stride: int, dilation: int) -> Array:
    # XLA's grouped convolution runs below 1 GMAC/s here; sums of shifted maps fuse into one loop.
    out = jnp.zeros((), maps.dtype)
    for i, row in enumerate(_taps(maps, kernel.shape, stride, dilation)):
        for j, tap in enumerate(row):
            out = out + tap * kernel[i, j, 0][None, None, None]
    return out


_depthwise = jax.custom_vjp(_depthwise_sum, nondiff_argnums=(2, 3))


def _depthwise_forward(
    maps: Array, kernel: Array, stride: int, dilation: int
) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(maps, kernel, stride, dilation), (maps, kernel)


def _depthwise_backward(
    stride: int, dilation: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    maps, kernel = saved
    (to_maps,) = jax.linear_transpose(
        lambda maps: _depthwise_sum(maps, kernel, stride, dilation), maps
    )(cotangent)

    def to_kernel(one: tuple[Array, Array]) -> Array:
        # Of all maps at once, XLA makes a loop that reads memory once a tap; one map stays in the cache.
        taps = _taps(one[0][None], kernel.shape, stride, dilation)
        sums = [[(tap[0] * one[1]).sum((0, 1), jnp.float32) for tap in row] for row in taps]
        return jnp.stack([jnp.stack(row) for row in sums])[:, :, None]

    return to_maps, lax.map(to_kernel, (maps, cotangent)).sum(0).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _products(maps: Array, kernel: Array, stride: int, dilation: int) -> Array:
    # One product a kernel row: with the whole window at once, the gathered matrix leaves the cache.
    _, kw, channels, features = kernel.shape
    out = jnp.zeros((), maps.dtype)
    for i, row in enumerate(_taps(maps, kernel.shape, stride, dilation)):
        gathered = jnp.concatenate(row, -1)
        product = gathered.reshape(-1, kw * channels) @ kernel[i].reshape(-1, features)
        out = out + product.reshape(*gathered.shape[:3], features)
    return out


def _taps(
    maps: Array, kernel_shape: tuple[int, ...], stride: int, dilation: int
) -> Iterator[list[Array]]:
    """For each kernel row, the maps as each of its taps sees them."""
    m, h, w, channels = maps.shape
    kh, kw = (dilation * (k - 1) + 1 for k in kernel_shape[:2])
    ho, wo = (h - kh) // stride + 1, (w - kw) // stride + 1
    for i in range(0, kh, dilation):
        yield [
            lax.slice(
                maps,
                (0, i, j, 0),
                (m, i + stride * (ho - 1) + 1, j + stride * (wo - 1) + 1, channels),
                (1, stride, stride, 1),
            )
            for j in range(0, kw, dilation)
        ]
