"""Cars, trucks, buses and trams: side profiles drawn out to solids."""

import dataclasses
import itertools
import math

import numpy as np

from segblocks_jax.data.street_scenes.canvas import Canvas, Id, Meters, ground, quad, shade, varied

CAR_COLORS = np.array(
    [
        (30, 32, 36), (70, 74, 80), (150, 154, 158), (214, 216, 218), (120, 20, 24),
        (24, 44, 92), (44, 74, 60), (160, 130, 90), (190, 60, 30), (60, 90, 130),
    ]
)  # fmt: skip
BUS_COLORS = np.array([(190, 30, 30), (230, 180, 30), (40, 80, 150), (60, 130, 70)])
TRAM_COLORS = np.array([(236, 230, 212), (244, 204, 70), (214, 120, 60), (150, 176, 190)])
_GLASS = (38, 48, 58)
_TIRE = (22, 22, 24)
_CIRCLE = [(math.sin(a), math.cos(a)) for a in np.arange(0, 2 * np.pi, np.pi / 7).tolist()]
_RED, _WHITE = (200, 24, 20), (250, 246, 225)


@dataclasses.dataclass(frozen=True)
class Body:
    """A solid: a side profile drawn out across its width; t runs from 0 (rear) to 1 (front), the rest is meters."""

    length: float
    # (t, y, half width) from the lower rear over the roof to the lower front.
    profile: tuple[tuple[float, float, float], ...]
    # Positions of the profile's edges that are windows across the whole width.
    glass: tuple[int, ...] = ()
    windows: tuple[tuple[tuple[float, float], ...], ...] = ()  # Side windows, outlines of (t, y).
    wheels: tuple[float, ...] = (0.2, 0.8)  # t of the wheels' centers.
    radius: float = 0.33  # Of the wheels.


def _window_row(count: int, low: float, high: float):
    edges = np.linspace(0.04, 0.96, count + 1).tolist()
    gap = 0.055 / count
    return tuple(
        ((a + gap, low), (a + gap, high), (b - gap, high), (b - gap, low))
        for a, b in itertools.pairwise(edges)
    )


HATCHBACK = Body(
    length=4.1,
    profile=(
        (0.0, 0.25, 0.84), (0.0, 0.92, 0.87), (0.1, 1.42, 0.66), (0.55, 1.47, 0.66),
        (0.73, 0.98, 0.84), (0.97, 0.82, 0.84), (1.0, 0.6, 0.82), (1.0, 0.25, 0.82),
    ),
    glass=(1, 3),
    windows=(((0.1, 0.97), (0.16, 1.36), (0.36, 1.39), (0.36, 0.97)),
             ((0.39, 0.97), (0.39, 1.39), (0.54, 1.4), (0.68, 0.98))),
)  # fmt: skip
SALOON = Body(
    length=4.6,
    profile=(
        (0.0, 0.25, 0.84), (0.0, 0.9, 0.86), (0.14, 0.97, 0.86), (0.28, 1.4, 0.66),
        (0.56, 1.43, 0.66), (0.72, 0.96, 0.85), (0.97, 0.8, 0.84), (1.0, 0.25, 0.82),
    ),
    glass=(2, 4),
    windows=(((0.22, 0.98), (0.31, 1.33), (0.43, 1.36), (0.43, 0.98)),
             ((0.46, 0.98), (0.46, 1.36), (0.55, 1.36), (0.67, 0.97))),
)  # fmt: skip
VAN = Body(
    length=5.0,
    profile=(
        (0.0, 0.3, 0.95), (0.0, 1.05, 0.97), (0.03, 1.95, 0.86), (0.7, 2.0, 0.86),
        (0.86, 1.15, 0.95), (0.98, 0.95, 0.93), (1.0, 0.3, 0.92),
    ),
    glass=(1, 3),
    windows=(((0.62, 1.15), (0.62, 1.8), (0.71, 1.8), (0.82, 1.15)),),
)  # fmt: skip
BUS = Body(
    length=11.0,
    profile=((0.0, 0.35, 1.25), (0.0, 1.2, 1.25), (0.0, 2.7, 1.22), (0.0, 3.05, 1.2),
             (1.0, 3.05, 1.2), (1.0, 2.7, 1.22), (1.0, 1.0, 1.25), (1.0, 0.35, 1.25)),
    glass=(1, 5),
    windows=_window_row(6, 1.3, 2.45),
    wheels=(0.22, 0.78),
    radius=0.48,
)  # fmt: skip
TRAM = Body(
    length=22.0,
    profile=((0.0, 0.3, 1.15), (0.0, 1.3, 1.2), (0.01, 2.7, 1.1), (0.03, 3.3, 1.0),
             (0.97, 3.3, 1.0), (0.99, 2.7, 1.1), (1.0, 1.3, 1.2), (1.0, 0.3, 1.15)),
    glass=(1, 5),
    windows=_window_row(11, 1.4, 2.5),
    wheels=(),
)  # fmt: skip
_CARGO = Body(
    length=6.5,
    profile=((0.0, 0.7, 1.25), (0.0, 3.5, 1.25), (1.0, 3.5, 1.25), (1.0, 0.7, 1.25)),
    wheels=(0.15, 0.3),
    radius=0.5,
)
_CAB = Body(
    length=2.2,
    profile=((0.0, 0.5, 1.2), (0.0, 2.7, 1.15), (0.6, 2.75, 1.15), (0.92, 1.5, 1.2),
             (1.0, 1.3, 1.2), (1.0, 0.4, 1.2)),
    glass=(2,),
    windows=(((0.3, 1.5), (0.3, 2.4), (0.6, 2.4), (0.82, 1.5)),),
    wheels=(0.55,),
    radius=0.5,
)  # fmt: skip
CARS = (HATCHBACK, HATCHBACK, SALOON, SALOON, VAN)
TRUCK_LENGTH = _CARGO.length + 0.2 + _CAB.length


