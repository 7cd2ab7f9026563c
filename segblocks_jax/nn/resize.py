"""Upsampling of images and of blocks."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from segblocks_jax.blocks import DualRes, block_pad
from segblocks_jax.errors import InputError
from segblocks_jax.exact import exact
from segblocks_jax.nn.block_options import BlockOptions
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.recording import recordable
from segblocks_jax.nn.regions import Features
from segblocks_jax.ops.upsample import upsample_bilinear


@recordable
@jax.named_scope("upsample2")
def upsample2(features: Features, semantics: BlockOptions) -> Features:
    """Bilinear upsampling by 2, half-pixel centers, clamped at the border of the image.

    In blocks, `BlockOptions.interpolation` decides whether the neighbors are read or every block is
    clamped at its own border.
    """
    if isinstance(features, Probe):
        return features.through(stride=1, padding=1, upsampling=2)
    if not isinstance(features, DualRes):
        return upsample_bilinear(features, 2)
    channels = features.pixels.shape[1]
    if semantics.interpolation == "block":
        parts = [upsample_bilinear(part, 2) for part in (features.high, features.low)]
    else:
        padded = block_pad(features, 1)
        grid = features.grid
        parts = [
            upsample_bilinear(_clamp_at_image_border(part, cells, grid.mask.shape), 2)[
                :, 2:-2, 2:-2
            ]
            for part, cells in ((padded.high, grid.high_cells), (padded.low, grid.low_cells))
        ]
    return dataclasses.replace(
        features, pixels=jnp.concatenate([part.reshape(-1, channels) for part in parts])
    )


def _clamp_at_image_border(
    padded: Float[Array, "m h w c"], cells: Array, grid_shape: tuple[int, ...]
) -> Float[Array, "m h w c"]:
    # block_pad leaves zeros outside the image; bilinear upsampling repeats the outermost pixels.
    _, gh, gw = grid_shape
    row, column = cells // gw % gh, cells % gw
    padded = _repeat_border(padded, 1, row == 0, row == gh - 1)
    return _repeat_border(padded, 2, column == 0, column == gw - 1)


def _repeat_border(
    padded: Float[Array, "m h w c"], axis: int, first: Bool[Array, "m"], last: Bool[Array, "m"]
) -> Float[Array, "m h w c"]:
    def line(index: int) -> Array:
        return lax.slice_in_dim(padded, index, index + 1, axis=axis)

    end = padded.shape[axis]
    start = jnp.where(first[:, None, None, None], line(1), line(0))
    stop = jnp.where(last[:, None, None, None], line(end - 2), line(end - 1))
    inner = lax.slice_in_dim(padded, 1, end - 1, axis=axis)
    return jnp.concatenate([start, inner, stop], axis)


def resize_bilinear(
    image: Float[Array, "n h w c"], size: tuple[int, int]
) -> Float[Array, "n oh ow c"]:
    """Bilinear resize: half-pixel centers, clamped at the border, no antialiasing."""
    return jax.image.resize(
        image, (image.shape[0], *size, image.shape[3]), "bilinear", antialias=False
    )


def at_scale(
    net: Callable[[Float[Array, "n sh sw c"]], Float[Array, "n lh lw k"]],
    image: Float[Array, "n h w c"],
    scale: float,
    stride: int = 4,
) -> Float[Array, "n oh ow k"]:
    """A network's logits of an image made smaller, at the size that they have at scale 1: ``h / stride``.

    The image is resized with antialiasing, the logits bilinearly.

    Args:
        net: gives logits; it may have any stride itself.
        image: sides are multiples of `scaled_multiple(scale)`.
        scale: side of what the network sees over the side of the image.
        stride: side of the image over the side of the result.
    """
    if scale == 1:
        return net(image)
    n, h, w, c = image.shape
    size = scaled_size((h, w), scale)
    smaller = jax.image.resize(image, (n, *size, c), "linear", antialias=True)
    return resize_bilinear(net(smaller), (h // stride, w // stride))


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
