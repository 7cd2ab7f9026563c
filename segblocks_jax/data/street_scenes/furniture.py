"""What stands along a street: lamps, traffic lights, signs, trees, hedges, walls and fences."""

import numpy as np

from segblocks_jax.data.street_scenes.canvas import Canvas, Id, Meters, Rng, quad, shade, varied

_METAL = (118, 122, 124)
_BARK = (78, 64, 52)
_FOLIAGE = np.array([(62, 92, 40), (78, 104, 48), (48, 78, 42), (96, 112, 52), (120, 110, 48)])


def _post(canvas: Canvas, x: Meters, z: Meters, height: Meters, radius: Meters) -> None:
    canvas.polygon(quad(x - radius, x + radius, 0, height, z, z), _METAL, Id.POLE)
    canvas.polygon(quad(x + 0.3 * radius, x + radius, 0, height, z, z), shade(_METAL, 0.7))


def lamp(canvas: Canvas, rng: Rng, x: Meters, z: Meters, inward: int) -> None:
    """Paints a street lamp whose arm reaches `inward` (-1 or 1, toward the road)."""
    height, arm = rng.uniform(6, 8.5), rng.uniform(0.8, 2.0)
    _post(canvas, x, z, height, 0.08)
    canvas.line((x, height, z), (x + inward * arm, height + 0.4, z), 0.1, _METAL, Id.POLE)
    start, end = x + inward * arm, x + inward * (arm + 0.6)
    canvas.polygon(quad(start, end, height + 0.32, height + 0.5, z, z), (190, 190, 180), Id.POLE)


def traffic_light(canvas: Canvas, rng: Rng, x: Meters, z: Meters, inward: int):
    """Paints a traffic light on a post, sometimes with a second one hanging over the road."""
    heads = [(x, 2.4)]
    if rng.random() < 0.35:
        heads.append((x + inward * rng.uniform(2.5, 4.0), 4.6))
        canvas.line((x, 5.6, z), (heads[1][0], 5.7, z), 0.11, _METAL, Id.POLE)
    _post(canvas, x, z, 5.7 if len(heads) > 1 else 3.2, 0.07)
    lit = rng.choice(3, p=[0.45, 0.1, 0.45])
    for cx, low in heads:
        box = quad(cx - 0.19, cx + 0.19, low, low + 1.05, z - 0.05, z - 0.05)
        canvas.polygon(box, (26, 28, 28), Id.TRAFFIC_LIGHT)
        for i, color in enumerate([(255, 50, 36), (255, 190, 40), (60, 240, 130)]):
            paint = color if i == lit else shade(color, 0.22)
            canvas.disc(cx, low + 0.86 - 0.33 * i, z - 0.06, 0.125, paint)


def sign(canvas: Canvas, rng: Rng, x: Meters, z: Meters) -> None:
    """Paints a traffic sign: round, triangular, a diamond, or a rectangular board."""
    _post(canvas, x, z, 2.9, 0.045)
    kind = rng.choice(["ban", "duty", "warning", "priority", "board"], p=[0.3, 0.2, 0.2, 0.1, 0.2])
    y, z = rng.uniform(2.4, 2.8), z - 0.05
    red, white, blue = (196, 28, 30), (236, 236, 230), (30, 72, 160)
    if kind == "ban":
        canvas.disc(x, y, z, 0.36, red, Id.TRAFFIC_SIGN)
        canvas.disc(x, y, z, 0.26, white)
        canvas.polygon(quad(x - 0.12, x + 0.12, y - 0.1, y + 0.1, z, z), (30, 30, 30))
    elif kind == "duty":
        canvas.disc(x, y, z, 0.36, white, Id.TRAFFIC_SIGN)
        canvas.disc(x, y, z, 0.33, blue)
        canvas.line((x, y - 0.18, z), (x, y + 0.2, z), 0.09, white)
    elif kind == "warning":
        for size, color in ((0.44, red), (0.28, white)):
            outline = [(-size, y - 0.55 * size), (size, y - 0.55 * size), (0, y + 1.1 * size)]
            canvas.upright(x, z, outline, color, Id.TRAFFIC_SIGN)
    elif kind == "priority":
        for size, color in ((0.42, white), (0.28, (240, 190, 30))):
            outline = [(-size, y), (0, y + size), (size, y), (0, y - size)]
            canvas.upright(x, z, outline, color, Id.TRAFFIC_SIGN)
    else:
        half, high = rng.uniform(0.35, 0.9), rng.uniform(0.25, 0.4)
        color = [blue, (232, 190, 40), white][rng.integers(3)]
        canvas.polygon(quad(x - half, x + half, y - high, y + high, z, z), color, Id.TRAFFIC_SIGN)
        bar = shade(color, 0.5) if sum(color) > 400 else white
        for row in (-0.4, 0.2):
            ends = (x - 0.75 * half, x + rng.uniform(0, 0.75) * half)
            canvas.polygon(quad(*ends, y + row * high, y + (row + 0.25) * high, z, z), bar)


