"""Training augmentation: random scale and crop, color jitter, flip.

The order is the authors': crop, resize, jitter, flip. Work on 8-bit images in Pillow's and OpenCV's C
loops, which release the interpreter lock, so that reader threads run side by side. Resizing is
Pillow's: its bicubic filter widens where it shrinks, OpenCV's would alias.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import IGNORE

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's and OpenCV's gray.


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the defaults are the published Cityscapes settings.

    Attributes:
        crop: (height, width) of the result.
        scale: the region cut out has s times the crop's size, s uniform in this range. (1, 1)
            keeps the image's own resolution.
        flip: probability of a horizontal flip.
        brightness, contrast, saturation: factor uniform in [1 - x, 1 + x].
        hue: shift uniform in [-x, x], in turns of the color circle, x <= 0.5.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1

    def __post_init__(self):
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise InputError(f"Augmentation: crop must be two sizes >= 1, got {self.crop}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"Augmentation: scale must be 0 < low <= high, got {self.scale}")
        limits = {"flip": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise InputError(f"Augmentation: {name} must lie in 0..{limit}, got {self!r}")

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        label: UInt8[np.ndarray, "h w"],
        rng: np.random.Generator,
        fill: tuple[int, int, int],
    ) -> tuple[UInt8[np.ndarray, "ch cw 3"], UInt8[np.ndarray, "ch cw"]]:
        """Augments an RGB image and its label of train ids to the size `crop`; `rng` makes every random choice.

        Parts of the crop that lie outside the image have the color `fill` and the label `IGNORE`.
        """
        import cv2

        region = self._region(image.shape[:2], rng)
        picture = _scale_crop(image, region, self.crop, fill, Image.Resampling.BICUBIC)
        target = _scale_crop(label, region, self.crop, IGNORE, Image.Resampling.NEAREST)
        picture = self._jitter(picture, rng)
        if rng.random() < self.flip:
            picture, target = cv2.flip(picture, 1), cv2.flip(target, 1)
        return picture, target

    def _region(self, shape, rng) -> tuple[int, int, int, int]:
        """Draws left, upper, right, lower of the region to cut; on each axis image or region lies in the other."""
        scale = rng.uniform(*self.scale)
        extent = [max(1, round(scale * side)) for side in self.crop]
        top, left = (
            int(rng.integers(min(0, have - want), max(0, have - want), endpoint=True))
            for have, want in zip(shape, extent, strict=True)
        )
        return left, top, left + extent[1], top + extent[0]

    def _jitter(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes brightness, contrast, saturation and hue, in random order."""
        changes = _brightness, _contrast, _saturation, _hue
        strengths = self.brightness, self.contrast, self.saturation, self.hue
        for i in rng.permutation(len(changes)):
            change, strength = changes[i], strengths[i]
            if strength > 0:
                image = change(image, rng.uniform(-strength, strength))
        return image


def _scale_crop(
    pixels: np.ndarray,
    region: tuple[int, int, int, int],
    size: tuple[int, int],
    fill: tuple[int, int, int] | int,
    resampling: Image.Resampling,
) -> np.ndarray:
    """Resizes a region, that may overhang, to `size`; pixels not wholly inside the image are `fill`."""
    result = np.empty((*size, *pixels.shape[2:]), np.uint8)
    inside, source = [], []
    for have, want, begin, end in zip(
        pixels.shape, size, region[1::-1], region[:1:-1], strict=False
    ):
        extent = end - begin
        first = -(-max(0, -begin) * want // extent)
        last = min(extent, have - begin) * want // extent
        inside.append(slice(first, last))
        source.append((begin + first * extent / want, begin + last * extent / want))
    if any(s.stop - s.start < n for s, n in zip(inside, size, strict=True)):
        result[:] = fill
    (top, bottom), (left, right) = source
    y, x = int(top), int(left)
    cut = pixels[y : math.ceil(bottom), x : math.ceil(right)]
    target = result[tuple(inside)]
    if target.size:
        box = (left - x, top - y, right - x, bottom - y)
        target[:] = Image.fromarray(cut).resize(target.shape[1::-1], resampling, box)
    return result


# Each changes a picture by an amount that is uniform around 0: a factor of 1 + amount, or a turn.


def _brightness(image: np.ndarray, amount: float) -> np.ndarray:
    return _map_values(image, (1 + amount) * np.arange(256))


def _contrast(image: np.ndarray, amount: float) -> np.ndarray:
    import cv2

    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return _map_values(image, mean + (1 + amount) * (np.arange(256) - mean))


def _saturation(image: np.ndarray, amount: float) -> np.ndarray:
    """Moves every pixel away from its gray, or toward it: one linear map of the three channels."""
    import cv2

    return cv2.transform(image, (1 + amount) * np.eye(3) - amount * _LUMA)


def _hue(image: np.ndarray, amount: float) -> np.ndarray:
    """Turns the hue by a fraction of the color circle, in 256 steps."""
    import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * amount) % 256)  # uint8 wraps as the circle does.
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _map_values(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))
