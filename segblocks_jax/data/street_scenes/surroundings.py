"""What everything else stands on, in front of and in: sky, ground, buildings, the skyline; weather and light."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from segblocks_jax.data.street_scenes.canvas import (
    Canvas,
    Id,
    Rng,
    Street,
    ground,
    quad,
    shade,
    varied,
)

FAR = 400.0
_FACADES = np.array(
    [
        (176, 160, 136), (148, 100, 80), (196, 186, 168), (140, 140, 138),
        (170, 134, 92), (120, 84, 70), (204, 196, 186), (124, 130, 138),
    ]
)  # fmt: skip
_BOARDS = np.array([(150, 40, 40), (40, 80, 60), (40, 60, 110), (200, 170, 90)])
_ROOFS = np.array([(92, 58, 48), (70, 70, 76), (104, 80, 64)])


def paint_sky(canvas: Canvas, rng: Rng, top, cover: float) -> None:
    """Fills the canvas with sky: from the color `top` down to the haze, and clouds."""
    width, height = canvas.image.size
    horizon = max(int(canvas.view.horizon * height), 2)
    blend = np.linspace(0, 1, horizon)[:, None, None] ** 0.8
    haze = np.asarray(canvas.view.haze)
    octaves = [(6, 5, 1.0), (14, 12, 0.5), (30, 28, 0.25)]
    clouds = np.zeros((horizon, width), np.float32)
    for rows, columns, weight in octaves:
        coarse = Image.fromarray(rng.random((rows, columns), np.float32))
        fine = coarse.resize((width // 4 + 1, horizon // 4 + 1), Image.Resampling.BICUBIC)
        clouds += weight * np.asarray(fine.resize((width, horizon), Image.Resampling.BILINEAR))
    thickness = np.clip((clouds - 1.3 + cover) * 2.2, 0, 1)[..., None] * (1 - 0.7 * blend)
    sky = np.asarray(top) * (1 - blend) + haze * blend
    sky = sky * (1 - thickness) + (haze * 0.35 + 160) * thickness
    canvas.image.paste(Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8)), (0, 0))
    canvas.label.paste(Id.SKY, (0, 0, canvas.width, canvas.height))


def paint_skyline(canvas: Canvas, rng: Rng) -> None:
    """Closes the street at the horizon with distant houses and woods."""
    x = -220.0
    while x < 220:
        width, z = rng.uniform(10, 30), rng.uniform(170, 300)
        if rng.random() < 0.55:
            height = rng.uniform(8, 26)
            color = varied(rng, _FACADES[rng.integers(len(_FACADES))], 0.2)
            canvas.polygon(quad(x, x + width, 0, height, z, z), color, Id.BUILDING)
        else:
            for dx in np.linspace(0, width, 4).tolist():
                size = rng.uniform(4, 8)
                color = varied(rng, (70, 94, 56), 0.15)
                canvas.disc(x + dx, 0.6 * size, z, size, color, Id.VEGETATION)
        x += width * rng.uniform(0.7, 1.2)


def paint_ground(canvas: Canvas, rng: Rng, street: Street) -> None:
    """Paints grass, pavements, kerbs, the road and its markings."""
    asphalt = varied(rng, (98, 98, 102), 0.16)
    paving = varied(rng, (150, 144, 138), 0.12)
    lawn = varied(rng, (112, 122, 70), 0.15)
    _strip(canvas, -FAR, FAR, lawn, Id.TERRAIN)
    for side, sign in enumerate((-1, 1)):
        inner = sign * (street.road + street.grass[side])
        outer = 3 * street.edge(side) if street.built[side] else street.edge(side)
        _strip(canvas, inner, outer, paving, Id.SIDEWALK)
        for x in np.arange(inner, street.edge(side), sign * 0.9).tolist():
            _strip(canvas, x, x + 0.03, shade(paving, 0.86))
        kerb = sign * (street.road + 0.22)
        _strip(canvas, sign * street.road, kerb, shade(paving, 1.14), Id.SIDEWALK)
    _strip(canvas, -street.road, street.road, asphalt, Id.ROAD)
    for _ in range(5):
        x, z = rng.uniform(-0.9, 0.7) * street.road, rng.uniform(4, 40)
        patch = ground(x, x + rng.uniform(0.6, 2), z, z + rng.uniform(1, 7))
        canvas.polygon(patch, shade(asphalt, rng.uniform(0.82, 1.08)))
    _markings(canvas, rng, street)


def _strip(canvas, x0, x1, color, label=None) -> None:
    # In pieces, so that haze can grow with distance.
    for z0, z1 in ((60, FAR), (25, 60), (10, 25), (0, 10)):
        canvas.polygon(ground(x0, x1, z0, z1), color, label)


def _markings(canvas, rng, street: Street) -> None:
    paint = varied(rng, (226, 226, 220), 0.06)
    for i in range(-street.lanes, street.lanes + 1):
        x, solid = i * street.lane, abs(i) == street.lanes
        if solid or (i == 0 and rng.random() < 0.3):
            _strip(canvas, x - 0.06, x + 0.06, paint)
            continue
        dashes = np.arange(rng.uniform(0, 6), 90, 6.0)
        for z in dashes.tolist():
            canvas.polygon(ground(x - 0.07, x + 0.07, z, z + 3), paint)
    if rng.random() < 0.4:
        z = rng.uniform(9, 30)
        bars = np.arange(-street.road + 0.3, street.road - 0.6, 1.0)
        for x in bars.tolist():
            canvas.polygon(ground(x, x + 0.5, z, z + 3), paint)
    if rng.random() < 0.5:
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        x, z = rng.uniform(-0.6, 0.6) * street.road, rng.uniform(5, 14)
        circle = np.stack([x + 0.35 * np.cos(angle), 0 * angle, z + 0.35 * np.sin(angle)], -1)
        canvas.polygon(circle, (62, 60, 60))


def building(canvas: Canvas, rng: Rng, x: float, z0: float, z1: float, light: float) -> None:
    """Paints a house whose front, at x, faces the street from z0 to z1; light is on that front."""
    outward = np.sign(x - canvas.view.eye[0])
    floors = int(rng.integers(2, 7))
    height = 3.2 * floors + rng.uniform(0.6, 1.6)
    color = varied(rng, _FACADES[rng.integers(len(_FACADES))], 0.16)
    front, gable = shade(color, light), shade(color, 1.5 - 0.7 * light)
    canvas.polygon(quad(x, x + outward * 14, 0, height, z0, z0), gable, Id.BUILDING)
    canvas.polygon(quad(x, x, 0, height, z0, z1), front, Id.BUILDING)
    roof = varied(rng, _ROOFS[rng.integers(len(_ROOFS))], 0.15)
    if rng.random() < 0.55:
        top = [(x, height, z0), (x, height, z1), (x + outward * 3.5, height + 3, z1)]
        canvas.polygon([*top, (x + outward * 3.5, height + 3, z0)], roof, Id.BUILDING)
        peak = (x + outward * 3.5, height + 3, z0)
        canvas.polygon([(x, height, z0), peak, (x + outward * 7, height, z0)], gable, Id.BUILDING)
    canvas.polygon(quad(x, x, height - 0.5, height, z0, z1), shade(front, 1.16))
    canvas.polygon(quad(x, x, 0, 0.7, z0, z1), shade(front, 0.75))
    _windows(canvas, rng, x, z0, z1, floors, front)
    if rng.random() < 0.45:
        _shop(canvas, rng, x, z0, z1)


def _windows(canvas, rng, x, z0, z1, floors, front) -> None:
    """Paints rows of windows, those too small to be seen left out."""
    pitch, width = rng.uniform(2.2, 3.4), rng.uniform(0.9, 1.4)
    columns = np.arange(z0 + 0.6, z1 - width, pitch)
    bright = rng.random((len(columns), floors)).tolist()
    frame = shade(front, rng.choice([0.72, 1.25]))
    for i, z in enumerate(columns.tolist()):
        across = abs(x - canvas.view.eye[0]) * width / z**2 * canvas.view.focal * canvas.height
        if across < 0.4:
            continue
        for floor in range(floors):
            low = 3.2 * floor + 1.1
            if z < 30:
                around = quad(x, x, low - 0.12, low + 1.72, z - 0.12, z + width + 0.12)
                canvas.polygon(around, frame)
            pane = shade((86, 98, 112), 0.45 + 0.85 * bright[i][floor] ** 2)
            canvas.polygon(quad(x, x, low, low + 1.6, z, z + width), pane)


def _shop(canvas, rng, x, z0, z1) -> None:
    board = varied(rng, _BOARDS[rng.integers(len(_BOARDS))], 0.2)
    canvas.polygon(quad(x, x, 0, 3.1, z0 + 0.3, z1 - 0.3), shade(board, 0.5))
    canvas.polygon(quad(x, x, 2.5, 3.1, z0 + 0.3, z1 - 0.3), board)
    for z in np.arange(z0 + 0.6, z1 - 2, 2.4).tolist():
        canvas.polygon(quad(x, x, 0.5, 2.4, z, z + 2.0), varied(rng, (96, 104, 108), 0.35))


_GRAIN = {Id.ROAD: 7.0, Id.SIDEWALK: 6.0, Id.VEGETATION: 15.0, Id.TERRAIN: 12.0, Id.SKY: 1.0}
_OTHER_GRAIN = 3.5


@dataclasses.dataclass(frozen=True)
class Weather:
    """Light and air."""

    sky: tuple[int, int, int]  # Color overhead, RGB.
    haze: tuple[int, int, int]  # Color at the horizon and of distant things.
    cover: float  # Amount of clouds, from 0 to about 1.
    sun: float  # Brightness of the fronts on the left; those on the right have 2 - sun.
    gain: tuple[float, float, float]  # The light's color, a factor a channel.
    visibility: float  # Meters.


def draw_weather(rng: Rng) -> Weather:
    """Draws a clear, cloudy, overcast or evening sky."""
    kind = rng.choice(["clear", "cloudy", "overcast", "evening"], p=[0.35, 0.3, 0.2, 0.15])
    sky, haze, cover, contrast, gain = {
        "clear": ((84, 132, 196), (196, 212, 226), 0.25, 0.28, (1.05, 1.02, 0.98)),
        "cloudy": ((104, 142, 190), (200, 208, 216), 0.7, 0.15, (1.0, 1.0, 1.0)),
        "overcast": ((160, 168, 176), (198, 200, 202), 1.1, 0.04, (0.9, 0.92, 0.94)),
        "evening": ((96, 104, 150), (226, 186, 150), 0.5, 0.3, (0.95, 0.84, 0.74)),
    }[kind]
    cover *= rng.uniform(0.8, 1.2)
    sun = 1 + float(rng.choice([-1, 1])) * contrast
    exposure = rng.uniform(0.8, 1.12)
    red, green, blue = (g * exposure for g in gain)
    return Weather(sky, haze, cover, sun, (red, green, blue), rng.uniform(90, 320))


def cast_shadows(canvas: Canvas, rng: Rng, street: Street, sun: float) -> None:
    """Darkens the ground on the side away from the sun, softly, before anything stands on it."""
    strength = abs(sun - 1)
    if strength < 0.1:
        return
    side = 1 if sun > 1 else 0
    mask = Image.new("L", (canvas.width, canvas.height), 255)
    draw, edge = ImageDraw.Draw(mask), street.edge(side)
    z = 1.0
    while z < 120:
        depth = rng.uniform(8, 20)
        reach = edge * rng.uniform(0.1, 0.9)
        if street.built[side] or rng.random() < 0.3:
            outline = canvas.project(ground(edge * 3, reach, z, z + depth))
            draw.polygon(outline, int(255 * (1 - 1.5 * strength)))
        z += depth
    # The ground only: what lies above the horizon is sky and skyline.
    mask.paste(255, (0, 0, canvas.width, int(canvas.view.horizon * canvas.height) + 1))
    mask = mask.filter(ImageFilter.BoxBlur(max(1, canvas.height // 200))).resize(canvas.image.size)
    canvas.replace_image(ImageChops.multiply(canvas.image, Image.merge("RGB", (mask,) * 3)))


def expose(image, label, rng: Rng, gain) -> UInt8[np.ndarray, "h w 3"]:
    """Adds each material's grain, the light's color, a vignette and sensor noise."""
    height, width = label.shape
    amount = np.full(256, _OTHER_GRAIN, np.float32)
    amount[list(_GRAIN)] = list(_GRAIN.values())
    grain = rng.standard_normal((height, width), np.float32)
    coarse = Image.fromarray(rng.standard_normal((height // 3 + 1, width // 3 + 1), np.float32))
    grain = 0.55 * grain + np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    vignette = 1 - 0.1 * (rows[:, None] ** 2 + columns**2).astype(np.float32)
    lit = image + (grain * amount[label])[..., None]
    lit *= vignette[..., None]
    lit *= np.asarray(gain, np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)
