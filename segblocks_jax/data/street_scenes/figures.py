"""People, riders, bicycles and motorcycles: flat shapes that face the camera."""

import numpy as np

from segblocks_jax.data.street_scenes.canvas import Canvas, Id, Meters, Rng, shade, varied

_CLOTHES = np.array(
    [
        (40, 44, 60), (120, 30, 34), (60, 90, 130), (190, 186, 176), (80, 70, 60),
        (36, 36, 38), (170, 120, 40), (70, 100, 70), (150, 80, 110),
    ]
)  # fmt: skip
_SKIN = np.array([(224, 182, 150), (196, 144, 108), (140, 94, 66), (92, 62, 46)])
_HAIR = np.array([(40, 28, 22), (90, 62, 40), (24, 22, 22), (150, 120, 80), (120, 118, 116)])
_TIRE = (24, 24, 26)


def _pick(rng: Rng, colors):
    return varied(rng, colors[rng.integers(len(colors))], 0.2)


def person(canvas: Canvas, rng: Rng, x: Meters, z: Meters) -> None:
    """Paints a standing or walking person of 1.1 to 1.9 m."""
    size = rng.choice([rng.uniform(1.55, 1.9), rng.uniform(1.1, 1.4)], p=[0.88, 0.12])
    top, trousers, skin = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES), _pick(rng, _SKIN)
    step, swing = rng.uniform(-0.16, 0.16) * size, rng.uniform(-0.08, 0.08) * size

    def part(outline, color):
        scaled = [(size * dx, size * y) for dx, y in outline]
        canvas.upright(x, z, scaled, color, Id.PERSON)

    canvas.disc(x, 0.01, z, 0.2 * size, (44, 44, 48), aspect=0.15)
    for foot, color in ((step / size, shade(trousers, 0.75)), (-step / size, trousers)):
        part([(foot - 0.045, 0), (foot + 0.05, 0), (0.075, 0.5), (-0.075, 0.5)], color)
    hand = swing / size
    part([(-0.1, 0.8), (-0.15, 0.78), (-0.17 + hand, 0.45), (-0.12 + hand, 0.45)], shade(top, 0.8))
    part([(0.1, 0.8), (0.15, 0.78), (0.17 - hand, 0.45), (0.12 - hand, 0.45)], shade(top, 0.8))
    part([(-0.09, 0.46), (0.09, 0.46), (0.13, 0.8), (0.05, 0.85), (-0.05, 0.85), (-0.13, 0.8)], top)
    canvas.disc(x, 0.92 * size, z, 0.058 * size, _pick(rng, _HAIR), Id.PERSON, aspect=1.3)
    canvas.disc(x, 0.905 * size, z - 0.01, 0.048 * size, skin, Id.PERSON, aspect=1.2)


def bicycle(canvas: Canvas, rng: Rng, x: Meters, z: Meters, across: bool) -> None:
    """Paints a bicycle from the side (across) or from behind."""
    frame = [0.6 * c + 60 for c in _pick(rng, _CLOTHES)]
    if not across:
        canvas.disc(x, 0.34, z, 0.07, _TIRE, Id.BICYCLE, aspect=4.8)
        canvas.line((x, 0.5, z), (x, 1.0, z), 0.06, frame, Id.BICYCLE)
        canvas.line((x - 0.28, 1.02, z), (x + 0.28, 1.02, z), 0.06, (40, 40, 42), Id.BICYCLE)
        return
    for wheel in (-0.52, 0.52):
        canvas.disc(x + wheel, 0.34, z, 0.34, _TIRE, Id.BICYCLE)
        canvas.disc(x + wheel, 0.34, z, 0.28, (118, 118, 116))
    joints = {"rear": (-0.52, 0.34), "pedal": (-0.05, 0.3), "seat": (-0.2, 0.85)}
    joints |= {"head": (0.38, 0.85), "front": (0.52, 0.34), "bar": (0.34, 1.02)}
    for a, b in (("rear", "pedal"), ("pedal", "seat"), ("rear", "seat"), ("seat", "head"),
                 ("pedal", "head"), ("bar", "front")):  # fmt: skip
        (xa, ya), (xb, yb) = joints[a], joints[b]
        canvas.line((x + xa, ya, z), (x + xb, yb, z), 0.055, frame, Id.BICYCLE)
    canvas.line((x - 0.3, 0.9, z), (x - 0.08, 0.9, z), 0.07, (30, 30, 30), Id.BICYCLE)
    canvas.line((x + 0.26, 1.04, z), (x + 0.44, 1.02, z), 0.05, (30, 30, 30), Id.BICYCLE)


