"""Training augmentation: random scale and crop, colour jitter, flip.

The order is the authors': crop, resize, jitter, flip. Work on 8-bit images with Pillow, whose C
loops release the interpreter lock, so that reader threads run side by side.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from segblocks_jax.data.labels import IGNORE


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to an image; the defaults are the published Cityscapes settings.

    Attributes:
        crop: (height, width) of the result.
        scale: the region cut out has s times the crop's size, s uniform in this range. (1, 1)
            keeps the image's own resolution.
        flip: probability of a horizontal flip.
        brightness: factor uniform in [1 - x, 1 + x]; likewise contrast and saturation.
        contrast: see brightness.
        saturation: see brightness.
        hue: shift uniform in [-x, x], in turns of the colour circle, x <= 0.5.
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
            raise ValueError(f"Augmentation: crop must be two sizes >= 1, got {self.crop}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Augmentation: scale must be 0 < low <= high, got {self.scale}")
        limits = {"flip": 1, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"Augmentation: {name} must lie in 0..{limit}, got {self!r}")

    def __call__(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        label: UInt8[np.ndarray, "h w"],
        rng: np.random.Generator,
        fill: tuple[int, int, int],
    ) -> tuple[UInt8[np.ndarray, "ch cw 3"], UInt8[np.ndarray, "ch cw"]]:
        """Augments one image with its label.

        Args:
            image: RGB.
            label: train ids.
            rng: source of every random choice.
            fill: colour of the parts of the crop that lie outside the image (label `IGNORE`).

        Returns:
            Image and label of size `crop`.
        """
        region = self._region(image.shape[:2], rng)
        size = self.crop[::-1]
        picture = _cut(Image.fromarray(image), region, fill).resize(size, Image.Resampling.BICUBIC)
        target = _cut(Image.fromarray(label), region, IGNORE).resize(size, Image.Resampling.NEAREST)
        picture = self._jitter(picture, rng)
        if rng.random() < self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            target = target.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(picture), np.array(target)

    def _region(self, shape, rng) -> tuple[int, int, int, int]:
        """Draws the region to cut: left, upper, right, lower, possibly beyond the image.

        Along each axis either the region lies inside the image or the image inside the region.
        """
        scale = rng.uniform(*self.scale)
        extent = [max(1, round(scale * side)) for side in self.crop]
        top, left = (
            int(rng.integers(min(0, have - want), max(0, have - want), endpoint=True))
            for have, want in zip(shape, extent, strict=True)
        )
        return left, top, left + extent[1], top + extent[0]

    def _jitter(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Changes brightness, contrast, saturation and hue, in random order."""
        factors = [
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
            (None, self.hue),
        ]
        for i in rng.permutation(len(factors)):
            enhancer, strength = factors[i]
            if strength == 0:
                continue
            if enhancer is None:
                picture = _shift_hue(picture, rng.uniform(-strength, strength))
            else:
                picture = enhancer(picture).enhance(rng.uniform(1 - strength, 1 + strength))
        return picture


def _cut(picture: Image.Image, region: tuple[int, int, int, int], fill) -> Image.Image:
    """Cuts a region that may overhang; what lies outside the picture has the colour `fill`."""
    left, top, right, bottom = region
    if left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height:
        return picture.crop(region)
    canvas = Image.new(picture.mode, (right - left, bottom - top), fill)
    canvas.paste(picture, (-left, -top))
    return canvas


def _shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Turns the hue by a fraction of the colour circle."""
    hue, saturation, value = picture.convert("HSV").split()
    offset = round(256 * turns)
    hue = hue.point([(h + offset) % 256 for h in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
