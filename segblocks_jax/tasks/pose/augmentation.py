"""From an image with a person to the crop that a network sees: in training at random, else always the same."""

import dataclasses

import numpy as np
from jaxtyping import Float32, UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.pose.affine import crop, move, person_affine
from segblocks_jax.tasks.pose.joints import MIRRORED
from segblocks_jax.tasks.pose.person import Person

Pixels = UInt8[np.ndarray, "h w 3"]
Cut = UInt8[np.ndarray, "ch cw 3"]


@dataclasses.dataclass(frozen=True)
class PersonCrop:
    """Cuts out a person; ``crop(image, person, rng, fill)`` gives the crop and its joints (16, 3).

    A joint is (x, y) in pixels of the crop, and 1 where it is visible, else 0.

    Attributes:
        size: (height, width) of the crop.
        scale: standard deviation of the person's size over what is annotated, and the most that it differs.
        rotation: standard deviation of the turn, in degrees; at most twice as much.
        rotated: probability of a turn.
        flip: probability of a mirror image.
        bgr: whether colors are in the order blue, green, red, as the authors' weights want them.

    Without chance (`scale`, `rotation` and `flip` are 0, as by default) it is evaluation's.
    """

    size: tuple[int, int]
    scale: float = 0.0
    rotation: float = 0.0
    rotated: float = 0.6
    flip: float = 0.0
    bgr: bool = False

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"PersonCrop: size must be two numbers >= 1, got {self.size}")
        if not 0 <= self.scale < 1 or self.rotation < 0:
            raise InputError(
                f"PersonCrop: scale must lie in 0..1, below 1, and rotation be 0 or more, got {self.scale} and"
                f" {self.rotation}"
            )
        if not (0 <= self.flip <= 1 and 0 <= self.rotated <= 1):
            raise InputError(
                f"PersonCrop: flip and rotated must lie in 0..1, got {self.flip} and {self.rotated}"
            )

    def __call__(
        self,
        image: Pixels,
        person: Person,
        rng: np.random.Generator | None = None,
        fill: object = None,
    ) -> tuple[Cut, Float32[np.ndarray, "16 3"]]:
        """A crop of one person; `rng` is needed where there is chance, `fill` plays no part."""
        center, scale, degrees = person.center, person.scale, 0.0
        joints, visible = person.joints, person.visible
        if rng is not None:
            size, turn = rng.standard_normal(2)
            scale = scale * float(np.clip(1 + self.scale * size, 1 - self.scale, 1 + self.scale))
            if rng.random() < self.rotated:
                most = 2 * self.rotation
                degrees = float(np.clip(self.rotation * turn, -most, most))
            if rng.random() < self.flip:
                last = image.shape[1] - 1
                image, center = image[:, ::-1], _mirrored(center, last)
                joints, visible = _mirrored(joints, last)[list(MIRRORED)], visible[list(MIRRORED)]
        affine = person_affine(center, scale, self.size, degrees=degrees)
        cut = crop(np.ascontiguousarray(image), affine, self.size)
        label = np.column_stack([move(joints, affine), visible]).astype(np.float32)
        return np.ascontiguousarray(cut[..., ::-1]) if self.bgr else cut, label


def _mirrored(points: np.ndarray, last: int) -> np.ndarray:
    return np.stack([last - points[..., 0], points[..., 1]], -1)
