"""Normalization of images by the mean and standard deviation of their data set."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8


class Normalization(NamedTuple):
    """Mean and standard deviation per channel, RGB, of images scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def fill(self) -> tuple[int, int, int]:
        """The mean as an 8-bit color: what padding is made of, about zero once normalized."""
        red, green, blue = (round(255 * m) for m in self.mean)
        return red, green, blue


def normalize(
    image: UInt8[Array | np.ndarray, "... 3"],
    mean: Sequence[float] | Array | np.ndarray,
    std: Sequence[float] | Array | np.ndarray,
) -> Float32[Array, "... 3"]:
    """Scales 8-bit images to zero mean and unit standard deviation: `(image / 255 - mean) / std`.

    Args:
        image: uint8 RGB, channels last.
        mean: per channel, on [0, 1].
        std: per channel, on [0, 1].

    Returns:
        float32 of the same shape.

    Raises:
        TypeError: the image isn't uint8 (it was probably scaled already).
    """
    if image.dtype != jnp.uint8:
        raise TypeError(f"normalize: image must be uint8 in 0..255, got {image.dtype}")
    channels = (1,) * (image.ndim - 1) + (3,)
    mean, std = (jnp.asarray(v, jnp.float32).reshape(channels) for v in (mean, std))
    return (jnp.asarray(image, jnp.float32) / 255 - mean) / std
