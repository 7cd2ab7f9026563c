"""Procedural shapes, ten classes: data for classification without a download.

A shape has a random color, place, size and turn, before a background of another color with a gradient; both are
noisy. Image i of a split is the same on every machine and has the class ``i % 10``.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from segblocks_jax.data.classification.items import Item
from segblocks_jax.errors import InputError
from segblocks_jax.tasks.classification.labels import SHAPES

SPLITS = ("train", "val", "test")
_SAMPLES = 3  # Per pixel and axis: edges are smooth.
Plane = Float[np.ndarray, "h w"]


def _star(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    angle = np.mod(np.arctan2(x, -y), 2 * np.pi / 5) - np.pi / 5
    return np.hypot(x, y) * np.cos(np.pi / 5 - np.abs(angle)) < 0.42


def _inside(x: Plane, y: Plane, side: float) -> Bool[np.ndarray, "h w"]:
    return np.maximum(np.abs(x), np.abs(y)) < side


# Where each shape is, about the origin, within a radius of 1.
_DRAWN: dict[str, Callable[[Plane, Plane], Bool[np.ndarray, "h w"]]] = {
    "disk": lambda x, y: np.hypot(x, y) < 0.8,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.65) < 0.2,
    "square": lambda x, y: _inside(x, y, 0.68),
    "frame": lambda x, y: _inside(x, y, 0.72) & ~_inside(x, y, 0.4),
    "triangle": lambda x, y: (y < 0.5) & (np.abs(x) * 3**0.5 < y + 1),
    "star": _star,
    "cross": lambda x, y: _inside(x, y, 0.85) & (np.minimum(np.abs(x), np.abs(y)) < 0.24),
    "bar": lambda x, y: (np.abs(x) < 0.2) & (np.abs(y) < 0.95),
    "crescent": lambda x, y: (np.hypot(x, y) < 0.85) & (np.hypot(x - 0.45, y) > 0.7),
    "checker": lambda x, y: _inside(x, y, 0.8) & (x * y > 0),
}
assert tuple(_DRAWN) == SHAPES


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The images of a split; drawn when asked for.

    Attributes:
        split: "train", "val" or "test", which share no image.
        count: of images.
        size: (height, width), in pixels.
    """

    split: str
    count: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.split not in SPLITS or min(self.count, *self.size) < 1:
            raise InputError(
                f"Shapes: expected a split of {SPLITS}, counts and sizes >= 1, got {self}"
            )

    @property
    def labels(self) -> Int32[np.ndarray, "n"]:
        """Of all images."""
        return (np.arange(self.count) % len(SHAPES)).astype(np.int32)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.count:
            raise IndexError(f"shapes {self.split}: item {index} of {self.count}")
        rng = np.random.default_rng((SPLITS.index(self.split), index))
        label = index % len(SHAPES)
        image = draw(SHAPES[label], self.size, rng)
        return {"image": image, "label": np.int32(label), "name": f"{self.split}_{index:05d}"}


def draw(name: str, size: tuple[int, int], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """One image of a shape."""
    height, width = size
    s, side = _SAMPLES, min(size)
    radius = side * rng.uniform(0.25, 0.45)
    room = [max(0.0, length / 2 - radius) for length in size]
    cy, cx = (
        length / 2 + rng.uniform(-most, most) for length, most in zip(size, room, strict=True)
    )
    turn = rng.uniform(-np.pi / 6, np.pi / 6)
    y = ((np.arange(height * s) + 0.5) / s - cy)[:, None] / radius
    x = ((np.arange(width * s) + 0.5) / s - cx)[None, :] / radius
    turned = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = _DRAWN[name](*turned)
    share = inside.reshape(height, s, width, s).mean((1, 3))[..., None]
    back, front = _colors(rng)
    slope = rng.uniform(-40, 40, 2)
    rows, columns = (np.linspace(-1, 1, length) for length in size)
    ground = back + (slope[0] * rows[:, None] + slope[1] * columns[None, :])[..., None]
    noise = rng.normal(0, 12, (height, width, 1))
    return np.clip(np.rint(ground * (1 - share) + front * share + noise), 0, 255).astype(np.uint8)


def _colors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Of background and shape, far enough apart to be seen."""
    while True:
        back, front = rng.uniform(0, 255, (2, 3))
        if np.abs(back.mean() - front.mean()) > 60:
            return back, front
