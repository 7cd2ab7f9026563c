"""Composes and renders a street scene from a seed."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.data.street_scenes import figures, furniture, surroundings, vehicles
from segblocks_jax.data.street_scenes.canvas import Canvas, Id, Rng, Street, View, varied
from segblocks_jax.errors import InputError

_Thing = tuple[float, Callable[[Canvas, Rng], None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene: an RGB image and its official Cityscapes label ids."""

    image: UInt8[np.ndarray, "h w 3"]
    label_ids: UInt8[np.ndarray, "h w"]


def render(seed: int, height: int, width: int) -> Scene:
    """Renders the scene of a seed at a size.

    A street to a vanishing point between houses or greenery, with traffic, people and street furniture at true
    perspective sizes: near the horizon everything is small and dense, the road and the sky are wide and plain. Sizes
    only change the resolution (and, with the aspect, how much is seen left and right), not what is there.

    Args:
        seed: non-negative; the same seed and size give the same pixels.
        height: pixels.
        width: pixels.

    Raises:
        ValueError: negative seed or empty size.
    """
    if seed < 0 or height < 1 or width < 1:
        raise InputError(
            f"render needs seed >= 0 and sizes >= 1, got seed {seed}, {height}x{width}"
        )
    rng = np.random.default_rng([seed, 0])
    street = _street(rng)
    lane = int(rng.integers(street.lanes))
    eye = (street.lane * (lane + 0.5), rng.uniform(1.3, 1.7))
    weather = surroundings.draw_weather(rng)
    view = View(
        focal=rng.uniform(0.95, 1.35),
        horizon=rng.uniform(0.38, 0.46),
        center=rng.uniform(-0.12, 0.12),
        eye=eye,
        haze=weather.haze,
        visibility=weather.visibility,
    )
    canvas = Canvas(view, height, width)
    surroundings.paint_sky(canvas, np.random.default_rng([seed, 1]), weather.sky, weather.cover)
    surroundings.paint_skyline(canvas, np.random.default_rng([seed, 2]))
    surroundings.paint_ground(canvas, np.random.default_rng([seed, 3]), street)
    surroundings.cast_shadows(canvas, np.random.default_rng([seed, 4]), street, weather.sun)
    things = _houses(rng, street, weather.sun) + _borders(rng, street)
    things.sort(key=lambda thing: -thing[0])
    standing = _traffic(rng, street, lane) + _kerbside(rng, street) + _people(rng, street)
    standing.sort(key=lambda thing: -thing[0])
    for i, (_, paint) in enumerate(things + standing):
        # A generator a thing: how much one draws (fewer details when small) doesn't touch others.
        paint(canvas, np.random.default_rng([seed, 5, i]))
    if rng.random() < 0.35:
        _bonnet(canvas, rng)
    image, label = canvas.finished()
    return Scene(
        surroundings.expose(image, label, np.random.default_rng([seed, 6]), weather.gain), label
    )


def _street(rng) -> Street:
    lanes = int(rng.choice([1, 2], p=[0.6, 0.4]))
    lane = rng.uniform(3.0, 3.5)
    green = rng.random(2) < 0.35
    return Street(
        lanes=lanes,
        lane=lane,
        road=lanes * lane + rng.uniform(2.2, 2.8),
        grass=tuple(np.where(rng.random(2) < 0.45, rng.uniform(1.0, 2.6, 2), 0.0).tolist()),
        pavement=tuple(rng.uniform(2.0, 4.2, 2).tolist()),
        built=(not green[0], not green[1]),
    )


def _houses(rng, street, sun: float) -> list[_Thing]:
    things = []
    for side in (0, 1):
        z = rng.uniform(-6, 3)
        while street.built[side] and z < 130:
            depth = rng.uniform(8, 20)
            if rng.random() > 0.1:
                x = street.edge(side) * rng.uniform(1.0, 1.06)
                house = _at(surroundings.building, x, max(z, 0.5), z + depth, (sun, 2 - sun)[side])
                things.append((z, house))
            z += depth
    return things


def _borders(rng, street) -> list[_Thing]:
    """Hedges, walls, fences and trees on the sides without houses, and in some front gardens."""
    kinds = (furniture.hedge, furniture.wall, furniture.fence)
    things = []
    for side in (0, 1):
        if street.built[side]:
            continue
        x, z = street.edge(side), rng.uniform(1, 6)
        while z < 90:
            kind, pieces = kinds[rng.integers(3)], rng.integers(2, 6)
            for _ in range(pieces):
                things.append((z, _at(kind, x, z, z + 4.0)))
                z += 4.0
            z += rng.choice([0.0, rng.uniform(1, 6)])
        for z in np.arange(rng.uniform(6, 14), 140, rng.uniform(5, 11)).tolist():
            beyond = x * rng.uniform(1.2, 2.6)
            things.append((z, _at(furniture.tree, beyond, z)))
    return things


def _at(kind, x, z, *rest):
    return lambda canvas, rng: kind(canvas, rng, x, z, *rest)


