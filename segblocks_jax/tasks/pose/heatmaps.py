"""Joints as heat maps: the targets of training, and joints from heat maps.

Arrays of NumPy or JAX, but for `decode`; heat maps are (n, h, w, joints), points (n, joints, 2) as (x, y).
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.pose.affine import move, person_affine
from segblocks_jax.tasks.pose.joints import MIRRORED

Maps = Float[Array | np.ndarray, "n h w joints"]
Points = Float[Array | np.ndarray, "n joints 2"]
_REFINEMENT = 0.25


def targets(
    joints: Points,
    visible: Num[Array | np.ndarray, "n joints"] | Bool[Array | np.ndarray, "n joints"],
    image_size: tuple[int, int],
    size: tuple[int, int],
    sigma: float | int = 2,
) -> tuple[Maps, Float[Array | np.ndarray, "n joints"]]:
    """The heat maps that a network is to give, and the weight of each.

    A map is ``exp(-d**2 / (2 * sigma**2))`` of the distance d to the joint's nearest pixel, within 3 sigma in both
    axes, else 0. Its weight is 0 where the joint is invisible or this square lies outside; as published, the square
    that ends one pixel before the first row or column is weighted, though empty.

    Args:
        joints: in pixels of the crop.
        visible: above 0.5 for those that are visible, their weight.
        image_size: (height, width) of the crop.
        size: (height, width) of the maps.
        sigma: in pixels of the maps.

    Returns:
        Maps (n, height, width, joints) and weights (n, joints), of the joints' type.

    Raises:
        InputError: sigma is below 1 or no whole number.
    """
    if sigma < 1 or sigma != int(sigma):
        raise InputError(f"targets: sigma is {sigma}; expected a whole number of pixels, 1 or more")
    xp: Any = joints.__array_namespace__()
    kind, reach = joints.dtype, 3 * int(sigma)
    (height, width), (image_height, image_width) = size, image_size
    stride = xp.asarray([image_width / width, image_height / height], dtype=kind)
    middle = xp.trunc(joints / stride[None, None] + 0.5)
    limit = xp.asarray([width, height], dtype=kind)[None, None]
    outside = xp.any((middle - reach >= limit) | (middle + reach + 1 < 0), axis=-1)
    weight = xp.where(outside, xp.zeros_like(joints[..., 0]), visible.astype(kind))
    x = xp.arange(width, dtype=kind)[None, None, :, None] - middle[:, None, None, :, 0]
    y = xp.arange(height, dtype=kind)[None, :, None, None] - middle[:, None, None, :, 1]
    near = (xp.abs(x) <= reach) & (xp.abs(y) <= reach) & (weight > 0.5)[:, None, None, :]
    maps = xp.exp(-(x * x + y * y) / (2.0 * sigma**2))
    return xp.where(near, maps, xp.zeros_like(maps)), weight


def peaks(heatmaps: Maps) -> tuple[Points, Float[Array | np.ndarray, "n joints"]]:
    """The pixel of each map's maximum, the first in order of rows, and the maximum; (0, 0) if that isn't above 0."""
    xp: Any = heatmaps.__array_namespace__()
    n, height, width, joints = heatmaps.shape
    flat = heatmaps.reshape(n, height * width, joints)
    place = xp.argmax(flat, axis=1)
    most = xp.max(flat, axis=1)
    points = xp.stack([place % width, place // width], axis=-1).astype(heatmaps.dtype)
    return xp.where((most > 0)[..., None], points, xp.zeros_like(points)), most


def decode(
    heatmaps: Float[np.ndarray, "n h w joints"],
    centers: Num[np.ndarray, "n 2"],
    scales: Num[np.ndarray, "n"],
    *,
    refine: bool = True,
) -> tuple[Float[np.ndarray, "n joints 2"], Float[np.ndarray, "n joints"]]:
    """Joints in the image, in float64, and the maxima of their maps.

    Maxima move a quarter of a pixel toward the larger neighbor in each axis, unless they are in the first two or
    the last row or column.

    Args:
        heatmaps: of crops of people.
        centers: of the people, in the image.
        scales: of the people, as for `person_affine`.
        refine: whether maxima move.
    """
    places, most = map(np.asarray, peaks(heatmaps))
    points = places.astype(np.float64)
    if refine:
        points += _REFINEMENT * _slopes(heatmaps, points)
    size = heatmaps.shape[1:3]
    back = [
        person_affine(center, float(scale), size, inverse=True)
        for center, scale in zip(centers, scales, strict=True)
    ]
    moved = [move(own, affine) for own, affine in zip(points, back, strict=True)]
    return np.stack(moved) if moved else points, most


def _slopes(
    heatmaps: Float[np.ndarray, "n h w joints"], points: Float[np.ndarray, "n joints 2"]
) -> Float[np.ndarray, "n joints 2"]:
    """The signs of the differences of a pixel's neighbors in x and y; 0 near the border."""
    n, height, width, joints = heatmaps.shape
    x, y = np.moveaxis(points.astype(int), -1, 0)
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    x, y = np.where(inner, x, 1), np.where(inner, y, 1)
    if min(height, width) < 3:
        return np.zeros(points.shape)
    at = np.arange(n)[:, None], np.arange(joints)[None]

    def value(dx: int, dy: int) -> np.ndarray:
        return heatmaps[at[0], y + dy, x + dx, at[1]]

    slopes = np.stack([value(1, 0) - value(-1, 0), value(0, 1) - value(0, -1)], -1)
    return np.where(inner[..., None], np.sign(slopes), 0).astype(np.float64)


def mirror_back(heatmaps: Maps, *, shift: bool = True) -> Maps:
    """The heat maps of mirrored images as those of the images: mirrored, left and right joints exchanged.

    With `shift` they move a pixel to the right, the first column stays: a mirrored pixel's map lies that much aside,
    since pixel 0 lies at 0 in crops and in maps.
    """
    xp: Any = heatmaps.__array_namespace__()
    found = heatmaps[:, :, ::-1][..., np.array(MIRRORED)]
    return xp.concatenate([found[:, :, :1], found[:, :, :-1]], axis=2) if shift else found


def with_mirrored(network: Any, image: Float[Array, "n h w 3"], *, shift: bool = True) -> jax.Array:
    """The mean of a network's heat maps and those of the mirrored images; ``network(image)`` gives maps."""
    return (network(image) + mirror_back(network(image[:, :, ::-1]), shift=shift)) * 0.5
