"""What a reshape is in blocks: rows and columns may give pixels to other axes, and take them back."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array

from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.values import Geometry, Map, NotInBlocks

_MERGED = ("n", "h", "w", "hw", "nhw")
_REASON = "it mixes rows, columns and other axes"


@dataclasses.dataclass(frozen=True)
class Regrouped:
    """The axes of a reshaped map, the sides of its blocks, and what makes it where those change."""

    axes: tuple[str, ...]
    side: tuple[int, int]
    run: Callable[[Runtime, Array], Array] | None


def regrouped(value: Map, shape: Sequence[int], geometry: Geometry) -> Regrouped:
    """A map in another shape; NotInBlocks where its blocks would not stay whole."""
    sizes = {
        "n": geometry.images,
        "h": geometry.rows * value.side[0],
        "w": geometry.columns * value.side[1],
    }
    old = [
        (sizes[label] if label != "c" else length, label)
        for length, axis in zip(value.shape, value.axes, strict=True)
        for label in axis
    ]
    old = [(length, label) for length, label in old if length > 1]
    new = [(length, place) for place, length in enumerate(shape) if length > 1]
    axes = ["c"] * len(shape)
    scale = {"h": (1, 1), "w": (1, 1)}
    while old or new:
        these, those = _group(old, new)
        for place, label in _labels(these, those, scale).items():
            axes[place] = label
    if geometry.images == 1 and shape and shape[0] == 1 and axes[0] == "c":
        axes[0] = "n"
    if not {"h", "w"} <= set("".join(axes)):
        raise NotInBlocks("maps of single rows or columns")
    side = []
    for length, label in zip(value.side, "hw", strict=True):
        up, down = scale[label]
        side.append(length * up // down)
        rows = geometry.rows if label == "h" else geometry.columns
        if length * up % (down * geometry.low_factor) or sizes[label] * up % (down * rows):
            raise NotInBlocks(f"groups of {down} pixels don't fit blocks of {length}")
    sides = side[0], side[1]
    made = tuple(axes)
    run = None if sides == value.side else _run(value, shape, made, sides)
    return Regrouped(made, sides, run)


def _group(old: list[Any], new: list[Any]) -> tuple[list[Any], list[Any]]:
    """Takes the first axes of both whose sizes have the same product."""
    these, those = [old.pop(0)], [new.pop(0)]
    while (a := math.prod(s for s, _ in these)) != (b := math.prod(s for s, _ in those)):
        (these.append(old.pop(0)) if a < b else those.append(new.pop(0)))
    return these, those


def _labels(these: list[Any], those: list[Any], scale: dict[str, Any]) -> dict[int, str]:
    """The labels of the new axes of a group, by place."""
    labels = [label for _, label in these]
    if all(label == "c" for label in labels):
        return {}
    if "c" not in labels and (merged := _merged(these, those)) is not None:
        return merged
    (length, label), (first, place) = these[0], those[0]
    if label not in ("h", "w") or any(other != "c" for other in labels[1:]):
        raise NotInBlocks(_REASON)
    if first % length and length % first:
        raise NotInBlocks(_REASON)
    common = math.gcd(first, length)
    scale[label] = first // common, length // common
    return {place: label}


def _merged(these: list[Any], those: list[Any]) -> dict[int, str] | None:
    """Labels where axes of the image are joined or parted as they were."""
    rest, made = list(these), {}
    for length, place in those:
        taken, product = "", 1
        while rest and product < length:
            size, label = rest.pop(0)
            taken, product = taken + label, product * size
        if product != length or taken not in _MERGED:
            return None
        made[place] = taken
    return made


def _run(
    value: Map, shape: Sequence[int], axes: tuple[str, ...], side: tuple[int, int]
) -> Callable[[Runtime, Array], Array]:
    """Reshapes every block as if it were an image."""
    if any(len(a) > 1 for a in (*value.axes, *axes)):
        raise NotInBlocks(_REASON)

    def block(part: Array, own: tuple[int, int], after: tuple[int, int]) -> Array:
        sizes, rest = dict(zip("hw", own, strict=True)), iter(range(3, part.ndim))
        places = {"h": 1, "w": 2}
        order = [next(rest) if a == "c" else places[a] for a in value.axes if a != "n"]
        logical = part.transpose(0, *order)
        sizes = dict(zip("hw", after, strict=True))
        kept = [
            (length if a == "c" else sizes[a], a)
            for length, a in zip(shape, axes, strict=True)
            if a != "n"
        ]
        logical = logical.reshape(part.shape[0], *(length for length, _ in kept))
        labels = [a for _, a in kept]
        others = [i + 1 for i, a in enumerate(labels) if a == "c"]
        return logical.transpose(0, labels.index("h") + 1, labels.index("w") + 1, *others)

    def run(runtime: Runtime, pixels: Array) -> Array:
        high, low = runtime.parts(pixels, value.side)
        return runtime.join(
            block(high, value.side, side), block(low, runtime.low(value.side), runtime.low(side))
        )

    return run
