"""Procedural stick figures: people with known joints, without a download.

Arms, legs and trunk differ in color, right and left do not: a mirror image is a figure, too. Figures face us. Image i
of a split is the same on every machine.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.tasks.pose.affine import UNIT
from segblocks_jax.tasks.pose.joints import BONES, MPII
from segblocks_jax.tasks.pose.person import Person

SPLITS = ("train", "val")
_ARM, _LEG, _TRUNK = (230.0, 90.0, 40.0), (40.0, 120.0, 230.0), (70.0, 190.0, 90.0)
_COLORS = {"elb": _ARM, "wri": _ARM, "kne": _LEG, "ank": _LEG}
_MARGIN = 1.25  # Of the crop around the joints.
_SMALLEST = 32  # Side of an image.
Point = Float[np.ndarray, "2"]


@dataclasses.dataclass(frozen=True)
class Figures:
    """The images of a split, a person each; drawn when asked for.

    Attributes:
        split: "train" or "val", which share no image.
        count: of images.
        size: (height, width), in pixels.
    """

    split: str
    count: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.split not in SPLITS or self.count < 1 or min(self.size) < _SMALLEST:
            raise InputError(
                f"Figures: expected a split of {SPLITS}, at least 1 image and sides from {_SMALLEST}, got {self}"
            )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"figures {self.split}: item {index} of {self.count}")
        rng = np.random.default_rng((SPLITS.index(self.split), index))
        name = f"{self.split}_{index:05d}"
        image, person = draw(name, self.size, rng)
        return {"image": image, "label": person, "name": name}


def draw(
    name: str, size: tuple[int, int], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Person]:
    """One image with a person."""
    joints = _pose(rng)
    low, high = joints.min(0), joints.max(0)
    height, width = size
    room = np.array([width, height]) * 0.9
    factor = rng.uniform(0.6, 1.0) * min(room / (high - low))
    extent = factor * (high - low)
    corner = rng.uniform(0.05, 1, 2) * (np.array([width, height]) * 0.95 - extent)
    corner = np.maximum(corner, 0.04 * np.array([width, height]))
    joints = corner + factor * (joints - low)
    head, neck = (joints[MPII.index(part)] for part in ("head", "neck"))
    half = float(np.linalg.norm(head - neck) / 2)
    box = np.stack([(head + neck) / 2 - half, (head + neck) / 2 + half])
    person = Person(
        name,
        joints.min(0) + extent / 2,
        float(_MARGIN * extent.max() / UNIT),
        joints,
        np.ones(len(MPII), bool),
        box,
    )
    return _paint(joints, size, half, rng), person


def _pose(rng: np.random.Generator) -> Float[np.ndarray, "16 2"]:
    """Joints of a person who faces us, of a height of about 1; y grows downwards."""

    def step(start: Point, length: float, angle: float) -> Point:
        """`angle` from straight down, toward the right of the image."""
        return start + length * np.array([np.sin(angle), np.cos(angle)])

    lean = rng.normal(0, 0.15)
    found: dict[str, Point] = {"pelv": np.zeros(2)}
    found["thor"] = step(found["pelv"], 0.27, np.pi + lean)
    found["neck"] = step(found["thor"], 0.05, np.pi + lean)
    found["head"] = step(found["neck"], 0.17, np.pi + lean + rng.normal(0, 0.2))
    for side, sign in (("r", -1.0), ("l", 1.0)):
        shoulder = step(found["thor"], 0.12, sign * np.pi / 2 + lean)
        upper = sign * rng.uniform(0.1, 2.6)
        elbow = step(shoulder, 0.17, upper)
        wrist = step(elbow, 0.15, upper + rng.uniform(-1.2, 1.2))
        hip = step(found["pelv"], 0.075, sign * np.pi / 2 + lean)
        thigh = sign * rng.uniform(0.0, 0.8)
        knee = step(hip, 0.24, thigh)
        ankle = step(knee, 0.23, thigh + rng.uniform(-0.6, 0.6))
        own = {"sho": shoulder, "elb": elbow, "wri": wrist, "hip": hip, "kne": knee, "ank": ankle}
        found |= {side + part: point for part, point in own.items()}
    return np.stack([found[part] for part in MPII])


def _paint(
    joints: Float[np.ndarray, "16 2"],
    size: tuple[int, int],
    half_head: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w 3"]:
    height, width = size
    ground = rng.uniform(0, 255, 3) * 0.6
    slope = np.linspace(-1, 1, height)[:, None] * rng.uniform(-40, 40)
    image = np.broadcast_to(ground + slope[..., None], (height, width, 3)).copy()
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)
    tint = rng.uniform(-25, 25, 3)
    thick = 0.35 * half_head
    for a, b in BONES:
        color = next((_COLORS[part] for j in (a, b) if (part := MPII[j][1:]) in _COLORS), _TRUNK)
        axis = joints[b] - joints[a]
        along = np.clip((pixels - joints[a]) @ axis / (axis @ axis), 0, 1)
        away = np.linalg.norm(pixels - joints[a] - along[..., None] * axis, axis=-1)
        wide = 0.8 * half_head if MPII[b] == "head" else thick
        cover = np.clip(wide - away + 0.5, 0, 1)[..., None]
        image = image * (1 - cover) + (np.array(color) + tint) * cover
    image += rng.normal(0, 8, (height, width, 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
