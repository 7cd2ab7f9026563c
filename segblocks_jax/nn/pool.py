"""Pooling of images and of blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes, block_pad
from segblocks_jax.nn.block_options import BlockOptions
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.recording import recordable
from segblocks_jax.nn.regions import Features
from segblocks_jax.ops.max_pool import maxima


@recordable
@jax.named_scope("max_pool")
def max_pool(
    features: Features,
    window: int,
    stride: int,
    padding: int,
    semantics: BlockOptions | None = None,
) -> Features:
    """Maximum over windows. Pixels outside the image count as 0, as they do for a convolution.

    After a ReLU, this equals padding with minus infinity. `BlockOptions.padding` says what blocks are
    padded with.
    """
    if isinstance(features, Probe):
        return features.through(stride, padding)
    if not isinstance(features, DualRes):
        p = padding
        return maxima(jnp.pad(features, ((0, 0), (p, p), (p, p), (0, 0))), window, stride)
    channels = features.pixels.shape[1]
    padded = block_pad(features, padding, mode=(semantics or BlockOptions()).padding)
    parts = [
        maxima(part, window, stride).reshape(-1, channels) for part in (padded.high, padded.low)
    ]
    return dataclasses.replace(features, pixels=jnp.concatenate(parts))


def adaptive_average_pool(
    image: Float[Array, "n h w c"], size: tuple[int, int]
) -> Float[Array, "n oh ow c"]:
    """Means over a grid of `size` windows: window i covers rows floor(i h / oh) .. ceil((i+1) h / oh)."""
    rows = _window_means(image.shape[1], size[0]).astype(image.dtype)
    columns = _window_means(image.shape[2], size[1]).astype(image.dtype)
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, image, precision=lax.Precision.HIGHEST)


def _window_means(length: int, windows: int) -> np.ndarray:
    matrix = np.zeros((windows, length), np.float32)
    for i in range(windows):
        start, stop = i * length // windows, -(-(i + 1) * length // windows)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