def _traffic(rng, street, own_lane: int) -> list[_Thing]:
    """Vehicles in the lanes, parked ones at the kerbs, motorcycles and bicycles among them."""
    things = []
    for direction in (-1, 1):
        for lane in range(street.lanes):
            own = direction == 1 and lane == own_lane
            z = rng.uniform(9, 22) if own else rng.uniform(4, 18)
            density = rng.uniform(6, 30)
            while z < 130:
                x = direction * street.lane * (lane + 0.5) + rng.uniform(-0.3, 0.3)
                length, paint = _moving(rng, x, z, direction == 1)
                things.append((z, paint))
                z += length + 2 + rng.exponential(density)
    for sign in (-1, 1):
        z, chance = rng.uniform(2, 9), rng.uniform(0.0, 0.85)
        while z < 120:
            body = vehicles.CARS[rng.integers(len(vehicles.CARS))]
            if rng.random() < chance:
                x = sign * (street.road - 1.05)
                things.append((z, _car(rng, body, x, z, sign == 1)))
            z += body.length + rng.uniform(0.8, 2.2)
    return things


def _moving(rng, x: float, z: float, away: bool):
    """One vehicle in a lane: (length, painter)."""
    kinds = ["car", "truck", "bus", "train", "motor", "bicycle"]
    kind = rng.choice(kinds, p=[0.6, 0.09, 0.08, 0.06, 0.08, 0.09])
    if kind == "truck":
        return vehicles.TRUCK_LENGTH, _at(vehicles.truck, x, z, away)
    if kind in ("bus", "train"):
        body, label, colors = {
            "bus": (vehicles.BUS, Id.BUS, vehicles.BUS_COLORS),
            "train": (vehicles.TRAM, Id.TRAIN, vehicles.TRAM_COLORS),
        }[kind]
        color = varied(rng, colors[rng.integers(len(colors))], 0.12)
        return body.length, _at(vehicles.vehicle, x, z, body, away, color, label)
    if kind in ("motor", "bicycle"):
        return 2.0, _at(figures.rider, x + 0.8, z, kind == "motor")
    body = vehicles.CARS[rng.integers(len(vehicles.CARS))]
    return body.length, _car(rng, body, x, z, away)


def _car(rng, body, x, z, away):
    color = varied(rng, vehicles.CAR_COLORS[rng.integers(len(vehicles.CAR_COLORS))], 0.15)
    return _at(vehicles.vehicle, x, z, body, away, color, Id.CAR)


def _kerbside(rng, street) -> list[_Thing]:
    """Lamps, lights, signs, trees and parked two-wheelers between kerb and pavement."""
    things = []
    for side, sign in enumerate((-1, 1)):
        x, inward = sign * (street.road + 0.6), -sign
        for z in np.arange(rng.uniform(7, 20), 150, rng.uniform(16, 30)).tolist():
            things.append((z, _at(furniture.lamp, x, z, inward)))
        for z in rng.uniform(6, 70, rng.integers(1, 4)).tolist():
            things.append((z, _at(furniture.traffic_light, x, z, inward)))
        for z in rng.uniform(5, 60, rng.integers(2, 6)).tolist():
            things.append((z, _at(furniture.sign, x + 0.2 * sign, z)))
        if rng.random() < 0.6:
            beside = sign * (street.road + max(0.5 * street.grass[side], 0.9))
            for z in np.arange(rng.uniform(8, 20), 130, rng.uniform(9, 18)).tolist():
                things.append((z, _at(furniture.tree, beside, z)))
        for z in rng.uniform(5, 40, rng.integers(0, 5)).tolist():
            kind = figures.bicycle if rng.random() < 0.6 else figures.motorcycle
            things.append((z, _at(kind, x + 0.4 * sign, z, bool(rng.random() < 0.6))))
    return things


def _people(rng, street) -> list[_Thing]:
    """People on the pavements, in groups, and a few crossing."""
    things = []
    for side, sign in enumerate((-1, 1)):
        inner = street.road + street.grass[side] + 0.5
        outer = abs(street.edge(side)) - 0.4
        for z in rng.uniform(4, 70, rng.integers(3, 10)).tolist():
            for _ in range(rng.integers(1, 4)):
                x, near = sign * rng.uniform(inner, outer), z + rng.uniform(-0.8, 0.8)
                things.append((near, _at(figures.person, x, near)))
    for z in rng.uniform(12, 50, rng.integers(0, 3)).tolist():
        x = rng.uniform(-street.road, street.road)
        things.append((z, _at(figures.person, x, z)))
    return things


def _bonnet(canvas: Canvas, rng) -> None:
    """Paints the own car's bonnet at the bottom, as Cityscapes frames have it."""
    z = 1.0
    low = canvas.view.eye[1] - (1 - canvas.view.horizon) * z / canvas.view.focal
    x = canvas.view.eye[0] - canvas.view.center * z / canvas.view.focal
    rise, half = rng.uniform(0.03, 0.08), rng.uniform(0.6, 0.9)
    across = np.linspace(-half, half, 15)
    top = low + rise * (1 - (across / half) ** 4)
    outline = [(-half, low - 0.2), *zip(across, top, strict=True), (half, low - 0.2)]
    canvas.upright(x, z, outline, (34, 38, 46), Id.EGO_VEHICLE)