def tree(canvas: Canvas, rng: Rng, x: Meters, z: Meters) -> None:
    """Paints a tree: a trunk, and a crown of leafy clumps that are lighter on top."""
    height, radius = rng.uniform(4.5, 9.5), rng.uniform(1.3, 2.6)
    base = max(1.8, height - 2.6 * radius)
    color = varied(rng, _FOLIAGE[rng.integers(len(_FOLIAGE))], 0.2)
    canvas.disc(x, 0.01, z, 0.5, (50, 54, 46), aspect=0.12)
    trunk = [(-0.16, 0), (0.16, 0), (0.09, base + radius), (-0.09, base + radius)]
    canvas.upright(x, z, trunk, _BARK, Id.VEGETATION)
    for side in (-1, 1):
        start, end = (x, base, z), (x + side * 0.6 * radius, base + radius, z)
        canvas.line(start, end, 0.1, shade(_BARK, 0.85), Id.VEGETATION)
    middle, half = 0.5 * (base + height), 0.5 * (height - base)
    _clumps(canvas, rng, (x, middle, z), (radius, half), color)


def hedge(canvas: Canvas, rng: Rng, x: Meters, z0: Meters, z1: Meters) -> None:
    """Paints a hedge along the street."""
    height = rng.uniform(0.9, 2.2)
    color = varied(rng, _FOLIAGE[rng.integers(len(_FOLIAGE))], 0.25)
    canvas.polygon(quad(x, x, 0, height, z0, z1), shade(color, 0.85), Id.VEGETATION)
    end = x + np.sign(x - canvas.view.eye[0]) * 1.2
    canvas.polygon(quad(x, end, 0, height, z0, z0), shade(color, 0.7), Id.VEGETATION)
    for z in np.linspace(z1, z0, 7).tolist():
        _clumps(canvas, rng, (x, 0.8 * height, z), (0.45, 0.3 * height), color, most=5)


def _clumps(canvas, rng, center, extent, color, most: int = 42) -> None:
    """Paints an ellipsoid of leaves; the nearer, the more clumps it is made of."""
    x, y, z = center
    count = int(np.clip(0.7 * extent[0] * canvas.pixels_per_meter(z), 6, most))
    angle = rng.uniform(0, 2 * np.pi, most)[:count]
    reach = np.sqrt(rng.uniform(0, 1, most))[:count]
    tint = rng.uniform(0.86, 1.14, most)[:count]
    clumps = np.stack([reach * np.sin(angle), reach * np.cos(angle), reach, tint], -1)
    inside = shade(color, 0.72)
    canvas.disc(x, y, z, 0.8 * extent[0], inside, Id.VEGETATION, extent[1] / extent[0])
    for dy, dx, away, light in sorted(clumps.tolist()):
        place = (x + 0.85 * dx * extent[0], y + 0.85 * dy * extent[1], z)
        leaves = shade(color, light * (0.98 + 0.34 * dy))
        canvas.disc(*place, extent[0] * (0.42 - 0.18 * away), leaves, Id.VEGETATION, 0.8)


def wall(canvas: Canvas, rng: Rng, x: Meters, z0: Meters, z1: Meters) -> None:
    """Paints a wall along the street, with courses of bricks or slabs and a coping."""
    height = rng.uniform(1.2, 2.6)
    color = varied(rng, [(150, 146, 138), (138, 92, 76), (176, 168, 150)][rng.integers(3)], 0.1)
    canvas.polygon(quad(x, x, 0, height, z0, z1), color, Id.WALL)
    end = x + np.sign(x - canvas.view.eye[0]) * 0.35
    canvas.polygon(quad(x, end, 0, height, z0, z0), shade(color, 0.75), Id.WALL)
    for y in np.arange(0.3, height - 0.1, 0.3).tolist():
        canvas.polygon(quad(x, x, y, y + 0.025, z0, z1), shade(color, 0.82))
    for i, z in enumerate(np.arange(z0, z1, 0.7).tolist()):
        y = 0.3 * (i % max(1, int(height / 0.3)))
        canvas.polygon(quad(x, x, y, y + 0.3, z, z + 0.04), shade(color, 0.8))
    canvas.polygon(quad(x, x, height, height + 0.1, z0, z1), shade(color, 1.15), Id.WALL)


def fence(canvas: Canvas, rng: Rng, x: Meters, z0: Meters, z1: Meters) -> None:
    """Paints a fence along the street; what is seen between its bars is labeled fence too."""
    height = rng.uniform(1.0, 1.7)
    color = varied(rng, [(70, 74, 76), (120, 86, 60), (178, 180, 178)][rng.integers(3)], 0.15)
    canvas.polygon(quad(x, x, 0.05, height, z0, z1), (104, 112, 88), Id.FENCE)
    spacing = max(0.16, 1.2 * z0 / (canvas.view.focal * canvas.height))
    for z in np.arange(z0, z1, spacing).tolist():
        canvas.polygon(quad(x, x, 0.05, height + 0.05, z, z + 0.4 * spacing), color)
    for y in (0.2, height - 0.12):
        canvas.polygon(quad(x, x, y, y + 0.08, z0, z1), shade(color, 0.85))
