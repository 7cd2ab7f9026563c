"""Pooling and upsampling of images and of blocks."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from segblocks_jax.blocks import DualRes, block_pad
from segblocks_jax.errors import InputError
from segblocks_jax.exact import exact
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.regions import BlockOptions, Features
from segblocks_jax.nn.scope import recordable
from segblocks_jax.ops.max_pool import maxima
from segblocks_jax.ops.upsample2 import upsample_bilinear


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

    After a ReLU, this equals padding with minus infinity. `BlockOptions.padding` says what blocks are padded with.
    """
    if isinstance(features, Probe):
        return features.through(stride)
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


@recordable
@jax.named_scope("average_pool")
def average_pool(image: Float[Array, "n h w c"], window: int) -> Float[Array, "n oh ow c"]:
    """Means over windows side by side; rows and columns that fill none are left out."""
    n, h, w, c = image.shape
    rows, columns = h // window, w // window
    whole = image[:, : rows * window, : columns * window]
    return whole.reshape(n, rows, window, columns, window, c).mean((2, 4))


def _window_means(length: int, windows: int) -> np.ndarray:
    matrix = np.zeros((windows, length), np.float32)
    for i in range(windows):
        start, stop = i * length // windows, -(-(i + 1) * length // windows)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


@recordable
@jax.named_scope("upsample2")
def upsample2(features: Features, semantics: BlockOptions) -> Features:
    """Bilinear upsampling by 2, half-pixel centers, clamped at the border of the image.

    In blocks, `BlockOptions.interpolation` decides whether the neighbors are read or every block is
    clamped at its own border.
    """
    if isinstance(features, Probe):
        return features.through(stride=1, upsampling=2)
    if not isinstance(features, DualRes):
        return upsample_bilinear(features, 2)
    channels = features.pixels.shape[1]
    if semantics.interpolation == "block":
        parts = [upsample_bilinear(part, 2) for part in (features.high, features.low)]
    else:
        padded = block_pad(features, 1)
        grid = features.grid
        parts = [
            upsample_bilinear(clamp_at_image_border(part, cells, grid.mask.shape), 2)[:, 2:-2, 2:-2]
            for part, cells in ((padded.high, grid.high_cells), (padded.low, grid.low_cells))
        ]
    return dataclasses.replace(
        features, pixels=jnp.concatenate([part.reshape(-1, channels) for part in parts])
    )


@functools.partial(jax.jit, static_argnames=("grid_shape", "padding"))
def clamp_at_image_border(
    padded: Float[Array, "m h w c"],
    cells: Int[Array, "m"],
    grid_shape: tuple[int, ...],
    padding: tuple[int, int] = (1, 1),
) -> Float[Array, "m h w c"]:
    """Padded blocks with the image's outermost pixels repeated, where `block_pad` leaves zeros.

    `cells` are the blocks' places in a grid (n, gh, gw); they are padded by (vertical, horizontal) pixels.
    """
    _, gh, gw = grid_shape
    row, column = cells // gw % gh, cells % gw
    padded = _repeat_border(padded, 1, padding[0], row == 0, row == gh - 1)
    return _repeat_border(padded, 2, padding[1], column == 0, column == gw - 1)


def _repeat_border(padded: Array, axis: int, padding: int, first: Array, last: Array) -> Array:
    def lines(start: int, stop: int) -> Array:
        return lax.slice_in_dim(padded, start, stop, axis=axis)

    if not padding:
        return padded
    end = padded.shape[axis]
    before, after = lines(padding, padding + 1), lines(end - padding - 1, end - padding)
    start = jnp.where(first[:, None, None, None], before, lines(0, padding))
    stop = jnp.where(last[:, None, None, None], after, lines(end - padding, end))
    return jnp.concatenate([start, lines(padding, end - padding), stop], axis)


def resize_bilinear(
    image: Float[Array, "n h w c"], size: tuple[int, int]
) -> Float[Array, "n oh ow c"]:
    """Bilinear resize: half-pixel centers, clamped at the border, no antialiasing."""
    return jax.image.resize(
        image, (image.shape[0], *size, image.shape[3]), "bilinear", antialias=False
    )


@recordable
@jax.named_scope("resize_aligned")
def resize_aligned(
    image: Float[Array, "n h w c"], size: tuple[int, int]
) -> Float[Array, "n oh ow c"]:
    """Bilinear resize with aligned corners: pixel i of the result lies at ``i * (h - 1) / (oh - 1)`` of the image.

    An axis of the same length is left as it is; a single pixel lies at the start. PyTorch's ``align_corners=True``.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        if image.shape[axis] != length:
            image = _resize_axis(image, axis, length)
    return image


def _resize_axis(image: Array, axis: int, length: int) -> Array:
    before = image.shape[axis]
    place = np.arange(length) * ((before - 1) / max(length - 1, 1))
    low = np.minimum(place.astype(np.int64), max(before - 2, 0))
    high = np.minimum(low + 1, before - 1)
    shape = [length if i == axis else 1 for i in range(image.ndim)]
    share = jnp.asarray((place - low).reshape(shape), image.dtype)
    first, second = (image.take(jnp.asarray(at), axis) for at in (low, high))
    return first * (1 - share) + second * share


def at_scale(
    net: Callable[[Float[Array, "n sh sw c"]], PyTree[Float[Array, "n lh lw _k"]]],
    image: Float[Array, "n h w c"],
    scale: float,
    stride: int = 4,
) -> PyTree[Float[Array, "n oh ow _k"]]:
    """A network's logits of an image made smaller, at the size that they have at scale 1: ``h / stride``.

    The image is resized with antialiasing, the logits bilinearly.

    Args:
        net: gives logits, or a tree of them; it may have any stride itself.
        image: sides are multiples of `scaled_multiple(scale)`.
        scale: side of what the network sees over the side of the image.
        stride: side of the image over the side of the result.
    """
    if scale == 1:
        return net(image)
    n, h, w, c = image.shape
    size = scaled_size((h, w), scale)
    smaller = jax.image.resize(image, (n, *size, c), "linear", antialias=True)
    full = h // stride, w // stride
    return jax.tree.map(lambda logits: resize_bilinear(logits, full), net(smaller))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) that `at_scale` gives an image of `size` to the network."""
    return round(size[0] * scale), round(size[1] * scale)


def scaled_multiple(scale: float, multiple: int = 32) -> int:
    """The smallest side that is a multiple of `multiple` pixels after scaling as before.

    Raises:
        ValueError: the scale is no fraction of 1 with a denominator up to 8.

    Example:
        >>> scaled_multiple(0.75)
        128
    """
    ratio = exact(scale).limit_denominator(8) if 0 < scale <= 1 else None
    if not ratio or abs(float(ratio) - scale) > 1e-6:
        raise InputError(
            f"input_scale is {scale}; expected a fraction above 0, up to 1, with a denominator up to 8,"
            " such as 0.5 or 0.75, so that sides stay whole"
        )
    return multiple * ratio.denominator
