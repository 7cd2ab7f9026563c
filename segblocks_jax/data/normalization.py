"""Normalization constants of the data sets, and their use."""

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


_CITYSCAPES = Normalization(
    mean=(73.1584 / 255, 82.9090 / 255, 72.3924 / 255),
    std=(44.9149 / 255, 46.1529 / 255, 45.3192 / 255),
)

# Cityscapes: the values that the SegBlocks authors train with, also on Mapillary; CamVid: over
# all pixels of its 367 train images at 480x360.
_CAMVID = Normalization(
    mean=(0.41189, 0.42513, 0.43267),
    std=(0.30707, 0.31161, 0.30722),
)

NORMALIZATION = {
    "cityscapes": _CITYSCAPES,
    "cityscapes_coarse": _CITYSCAPES,
    "street_scenes": _CITYSCAPES,
    "mapillary": _CITYSCAPES,
    "mapillary_v2": _CITYSCAPES,
    "camvid": _CAMVID,
    "camvid_full": _CAMVID,
}


def normalize(
    image: UInt8[Array | np.ndarray, "... 3"],
    mean: Sequence[float] | Array | np.ndarray,
    std: Sequence[float] | Array | np.ndarray,
) -> Float32[Array, "... 3"]:
    """Scales 8-bit images to zero mean and unit deviation: `(image / 255 - mean) / std`.

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
