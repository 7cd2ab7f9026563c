"""From an image to the crop around a person, and back: the similarity of a center, a size and a turn.

Points are (x, y) in pixels, sizes (height, width). Pixel 0 lies at 0, and the middle of a crop of 64 pixels at 32.
"""

import numpy as np
from jaxtyping import Float, Num, UInt8

from segblocks_jax.errors import InputError, extra

UNIT = 200.0
"""Pixels of a person's scale of 1."""
Affine = Float[np.ndarray, "2 3"]


def person_affine(
    center: Num[np.ndarray, "2"],
    scale: float | int,
    size: tuple[int, int],
    *,
    degrees: float | int = 0.0,
    inverse: bool = False,
) -> Affine:
    """The map from an image to the crop around a person, in float64.

    It scales by ``width / (200 * scale)``, moves `center` to the crop's middle, and turns around it.

    Args:
        center: of the person, in the image.
        scale: width of what the crop shows, in units of 200 pixels.
        size: (height, width) of the crop.
        degrees: turn of the crop's frame, clockwise as seen.
        inverse: gives the map from the crop to the image.

    Raises:
        InputError: a scale or a size that isn't above 0, or numbers that aren't finite.
    """
    middle = np.array(size[::-1], np.float64) / 2
    numbers = np.array([*center, scale, degrees], np.float64)
    if not np.isfinite(numbers).all() or scale <= 0 or min(size) < 1:
        raise InputError(
            f"person_affine: center {center}, scale {scale}, degrees {degrees} and size {size}; expected finite"
            " numbers, a scale and sides above 0"
        )
    angle, factor = np.deg2rad(degrees), size[1] / (UNIT * scale)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    origin, target = np.array(center, np.float64), middle
    if inverse:
        turn, factor, origin, target = turn.T, 1 / factor, middle, origin
    linear = factor * turn
    return np.column_stack([linear, target - linear @ origin])


def move(points: Num[np.ndarray, "*n 2"], affine: Affine) -> Float[np.ndarray, "*n 2"]:
    """The points under a map, in float64."""
    return points.astype(np.float64) @ affine[:, :2].T + affine[:, 2]


def crop(
    image: UInt8[np.ndarray, "h w 3"], affine: Affine, size: tuple[int, int]
) -> UInt8[np.ndarray, "ch cw 3"]:
    """The crop of (height, width) pixels that a map gives: bilinear, black outside the image."""
    with extra("train", "crops of people"):
        import cv2
    return cv2.warpAffine(image, affine, size[::-1], flags=cv2.INTER_LINEAR)
