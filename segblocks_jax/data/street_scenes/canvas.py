"""A street, a camera and two canvases: painting polygons of a 3-D world into an image and its label map.

World coordinates are meters: x to the right, y up, z ahead of the camera; the ground is y = 0. The
image is painted at twice its size and averaged down, for smooth edges; the labels at their own
size, because ids can't be averaged. Later paint covers earlier paint.
"""

import dataclasses
import enum
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

OVERSAMPLING = 2
Meters = float | int
Rng = np.random.Generator
_NEAR = 0.3  # meters; nearer corners are pushed out to here, below the image


class Id(enum.IntEnum):
    """The official Cityscapes label ids that street scenes use."""

    EGO_VEHICLE = 1
    ROAD = 7
    SIDEWALK = 8
    BUILDING = 11
    WALL = 12
    FENCE = 13
    POLE = 17
    TRAFFIC_LIGHT = 19
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    TERRAIN = 22
    SKY = 23
    PERSON = 24
    RIDER = 25
    CAR = 26
    TRUCK = 27
    BUS = 28
    TRAIN = 31
    MOTORCYCLE = 32
    BICYCLE = 33


@dataclasses.dataclass(frozen=True)
class View:
    """The camera and the air."""

    focal: float  # Focal length in image heights.
    horizon: float  # Row of the horizon, in image heights from the top.
    center: float  # Column of the vanishing point, in image heights from the image's middle.
    eye: tuple[float, float]  # The camera's (x, y), meters.
    haze: tuple[int, int, int]  # Color that distant things take on.
    visibility: float  # Distance in meters at which they have taken on 63 % of it.


@dataclasses.dataclass(frozen=True)
class Street:
    """The street's cross-section, meters from its middle line."""

    lanes: int  # In each direction, each `lane` wide.
    lane: float
    road: float  # Half the road's width.
    grass: tuple[float, float]  # Widths of verges between kerb and pavement, left and right; or 0.
    pavement: tuple[float, float]  # Width, left and right.
    built: tuple[bool, bool]  # Whether houses line the left and the right side; else it is green.

    def edge(self, side: int) -> float:
        """Signed distance of the pavement's outer edge; side is 0 (left) or 1 (right)."""
        return (-1, 1)[side] * (self.road + self.grass[side] + self.pavement[side])


class Canvas:
    """An image and a label map under construction."""

    def __init__(self, view: View, height: int, width: int):
        self.view = view
        self.height, self.width = height, width
        self.image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), view.haze)
        self.label = Image.new("L", (width, height))
        self._use(ImageDraw.Draw(self.image), ImageDraw.Draw(self.label))

    def _use(self, paint: ImageDraw.ImageDraw, ids: ImageDraw.ImageDraw) -> None:
        self._paint, self._ids = paint, ids

    def project(self, points) -> list[float]:
        """Pixel positions column, row, column, row, ... of world points."""
        # Plain floats: most shapes have a handful of corners, where NumPy's calls cost more.
        eye_x, eye_y = self.view.eye
        left = 0.5 * self.width + self.view.center * self.height
        top = self.view.horizon * self.height
        focal = self.view.focal * self.height
        flat = []
        for x, y, z in points:
            scale = focal / (z if z > _NEAR else _NEAR)
            flat.append(left + (x - eye_x) * scale)
            flat.append(top + (eye_y - y) * scale)
        return flat

    def pixels_per_meter(self, z: Meters) -> float:
        """Size of a meter at distance z, in pixels of the label map."""
        return self.view.focal * self.height / max(z, _NEAR)

    def hazed(self, color, z: Meters) -> tuple[int, int, int]:
        """The color as seen through z meters of air."""
        clear = math.exp(-z / self.view.visibility)
        red, green, blue = (
            min(max(int(c * clear + h * (1 - clear)), 0), 255)
            for c, h in zip(color, self.view.haze, strict=True)
        )
        return red, green, blue

    def polygon(self, points, color, label: int | None = None) -> None:
        """Paints a polygon of world points (k, 3); without a label the ids below it stay."""
        points = points.tolist() if isinstance(points, np.ndarray) else points
        corners = self.project(points)
        if self._in_sight(corners):
            distance = sum(point[2] for point in points) / len(points)
            self._paint.polygon([OVERSAMPLING * c for c in corners], self.hazed(color, distance))
            if label is not None:
                self._ids.polygon(corners, label)

    def upright(self, x: Meters, z: Meters, outline, color, label: int | None = None) -> None:
        """Paints a flat shape that faces the camera; outline: (dx, y) from the foot (x, 0, z)."""
        self.polygon([(x + dx, y, z) for dx, y in outline], color, label)

    def disc(self, x, y, z, radius, color, label: int | None = None, aspect: float = 1.0) -> None:
        """Paints a disc that faces the camera, `aspect` times as high as wide."""
        high = radius * aspect
        corners = self.project([(x - radius, y + high, z), (x + radius, y - high, z)])
        if self._in_sight(corners):
            self._paint.ellipse([OVERSAMPLING * c for c in corners], self.hazed(color, z))
            if label is not None:
                self._ids.ellipse(corners, label)

    def line(self, start, end, thickness: Meters, color, label: int | None = None) -> None:
        """Paints a bar between world points of about the same distance, thickness in meters."""
        (xa, ya, za), (xb, yb, zb) = start, end
        scale = 0.5 * thickness / (math.hypot(xb - xa, yb - ya) or 1.0)
        dx, dy = scale * (yb - ya), scale * (xa - xb)
        bar = [(xa - dx, ya - dy, za), (xa + dx, ya + dy, za), (xb + dx, yb + dy, zb)]
        self.polygon([*bar, (xb - dx, yb - dy, zb)], color, label)

    def _in_sight(self, corners: list[float]) -> bool:
        columns, rows = corners[::2], corners[1::2]
        across = max(columns) >= 0 and min(columns) < self.width
        return bool(across and max(rows) >= 0 and min(rows) < self.height)

    def finished(self) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """The image at its final size, and the labels."""
        return np.asarray(self.image.reduce(OVERSAMPLING)), np.array(self.label)

    def replace_image(self, image: Image.Image) -> None:
        """Takes over a processed version of `image`; painting goes on there."""
        self.image = image
        self._use(ImageDraw.Draw(image), self._ids)


def quad(x0: Meters, x1: Meters, y0: Meters, y1: Meters, z0: Meters, z1: Meters):
    """Corners of a vertical rectangle from (x0, z0) to (x1, z1) between heights y0 and y1."""
    return [(x0, y0, z0), (x0, y1, z0), (x1, y1, z1), (x1, y0, z1)]


def ground(x0: Meters, x1: Meters, z0: Meters, z1: Meters):
    """Corners of a rectangle on the ground."""
    return [(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)]


def shade(color, factor: float | int) -> list[float]:
    """The color, lighter or darker."""
    return [min(max(c * factor, 0.0), 255.0) for c in color]


def varied(rng: Rng, color, amount: float) -> list[float]:
    """The color, with random brightness and a little random tint."""
    tint = 1 + amount * (rng.uniform(-1, 1) + 0.3 * rng.uniform(-1, 1, 3))
    return np.clip(np.asarray(color, float) * tint, 0, 255).tolist()