def vehicle(
    canvas: Canvas, _, x: Meters, z: Meters, body: Body, away: bool, color, label: int
) -> None:
    """Paints a body with its rear (away) or its front (oncoming) at distance z."""
    _contact_shadow(canvas, x, z, body)
    _solid(canvas, body, x, z, away, color, label)
    _end(canvas, body, x, z, away, label)


def truck(canvas: Canvas, rng: np.random.Generator, x: Meters, z: Meters, away: bool) -> None:
    """Paints a lorry: a cab and a cargo box."""
    box = varied(rng, rng.choice([(215, 215, 210), (70, 100, 150), (150, 60, 50)]), 0.15)
    cab = varied(rng, CAR_COLORS[rng.integers(len(CAR_COLORS))], 0.2)
    parts = [(_CARGO, z, box), (_CAB, z + _CARGO.length + 0.2, cab)]
    if not away:
        parts = [(_CAB, z, cab), (_CARGO, z + _CAB.length + 0.2, box)]
    for body, at, color in reversed(parts):
        _contact_shadow(canvas, x, at, body)
        _solid(canvas, body, x, at, away, color, Id.TRUCK)
    _end(canvas, parts[0][0], x, z, away, Id.TRUCK)
    if away:
        gap = shade(box, 0.6)
        canvas.polygon(quad(x - 0.03, x + 0.03, 0.7, 3.5, z, z), gap)
        canvas.polygon(quad(x - 1.15, x + 1.15, 0.45, 0.7, z, z), (60, 60, 62), Id.TRUCK)


def _solid(canvas, body, x, z, away, color, label) -> None:
    """Paints the faces across, far ones first, then the side that is in sight."""
    rings = [(z + _along(t, away) * body.length, y, half) for t, y, half in body.profile]
    faces = [(rings[i], rings[i + 1], i in body.glass) for i in range(len(rings) - 1)]
    faces.sort(key=lambda face: -(face[0][0] + face[1][0]))
    for (za, ya, half_a), (zb, yb, half_b), glass in faces:
        steepness = abs(yb - ya) / (abs(yb - ya) + abs(zb - za) + 1e-6)
        paint = _GLASS if glass else shade(color, 1.2 - 0.35 * steepness)
        outline = [(x - half_a, ya, za), (x + half_a, ya, za), (x + half_b, yb, zb)]
        canvas.polygon([*outline, (x - half_b, yb, zb)], paint, label)
    widest = max(half for _, _, half in rings)
    offset = canvas.view.eye[0] - x
    if abs(offset) <= widest:
        return
    side = 1 if offset > 0 else -1
    outline = [(x + side * half, y, along) for along, y, half in rings]
    canvas.polygon(outline, shade(color, 0.72), label)
    roof, roof_half = max((y, half) for _, y, half in rings)
    for window in body.windows:
        outline = []
        for t, y in window:
            lean = min(max((y - 0.95) / (roof - 0.95), 0), 1) * (widest - roof_half)
            outline.append((x + side * (widest - lean), y, z + _along(t, away) * body.length))
        canvas.polygon(outline, shade(_GLASS, 0.9))
    for t in body.wheels:
        axle = z + _along(t, away) * body.length
        _wheel(canvas, x + side * (widest + 0.01), axle, body.radius, label)


def _along(t: float, away: bool) -> float:
    """The part of the length from the near end to the profile's t."""
    return t if away else 1 - t


def _wheel(canvas, x, z, radius, label) -> None:
    for scale, color, below in ((1.0, _TIRE, label), (0.58, (128, 130, 134), None)):
        circle = [(x, radius * (1 + scale * s), z + scale * radius * c) for s, c in _CIRCLE]
        canvas.polygon(circle, color, below)


def _end(canvas, body, x, z, away, label) -> None:
    """Paints what the near end carries: lights, a number plate, tires."""
    end = body.profile[:2] if away else body.profile[::-1][:2]
    half, low = end[0][2], end[0][1]
    light = max(0.62, low + 0.2)
    z -= 0.02
    canvas.polygon(quad(x - half, x + half, 0.18, low + 0.12, z, z), (34, 34, 38), label)
    for side in (-1, 1):
        outer, inner = x + side * 0.98 * half, x + side * 0.7 * half
        canvas.polygon(quad(outer, inner, 0, low + 0.05, z, z), _TIRE, label)
        lamp = quad(outer, inner, light, light + 0.17, z, z)
        canvas.polygon(lamp, _RED if away else _WHITE)
    canvas.polygon(quad(x - 0.26, x + 0.26, low + 0.16, low + 0.28, z, z), (225, 225, 215))


def _contact_shadow(canvas, x, z, body) -> None:
    half = max(p[2] for p in body.profile) + 0.1
    canvas.polygon(ground(x - half, x + half, z - 0.25, z + body.length + 0.2), (38, 38, 42))
