"""Pictures of masks: each block's over the image, and the computation at every pixel as a heat map."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.ops.mask_patches import dilate
from segblocks_jax.systems.dynconv.run import Costs
from segblocks_jax.tasks.segmentation.pictures import side_by_side

# From little to much, even in lightness, and told apart with every common color blindness: viridis at five points.
_RAMP = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float)
_DIM = 0.25  # Of the image where a mask isn't active.
_SMALLEST = 96  # Side of a picture; smaller images are enlarged.
_COLUMNS = 8


def computation(
    masks: Sequence[Bool[np.ndarray, "1 _h _w"]], cost: Costs, size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """The share of the blocks' operations that is executed at each pixel of an image.

    A mask's pixel stands for all of the image's pixels that it covers.

    Args:
        masks: of the blocks, of one image.
        cost: of the blocks, in the same order.
        size: (height, width) of the image.
    """
    executed, total = np.zeros(size), 0.0
    for mask, macs, dilated_macs, stride in zip(masks, *cost, strict=True):
        dilated = np.asarray(dilate(mask, stride))
        for active, each in ((mask[0], macs), (dilated[0], dilated_macs)):
            operations = each * active.size / (size[0] * size[1])  # At a pixel of the image.
            executed += operations * _enlarged(active, size)
            total += operations
    return executed / total if total else executed


def heat_map(
    image: UInt8[np.ndarray, "h w 3"], shares: Float[np.ndarray, "sh sw"], alpha: float = 0.7
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays shares from 0 (violet) to 1 (yellow) over a gray image.

    Raises:
        InputError: image and shares differ in size.
    """
    if image.shape[:2] != shares.shape:
        raise InputError(f"heat_map: shares {shares.shape} for an image {image.shape[:2]}")
    place = np.clip(shares, 0, 1) * (len(_RAMP) - 1)
    color = np.stack([np.interp(place, range(len(_RAMP)), _RAMP[:, c]) for c in range(3)], -1)
    gray = image.astype(float).mean(-1, keepdims=True)
    return np.rint((1 - alpha) * gray + alpha * color).astype(np.uint8)


def over_image(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mh mw"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image, dark where a mask isn't active."""
    factor = np.where(_enlarged(mask, image.shape[:2]), 1.0, _DIM)
    return np.rint(image * factor[..., None]).astype(np.uint8)


def draw(
    image: UInt8[np.ndarray, "h w 3"], masks: Sequence[Bool[np.ndarray, "1 _h _w"]], cost: Costs
) -> Mapping[str, UInt8[np.ndarray, "_ _ 3"]]:
    """`masks`, a sheet of all blocks' with their numbers and shares of active pixels; `computation`, the heat map."""
    height, width = image.shape[:2]
    factor = max(1, -(-_SMALLEST // min(height, width)))
    large = image.repeat(factor, 0).repeat(factor, 1)
    panels = [over_image(large, mask[0]) for mask in masks]
    titles = [f"{i}: {mask.mean():.0%}" for i, mask in enumerate(masks, 1)]
    rows = [
        side_by_side(panels[i : i + _COLUMNS], titles[i : i + _COLUMNS])
        for i in range(0, len(panels), _COLUMNS)
    ]
    widest = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(r, ((0, 0), (0, widest - r.shape[1]), (0, 0))) for r in rows])
    shares = computation(masks, cost, large.shape[:2])
    heat = side_by_side(
        [large, heat_map(large, shares)], ["image", f"executed {shares.mean():.0%}"]
    )
    return {"masks": sheet, "computation": heat}


def _enlarged(mask: Bool[np.ndarray, "mh mw"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Each pixel of the result has the value of the mask's that covers it."""
    rows, columns = (
        np.arange(side) * own // side for side, own in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns[None]]
