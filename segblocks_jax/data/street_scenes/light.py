"""Weather, shadows and exposure: what the light does to a scene."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from segblocks_jax.data.street_scenes import ids
from segblocks_jax.data.street_scenes.canvas import Canvas, ground
from segblocks_jax.data.street_scenes.surroundings import Street

_GRAIN = {ids.ROAD: 7.0, ids.SIDEWALK: 6.0, ids.VEGETATION: 15.0, ids.TERRAIN: 12.0, ids.SKY: 1.0}
_OTHER_GRAIN = 3.5


@dataclasses.dataclass(frozen=True)
class Weather:
    """Light and air.

    Attributes:
        sky: color overhead, RGB.
        haze: color at the horizon and of distant things.
        cover: amount of clouds, from 0 to about 1.
        sun: brightness of the fronts on the left; those on the right have 2 - sun.
        gain: the light's color, a factor a channel.
        visibility: meters.
    """

    sky: tuple[int, int, int]
    haze: tuple[int, int, int]
    cover: float
    sun: float
    gain: tuple[float, float, float]
    visibility: float


def draw_weather(rng: np.random.Generator) -> Weather:
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


def cast_shadows(canvas: Canvas, rng: np.random.Generator, street: Street, sun: float) -> None:
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


def expose(image, label, rng: np.random.Generator, gain) -> UInt8[np.ndarray, "h w 3"]:
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