def motorcycle(canvas: Canvas, rng: Rng, x: Meters, z: Meters, across: bool) -> None:
    """Paints a motorcycle from the side (across) or from behind."""
    paint = _pick(rng, _CLOTHES)
    if not across:
        canvas.disc(x, 0.34, z, 0.12, _TIRE, Id.MOTORCYCLE, aspect=2.8)
        body = [(-0.22, 0.4), (0.22, 0.4), (0.2, 0.85), (0.1, 0.98), (-0.1, 0.98), (-0.2, 0.85)]
        canvas.upright(x, z, body, paint, Id.MOTORCYCLE)
        canvas.line((x - 0.36, 1.05, z), (x + 0.36, 1.05, z), 0.07, (40, 40, 42), Id.MOTORCYCLE)
        canvas.polygon([(x - 0.08, 0.7, z), (x + 0.08, 0.7, z), (x + 0.08, 0.8, z),
                        (x - 0.08, 0.8, z)], (200, 30, 24))  # fmt: skip
        return
    for wheel in (-0.68, 0.68):
        canvas.disc(x + wheel, 0.32, z, 0.32, _TIRE, Id.MOTORCYCLE)
        canvas.disc(x + wheel, 0.32, z, 0.18, (120, 122, 126))
    engine = [(-0.4, 0.2), (0.35, 0.2), (0.45, 0.6), (-0.45, 0.6)]
    canvas.upright(x, z, engine, (62, 62, 66), Id.MOTORCYCLE)
    tank = [(-0.85, 0.75), (-0.4, 0.72), (0.0, 0.6), (0.4, 0.62), (0.45, 0.9), (0.1, 0.95)]
    canvas.upright(x, z, [*tank, (-0.1, 0.8), (-0.85, 0.85)], paint, Id.MOTORCYCLE)
    canvas.line((x + 0.68, 0.32, z), (x + 0.38, 1.05, z), 0.08, (90, 92, 96), Id.MOTORCYCLE)
    canvas.line((x + 0.2, 1.08, z), (x + 0.42, 1.04, z), 0.07, (30, 30, 32), Id.MOTORCYCLE)


def rider(canvas: Canvas, rng: Rng, x: Meters, z: Meters, motor: bool) -> None:
    """Paints a bicycle or a motorcycle with its rider, from behind or from the side."""
    across = bool(rng.random() < 0.3)
    (motorcycle if motor else bicycle)(canvas, rng, x, z, across)
    top, trousers, skin = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES), _pick(rng, _SKIN)
    helmet = rng.random() < 0.6 or motor
    head = _pick(rng, _CLOTHES) if helmet else _pick(rng, _HAIR)
    z -= 0.05

    def part(outline, color):
        canvas.upright(x, z, outline, color, Id.RIDER)

    if across:
        legs = [(-0.26, 0.92), (-0.1, 0.92), (0.12, 0.62), (0.0, 0.3), (-0.1, 0.3), (0.0, 0.6)]
        part(legs, trousers)
        part([(-0.3, 0.88), (-0.06, 0.9), (0.22, 1.4), (0.08, 1.52), (-0.08, 1.46)], top)
        canvas.line((x + 0.14, 1.36, z), (x + 0.36, 1.06, z), 0.1, shade(top, 0.8), Id.RIDER)
        x += 0.2
    else:
        for side in (-1, 1):
            leg = [(side * 0.06, 0.95), (side * 0.2, 0.9), (side * 0.19, 0.4), (side * 0.1, 0.35)]
            part(leg, trousers)
            shoulder, hand = (x + side * 0.19, 1.38, z), (x + side * 0.3, 1.04, z)
            canvas.line(shoulder, hand, 0.09, shade(top, 0.8), Id.RIDER)
        part(
            [(-0.17, 0.88), (0.17, 0.88), (0.22, 1.38), (0.1, 1.48), (-0.1, 1.48), (-0.22, 1.38)],
            top,
        )
    canvas.disc(x, 1.62, z, 0.125, head, Id.RIDER, aspect=1.15)
    if across or helmet:
        canvas.disc(x + 0.04 * across, 1.56, z - 0.01, 0.07, skin, Id.RIDER)
