"""From images of any size to those that a network sees: in training at random, in evaluation always the same.

Each is called as ``augmentation(image, label, rng, fill)`` on 8-bit RGB and gives an image of the size `crop`, and
the label unchanged, so that `segblocks_jax.data.train_batches` takes it. Resizing is Pillow's bilinear, whose
filter widens where it shrinks, as in torchvision.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segblocks_jax.errors import InputError

_TRIES = 10
_BLACK = (0, 0, 0)
Pixels = UInt8[np.ndarray, "h w 3"]
Cut = UInt8[np.ndarray, "ch cw 3"]


def _check(name: str, crop: tuple[int, int], flip: float) -> None:
    if len(crop) != 2 or min(crop) < 1:
        raise InputError(f"{name}: crop must be two sizes >= 1, got {crop}")
    if not 0 <= flip <= 1:
        raise InputError(f"{name}: flip must lie in 0..1, got {flip}")


@dataclasses.dataclass(frozen=True)
class PadCropFlip:
    """CIFAR's: black pixels around the image, a crop at a random place, a horizontal flip.

    Attributes:
        crop: (height, width) of the result.
        padding: pixels added on each side.
        flip: probability of the flip.

    Source: He et al., arXiv 1512.03385, section 4.2.
    """

    crop: tuple[int, int]
    padding: int = 4
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check("PadCropFlip", self.crop, self.flip)
        if self.padding < 0:
            raise InputError(f"PadCropFlip: padding must be 0 or more, got {self.padding}")

    def __call__(
        self, image: Pixels, label: Any, rng: np.random.Generator, fill: Any = _BLACK
    ) -> tuple[Cut, Any]:
        """A crop of one image; raises InputError where the padded image is smaller. `fill` plays no part."""
        p = self.padding
        padded = np.pad(image, ((p, p), (p, p), (0, 0)))
        room = [have - want for have, want in zip(padded.shape, self.crop, strict=False)]
        if min(room) < 0:
            raise InputError(
                f"PadCropFlip: an image of {image.shape[0]} x {image.shape[1]} with {p} pixels around it is smaller"
                f" than the crop {self.crop}; choose a smaller crop, or the augmentation 'resized_crop'"
            )
        top, left = (int(rng.integers(0, most, endpoint=True)) for most in room)
        cut = padded[top : top + self.crop[0], left : left + self.crop[1]]
        return _flipped(cut, self.flip, rng), label


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """ImageNet's: a region of random area and aspect ratio, resized to `crop`, and a horizontal flip.

    Attributes:
        crop: (height, width) of the result.
        scale: range of the region's area over the image's.
        ratio: range of the region's width over its height; its logarithm is uniform.
        flip: probability of the flip.

    Where ten regions don't fit into the image, it is the largest central one whose ratio is in range.

    Source: Szegedy et al., arXiv 1409.4842, section 6; torchvision's `RandomResizedCrop`.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check("RandomResizedCrop", self.crop, self.flip)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(
                f"RandomResizedCrop: scale must be 0 < low <= high <= 1, got {self.scale}"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"RandomResizedCrop: ratio must be 0 < low <= high, got {self.ratio}")

    def __call__(
        self, image: Pixels, label: Any, rng: np.random.Generator, fill: Any = _BLACK
    ) -> tuple[Cut, Any]:
        """A resized region of one image. `fill` plays no part."""
        top, left, height, width = self.region(image.shape[:2], rng)
        cut = image[top : top + height, left : left + width]
        return _flipped(_resize(cut, self.crop), self.flip, rng), label

    def region(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws (top, left, height, width) of the region in an image of (height, width)."""
        height, width = shape
        for _ in range(_TRIES):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*map(math.log, self.ratio)))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                return int(top), int(left), h, w
        (low, high), h, w = self.ratio, height, width
        if width < low * height:
            h = max(1, round(width / low))
        elif width > high * height:
            w = max(1, round(height * high))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Evaluation's: the shorter side resized to `resize`, then the central `crop`; also as training without chance.

    Attributes:
        crop: (height, width) of the result.
        resize: pixels of the shorter side; None keeps the image's size.

    What a smaller image lacks is black, as in torchvision's `CenterCrop`.
    """

    crop: tuple[int, int]
    resize: int | None = None

    def __post_init__(self) -> None:
        _check("CenterCrop", self.crop, 0.0)
        if self.resize is not None and self.resize < 1:
            raise InputError(
                f"CenterCrop: resize must be a number of pixels >= 1, got {self.resize}"
            )

    def __call__(
        self, image: Pixels, label: Any = None, rng: Any = None, fill: Any = _BLACK
    ) -> tuple[Cut, Any]:
        """The center of one image. `rng` and `fill` play no part."""
        height, width = image.shape[:2]
        if self.resize is not None and self.resize != min(height, width):
            longer = int(self.resize * max(height, width) / min(height, width))
            size = (self.resize, longer) if height <= width else (longer, self.resize)
            image = _resize(image, size)
        missing = [max(0, want - have) for have, want in zip(image.shape, self.crop, strict=False)]
        if any(missing):
            around = [(m // 2, m - m // 2) for m in missing]
            image = np.pad(image, [*around, (0, 0)])
        top, left = (
            round((have - want) / 2) for have, want in zip(image.shape, self.crop, strict=False)
        )
        return image[top : top + self.crop[0], left : left + self.crop[1]], label


def _resize(image: Pixels, size: tuple[int, int]) -> Cut:
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def _flipped(image: Pixels, probability: float, rng: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < probability else image)
